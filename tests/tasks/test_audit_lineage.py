"""Where a version comes from: every step as the stages knew it."""

import re
import shutil

from denograd_tasks.audit.lineage import lineage_of
from denograd_tasks.store import Store
from denograd_tasks.versions import canonical, resolve, sealed


def of(audited, number):
    store = Store(audited.root)
    return lineage_of(store, resolve(store, f"readings@{number}"))


def test_every_step_is_as_its_stage_recorded_it(audited):
    for number, run in enumerate(audited.runs, 1):
        found = of(audited, number)
        assert (found.dataset, found.number, found.digest) == ("readings", number, run.version.digest)
        assert found.content == run.refined.digest
        assert (found.origin.uri, found.origin.snapshot) == (run.settings.source, run.snapshot.digest)
        assert (found.origin.rows, found.origin.columns) == (run.snapshot.rows, 6)
        assert found.origin.checks == run.checked.gates
        assert found.gates == run.verdict.gates
        assert (found.model.uri, found.model.digest) == (run.backbone.model_uri, run.backbone.digest)
        assert (found.model.run, found.model.skill) == (run.backbone.run_id, run.backbone.skill)
        assert found.model.trained_on == run.snapshot.digest
        assert not found.model.adopted
        assert found.refinement.moved == run.refined.totals["moved"]
        assert found.run.packages["prefect-denograd"]
        assert found.run.flow_run
        assert (found.run.trigger, found.run.event) == ("command", None)


def test_the_event_of_a_drift_is_told(audited, tmp_path):
    shutil.copytree(audited.root, tmp_path / "published")
    store = Store(str(tmp_path / "published"))
    newest = resolve(store, "readings@4")
    run = newest.content["run"] | {"trigger": "drift", "event": "5b0f"}
    (tmp_path / "published" / newest.path).write_bytes(canonical(sealed(newest.content | {"run": run})))
    found = lineage_of(store, resolve(store, "readings@4")).run
    assert (found.trigger, found.event) == ("drift", "5b0f")


def test_the_report_shows_the_whole_way(audited):
    """As a figure and in words, with what the manifest says."""
    store, run = Store(audited.root), audited.runs[1]
    found, html = of(audited, 2), store.read(run.page.page.path).decode()
    figure = html.partition('<figure class="way">')[2].partition("</figure>")[0]
    titles = re.findall(r"<h3>(.*?)</h3>", figure)
    assert titles == ["Source", "Input checks", "Model", "Refinement", "Gates", "readings"]
    for words in ("5 of 5 passed", "learnt the same data", "denograd", "after readings@1"):
        assert words in figure
    lineage = html.partition('<section id="lineage">')[2].partition("</section>")[0]
    for words in (
        found.origin.uri,
        found.origin.snapshot,
        found.model.digest,
        found.model.run,
        found.content,
        found.run.flow_run,
        found.run.packages["torch"],
        "readings@1, the newest when this was drawn",
        "rows",
        *(check.name for check in found.origin.checks),
        *(gate.name for gate in found.gates),
    ):
        assert words in lineage
    assert "the first version" in store.read(audited.runs[0].page.page.path).decode()


def test_rule_and_noise_are_told(audited):
    assert of(audited, 1).refinement.rule == "denograd"
    assert of(audited, 2).refinement.settings["tau"] == 0.2
    assert of(audited, 1).model.noise == {}
    posterior = of(audited, 3)
    assert posterior.refinement.rule == "posterior"
    assert {name: one.declared for name, one in posterior.model.noise.items()} == dict.fromkeys("aby", 0.3)


def test_versions_are_linked_to_their_parents(audited):
    assert of(audited, 1).parent is None
    for number in (2, 3, 4):
        found, before = of(audited, number), of(audited, number - 1)
        assert (found.parent.number, found.parent.digest) == (number - 1, before.digest)
        assert found.parent.created == before.created


def test_a_parent_that_is_gone_is_told_by_its_digest(audited, tmp_path):
    shutil.copytree(audited.root, tmp_path / "published")
    (tmp_path / "published/readings/versions/00000003.json").unlink()
    store = Store(str(tmp_path / "published"))
    parent = lineage_of(store, resolve(store, "readings@4")).parent
    assert (parent.number, parent.digest, parent.created) == (3, audited.runs[2].version.digest, None)


def test_an_adopted_model_was_trained_on_the_data_of_the_version_that_registered_it(audited, tmp_path):
    shutil.copytree(audited.root, tmp_path / "published")
    store = Store(str(tmp_path / "published"))
    newest, first = resolve(store, "readings@4"), resolve(store, "readings@1")
    for uri, expected in (
        (first.content["model"]["uri"], first.content["source"]["snapshot"]),
        ("models:/elsewhere/1", None),
        ("models:/readings@champion", None),
    ):
        model = newest.content["model"] | {"adopted": True, "uri": uri}
        (tmp_path / "published" / newest.path).write_bytes(canonical(sealed(newest.content | {"model": model})))
        assert lineage_of(store, resolve(store, "readings@4")).model.trained_on == expected
