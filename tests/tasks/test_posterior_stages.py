"""The rule `posterior` through every stage: what it keeps, what it publishes, and what it never computes twice."""

import json
import math
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support import make_series

from denograd_engine.errors import ConfigError, SchemaError, StoreError
from denograd_tasks import check_input, train_backbone
from denograd_tasks.content import content_digest
from denograd_tasks.posteriors import load_posterior
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store, sha256_of
from denograd_tasks.tables import read_table
from denograd_tasks.tracking import client, fluent
from denograd_tasks.versions import resolve

CACHED = {"ingest", "check_input", "train_backbone", "refine", "check_fidelity", "report"}
QUICK = {"folds": 2, "fewest_steps": 20, "most_steps": 40, "hidden": 16}
NOISE = 0.3


def make_table(rows=300, seed=0):
    """Four measurements of one thing with noise, whole numbers, gaps, and columns that nothing may change."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=rows)
    measured = {name: signal + NOISE * generator.normal(size=rows) for name in ("a", "b", "c", "y")}
    gaps = generator.random(rows) < 0.1
    return pa.table(
        {
            "a": measured["a"],
            "b": pa.array(measured["b"].astype(np.float32), mask=gaps),
            "whole": pa.array(np.round(1000 * measured["c"]).astype(np.int32), mask=gaps[::-1]),
            "site": pa.array(generator.choice(["north", "south"], rows)).dictionary_encode(),
            "y": measured["y"],
            "id": [f"row {row}" for row in range(rows)],
        }
    )


DECLARED = {"target": "y", "ignored": "id", "noise": {"a": NOISE, "b": NOISE, "whole": 1000 * NOISE, "y": NOISE}}


@pytest.fixture(scope="module")
def posterior_settings(make_settings):
    """Makes settings for rule posterior, quick to fit."""

    def make(table, folder=None, refine=None, **changes):
        given = {"dataset": "measured", "columns": DECLARED, "backbone": {}, "tracking": {}} | changes
        if folder is not None and not given["tracking"]:
            given["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
        return make_settings(table, folder, refine={"arguments": QUICK} | (refine or {}), **given)

    return make


@pytest.fixture(scope="module")
def cleaned_table(clean, posterior_settings, tmp_path_factory):
    return clean(posterior_settings(make_table(), tmp_path_factory.mktemp("table")))


@pytest.fixture(scope="module")
def cleaned_series(clean, posterior_settings, tmp_path_factory):
    return clean(
        posterior_settings(
            make_series(400, noise=0.2),
            tmp_path_factory.mktemp("series"),
            dataset="waves",
            columns={"target": "load", "noise": {"wave": 0.2}},
            series={"time": "time", "entity": "entity", "window": 8},
        )
    )


@pytest.fixture(params=["table", "series"])
def ran(request):
    return request.getfixturevalue(f"cleaned_{request.param}")


def again(run, **changes):
    return Settings.model_validate(run.settings.model_dump(mode="json") | changes)


def refining(**changes):
    return {"arguments": QUICK, **changes}


def published(run):
    return read_table(Store(run.refined.root), run.refined.located().path)


def observed(run):
    return read_table(Store(run.snapshot.root), run.snapshot.files[0].path)


def test_it_publishes_a_version_whose_manifest_says_where_it_came_from(ran):
    assert set(ran.states) == CACHED | {"publish"}
    store = Store(ran.version.root)
    content = resolve(store, ran.settings.dataset).content
    named = [*content["files"], *content["source"]["files"], *content["model"]["files"], *content["evidence"]]
    assert all(store.holds(file["path"], file["sha256"]) for file in named)
    assert {*store.list("")} == {file["path"] for file in named} | {f"{ran.settings.dataset}/versions/00000001.json"}
    assert content["model"]["kind"] == content["model"]["architecture"]["kind"] == "posterior"
    assert content["refinement"]["rule"] == "posterior"
    assert content["refinement"]["why"].startswith("columns.noise declares")
    assert content["refinement"]["columns"] == ran.refined.columns
    assert content["model"]["columns"].keys() == ran.backbone.columns.keys()
    assert content["settings"]["refine"]["arguments"] == QUICK


def test_noisy_columns_alone_are_refined_and_types_and_gaps_stay(ran):
    before, after = observed(ran), published(ran)
    assert after.schema == before.schema
    moving = list(ran.refined.columns)
    assert moving == {"measured": ["a", "b", "whole", "y"], "waves": ["wave", "load"]}[ran.settings.dataset]
    assert content_digest(after.drop_columns(moving)) == content_digest(before.drop_columns(moving))
    for name in moving:
        assert after[name].is_null().equals(before[name].is_null())
        assert not after[name].equals(before[name])


def test_it_removes_noise_from_all_columns(cleaned_table):
    signal = np.random.default_rng(0).normal(size=300)
    before, after = observed(cleaned_table), published(cleaned_table)
    for name in ("a", "b", "y"):
        error = [np.nanstd(one[name].to_numpy(zero_copy_only=False) - signal) for one in (before, after)]
        assert error[1] < 0.9 * error[0]


def test_the_record_says_what_each_column_gains(ran):
    columns = ran.backbone.columns
    assert ran.backbone.posterior
    assert ran.backbone.skill == {name: column.skill for name, column in columns.items()}
    for name, column in columns.items():
        assert 0 < column.noise < column.bound
        assert 0 < column.gain < 1
        declared = ran.settings.columns.noise.get(name)
        assert column.declared == declared
        assert declared is None or column.noise <= declared
    for name, one in ran.refined.columns.items():
        assert one["noise"] == columns[name].noise
        noise = max(one["noise"], columns[name].declared or 0.0)
        assert one["expected"] == pytest.approx(math.sqrt(noise**2 - one["std"] ** 2))
    assert "noise left, estimated: " in ran.backbone.describe()
    assert "of the way to what its context says" in ran.refined.describe()


def test_each_row_has_a_summary_and_each_refined_cell_a_std(ran):
    store = Store(ran.refined.root)
    rows, std = (read_table(store, file.path).to_pandas() for file in ran.refined.evidence)
    assert set(rows["status"]) == {"refined"}
    assert int((rows["correction"] > 0).sum()) == ran.refined.totals["moved"] > 0
    before = observed(ran)
    assert list(std.columns) == list(ran.refined.columns)
    for name in std:
        assert np.array_equal(std[name].isna(), before[name].is_null().to_numpy(zero_copy_only=False))
        assert np.sqrt(np.square(std[name]).mean()) == pytest.approx(ran.refined.columns[name]["std"], rel=1e-4)


def test_the_model_is_tracked_and_registered_and_nothing_is_pickled(ran):
    server = client(ran.settings.tracking.uri)
    run = server.get_run(ran.backbone.run_id)
    assert run.data.params["rule"] == "posterior"
    assert {name: run.data.params[name] for name in QUICK} == {name: str(value) for name, value in QUICK.items()}
    for name, column in ran.backbone.columns.items():
        for metric in ("skill", "gain", "noise", "bound"):
            assert run.data.metrics[f"{metric}/{name}"] == getattr(column, metric)
    losses = server.get_metric_history(run.info.run_id, "train_loss")
    assert [one.value for one in losses] == [loss for _, loss, _ in ran.backbone.history]
    assert 1 <= len(losses) <= 101
    assert server.get_model_version_by_alias(ran.settings.dataset, "champion").run_id == run.info.run_id
    assert run.data.tags["denograd.version"] == f"{ran.settings.dataset}@1"
    with fluent(ran.settings.tracking.uri):
        folder = Path(mlflow.artifacts.download_artifacts(ran.backbone.model_uri))
    files = {path.name: path for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "posterior.json", "encoder.json", "MLmodel"} <= files.keys()
    assert not [one for one in files if one.endswith((".pth", ".pkl", ".pickle"))]
    for file in ran.backbone.files:
        assert sha256_of(files[Path(file.path).name]) == file.sha256


def test_the_export_comes_back_as_it_was(ran):
    from denograd_engine.posterior.refining import clean as refine_frame
    from denograd_tasks.tables import to_frame

    model = load_posterior(ran.backbone, "cpu")
    assert list(model.columns) == model.encoder.schema.cells
    frame = refine_frame(to_frame(observed(ran)), model, "cpu").frame
    after = to_frame(published(ran))
    for name in ran.refined.columns:
        pd.testing.assert_series_equal(frame[name], after[name])
    assert all(
        file.path.startswith(f"{ran.settings.dataset}/models/{ran.backbone.digest}/") for file in ran.backbone.files
    )


def test_the_correction_is_a_gate_and_skill_is_none(ran):
    gates = {gate.name: gate for gate in ran.verdict.gates}
    assert "skill" not in gates
    gate = gates["correction"]
    ratios = {name: one["correction"] / one["expected"] for name, one in ran.refined.columns.items()}
    furthest = max(ratios, key=lambda name: abs(math.log(ratios[name])))
    assert gate.value == pytest.approx(ratios[furthest])
    assert f"({furthest})" in gate.meaning
    assert (gate.minimum, gate.maximum, gate.severity) == (0.8, 1.25, "warning")
    assert "tau" not in " ".join(gate.remedy for gate in ran.verdict.gates)


def test_a_correction_that_is_not_as_expected_can_refuse(cleaned_table, clean):
    run = clean(again(cleaned_table, gates={"correction": {"min": 3, "max": 4, "severity": "error"}}))
    assert run.reused == CACHED - {"check_fidelity", "report"}
    assert [gate.name for gate in run.verdict.failed("error")] == ["correction"]
    assert run.kept is not None


def test_other_rules_have_no_such_gate(table_run):
    assert {"skill", "correction"} & {gate.name for gate in table_run.verdict.gates} == {"skill"}


def test_the_page_says_how_sure_the_model_is(ran):
    page = Store(ran.page.root).read(ran.page.page.path).decode()
    assert '<section id="uncertainty">' in page
    assert "of the noise left, estimated" in page
    assert "posterior: columns.noise declares" in page
    assert "epochs" not in page.split('<section id="model">')[1].split("</section>")[0]
    assert ("noise estimated" in page) == (ran.settings.dataset == "waves")


def test_the_same_again_computes_nothing(cleaned_table, clean):
    run = clean(cleaned_table.settings)
    assert run.reused == CACHED
    assert run.version.already


def test_uncertainties_are_published_on_demand_and_fit_nothing_anew(cleaned_table, clean):
    run = clean(again(cleaned_table, refine=refining(uncertainty=True)))
    assert run.reused == {"ingest", "train_backbone"}
    before, after = published(cleaned_table), published(run)
    names = [f"{name}__std" for name in cleaned_table.refined.columns]
    assert after.column_names == [*before.column_names, *names]
    assert content_digest(after.select(before.column_names)) == content_digest(before)
    std = read_table(Store(cleaned_table.refined.root), cleaned_table.refined.file("std.parquet").path)
    for name in cleaned_table.refined.columns:
        assert after[f"{name}__std"].type == pa.float64()
        assert after[f"{name}__std"].is_null().equals(before[name].is_null())
        found, kept = (one.to_numpy(zero_copy_only=False) for one in (after[f"{name}__std"], std[name]))
        np.testing.assert_allclose(found, kept, rtol=1e-6)
    assert [Path(file.path).name for file in run.refined.evidence] == ["rows.parquet"]
    fidelity = {gate.name: gate.value for gate in run.verdict.gates}
    assert fidelity == {gate.name: gate.value for gate in cleaned_table.verdict.gates}
    schema = resolve(Store(run.version.root), "measured").content["schema"]
    assert [column["name"] for column in schema] == after.column_names
    assert [(one["role"], one["of"]) for one in schema[-4:]] == [
        ("uncertainty", name) for name in cleaned_table.refined.columns
    ]
    assert '<section id="uncertainty">' in Store(run.page.root).read(run.page.page.path).decode()


def test_faults_are_repaired_counted_and_kept_without_declared_noise(clean, posterior_settings, tmp_path):
    table = make_table()
    spikes = table["a"].to_numpy().copy()
    spikes[::30] += 20.0
    table = table.set_column(0, "a", pa.array(spikes))
    columns = {"target": "y", "ignored": "id"}
    longer = {**QUICK, "fewest_steps": 60, "most_steps": 200}
    gates = {name: {"severity": "warning"} for name in ("swd", "rho", "std_ratio", "correlation_change")}
    refine = {"faults": True, "arguments": longer}
    run = clean(posterior_settings(table, tmp_path, columns=columns, refine=refine, gates=gates))
    assert [Path(file.path).name for file in run.refined.evidence] == ["rows.parquet", "std.parquet", "faults.parquet"]
    faults = read_table(Store(run.refined.root), run.refined.file("faults.parquet").path)
    assert run.refined.columns["a"]["faults"] == sum(faults["a"].to_pylist())
    found = np.flatnonzero(faults["a"].to_numpy())
    assert len(set(found) & set(range(0, 300, 30))) >= 5
    assert np.abs(published(run)["a"].to_numpy() - spikes)[found].mean() > 10
    page = Store(run.page.root).read(run.page.page.path).decode()
    assert "Faulty cells" in page
    assert "posterior: refine.faults looks for faulty cells" in page


def test_a_name_that_is_taken_is_refused_before_anything_is_fitted(cleaned_table, posterior_settings, tmp_path):
    from denograd_tasks import ingest

    table = make_table(100).append_column("y__std", pa.array(range(100)))
    settings = posterior_settings(table, tmp_path, refine={"uncertainty": True})
    snapshot = ingest.fn(settings)
    with pytest.raises(SchemaError, match="'y__std'") as caught:
        check_input.fn(snapshot, settings)
    assert caught.value.where == "refine.uncertainty"


def test_draws_have_the_spread_that_means_lack(cleaned_table, clean):
    run = clean(again(cleaned_table, refine=refining(draw=True)))
    assert {"ingest", "check_input", "train_backbone"} == run.reused
    assert clean(run.settings).reused == CACHED
    mean, drawn = published(cleaned_table), published(run)
    for name in ("a", "y"):
        assert np.std(drawn[name].to_numpy()) > np.std(mean[name].to_numpy())
        assert run.refined.columns[name]["expected"] == run.refined.columns[name]["noise"]
    ratio = next(gate.value for gate in run.verdict.gates if gate.name == "correction")
    assert 0.8 < ratio < 1.25


KEYS = {
    "fit": ({"refine": refining(arguments={**QUICK, "hidden": 17})}, {"train_backbone"}),
    "rule by name": ({"refine": refining(rule="posterior")}, set()),
    "noise": ({"columns": {**DECLARED, "noise": {"a": 0.1}}}, {"check_input", "train_backbone"}),
    "seed": ({"seed": 1}, {"train_backbone"}),
    "uncertainty": ({"refine": refining(uncertainty=True)}, {"check_input", "refine"}),
    "draw": ({"refine": refining(draw=True)}, {"refine"}),
    "another rule": ({"refine": {"rule": "denograd"}}, {"check_input", "train_backbone", "refine"}),
}


@pytest.mark.parametrize("change", KEYS)
def test_a_setting_matters_to_the_stages_that_it_determines(cleaned_table, change):
    from denograd_tasks import refine
    from denograd_tasks.keys import lookup

    def keys(settings):
        given = {"settings": settings, "snapshot": cleaned_table.snapshot, "backbone": cleaned_table.backbone}
        return {stage.name: lookup(stage, given)[0] for stage in (check_input, train_backbone, refine)}

    changes, stages = KEYS[change]
    before, after = keys(cleaned_table.settings), keys(again(cleaned_table, **changes))
    assert {name for name in before if before[name] != after[name]} == stages


def test_windows_of_a_series_do_not_matter(cleaned_series):
    from denograd_tasks.keys import lookup

    def key(**changes):
        series = cleaned_series.settings.model_dump(mode="json")["series"] | changes
        settings = again(cleaned_series, series=series)
        return lookup(train_backbone, {"settings": settings, "snapshot": cleaned_series.snapshot})[0]

    assert key() == key(window=48, future=[1, 2], stride=3)
    assert key() != key(entity=[])


@pytest.fixture
def copied(cleaned_table, tmp_path):
    """The record of a model whose publishing root is a copy, to be damaged."""
    import shutil

    shutil.copytree(cleaned_table.settings.publish.root, tmp_path / "published")
    return cleaned_table.backbone.model_copy(update={"root": str(tmp_path / "published")})


@pytest.mark.parametrize("name", ["model.safetensors", "posterior.json", "encoder.json"])
@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_damaged_export_is_named(copied, cleaned_table, name, how):
    path = Path(copied.root) / copied.file(name).path
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(bytes(raw[:-9]) if how == "cut" else bytes(raw))
    assert not copied.intact()
    with pytest.raises(StoreError, match="exported model is damaged") as caught:
        load_posterior(copied, "cpu")
    assert caught.value.where.endswith(copied.digest)
    settings = again(cleaned_table, publish={"root": copied.root})
    with pytest.raises(StoreError, match="exported model is damaged"):
        train_backbone.fn(cleaned_table.snapshot, settings)


def test_a_posterior_model_is_no_backbone(cleaned_table):
    settings = again(cleaned_table, backbone={"kind": cleaned_table.backbone.model_uri}, refine={})
    with pytest.raises(ConfigError, match="is no backbone") as caught:
        train_backbone.fn(cleaned_table.snapshot, settings)
    assert "rule posterior" in caught.value.found


def test_only_features_may_have_noise(clean, posterior_settings, tmp_path):
    columns = {"target": "y", "ignored": "id", "noise": {"a": NOISE}}
    run = clean(posterior_settings(make_table(), tmp_path, columns=columns))
    assert list(run.refined.columns) == ["a"]
    assert published(run)["y"].equals(observed(run)["y"])
    assert run.version is not None
    bounds = run.backbone.bounds
    assert list(bounds) == ["b", "whole", "y"]
    assert NOISE < bounds["b"] < observed(run)["b"].to_pandas().std()
    tracked = client(run.settings.tracking.uri).get_run(run.backbone.run_id).data.metrics
    assert tracked["bound/whole"] == bounds["whole"] > 1000 * NOISE


def test_the_plain_description_is_json_that_everything_reads(cleaned_table):
    raw = Store(cleaned_table.backbone.root).read(cleaned_table.backbone.file("posterior.json").path)
    plain = json.loads(raw, parse_constant=pytest.fail)
    assert plain["fit"]["folds"] == 2
    assert plain["refined"] == list(cleaned_table.refined.columns)


def test_a_series_without_declared_noise_is_estimated(clean, posterior_settings, tmp_path):
    run = clean(
        posterior_settings(
            make_series(400, noise=0.2),
            tmp_path,
            dataset="estimated",
            columns={"target": "load"},
            series={"time": "time", "entity": "entity"},
            refine={"rule": "posterior"},
        )
    )
    assert {column.declared for column in run.backbone.columns.values()} == {None}
    for column in run.backbone.columns.values():
        assert 0.1 < column.noise < 0.3
