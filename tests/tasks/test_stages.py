"""The stages in a real flow: what a run leaves behind, what the next one uses again, and what is never lost."""

import json
import re
import warnings
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denograd_engine import __version__
from denograd_engine.errors import ConfigError, DataError, SchemaError, StoreError, TimeAxisError
from denograd_engine.frames import Encoder
from denograd_tasks import check_fidelity, check_input, ingest, publish, quarantine, refine, report, train_backbone
from denograd_tasks.content import content_digest
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store, sha256_of
from denograd_tasks.tables import read_table
from denograd_tasks.tracking import client, experiment_of, fluent, metric_name, run_exists
from denograd_tasks.versions import history, newest, numbers, resolve

CACHED = {"ingest", "check_input", "train_backbone", "refine", "check_fidelity", "report"}
SECRET = "Nobody-may-read-this"


@pytest.fixture(params=["table", "series"])
def ran(request):
    return request.getfixturevalue(f"{request.param}_run")


@pytest.fixture(scope="module")
def small():
    """A table of a feature and a target, quickly cleaned."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(200, 2))
    return pa.table({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] + x[:, 1] + 0.1 * generator.normal(size=200)})


@pytest.fixture(scope="module")
def cleaned_small(clean, make_settings, small, tmp_path_factory):
    """The small table, cleaned once; its folder changes with the tests of this module."""
    return clean(make_settings(small, tmp_path_factory.mktemp("small"), dataset="small"))


def again(run, **changes):
    return Settings.model_validate(run.settings.model_dump(mode="json") | changes)


def contents(run):
    """Digest of every object below the publishing root."""
    store = Store(run.settings.publish.root)
    return {path: store.sha256(path) for path in store.list("")}


def observed_and_refined(run):
    store = Store(run.settings.publish.root)
    return read_table(store, run.snapshot.files[0].path), read_table(store, run.refined.located().path)


def test_every_stage_ran_once_and_published_the_first_version(ran):
    assert set(ran.states) == CACHED | {"publish"}
    assert ran.reused == set()
    assert ran.verdict.passed
    assert (ran.version.number, ran.version.parent, ran.version.already) == (1, None, False)


def test_the_snapshot_is_the_source_under_its_digest(ran):
    source = pq.read_table(ran.settings.source)
    snapshot, _ = observed_and_refined(ran)
    assert ran.snapshot.digest == content_digest(source) == content_digest(snapshot)
    assert ran.snapshot.digest in ran.snapshot.files[0].path
    assert ran.snapshot.rows == source.num_rows
    assert ran.snapshot.columns == tuple((field.name, str(field.type)) for field in snapshot.schema)


def test_published_data_differ_from_the_observed_in_refined_columns_only(ran):
    observed, refined = observed_and_refined(ran)
    encoder = Encoder.from_dict(json.loads(Store(ran.backbone.root).read(ran.backbone.file("encoder.json").path)))
    moving = encoder.schema.refined
    assert moving == {"readings": ["a", "b", "whole", "y"], "waves": ["wave", "load"]}[ran.settings.dataset]
    assert refined.schema == observed.schema
    assert content_digest(refined.drop_columns(moving)) == content_digest(observed.drop_columns(moving))
    for name in moving:
        assert refined[name].is_null().equals(observed[name].is_null())
        assert content_digest(refined.select([name])) != content_digest(observed.select([name]))
    assert ran.refined.digest == content_digest(refined)


def test_published_data_are_ordinary_parquet(ran):
    folder = Path(ran.refined.root) / Path(ran.refined.data.path).parent
    frame = pd.read_parquet(folder)
    assert len(frame) == ran.snapshot.rows
    assert list(frame.columns) == [name for name, _ in ran.snapshot.columns]


def test_each_row_has_a_summary(ran):
    rows = read_table(Store(ran.refined.root), ran.refined.rows.path).to_pandas()
    assert list(rows.columns) == ["status", "iterations", "residual_before", "residual_after", "correction"]
    assert len(rows) == ran.refined.totals["rows"] == ran.snapshot.rows
    assert int((rows["correction"] > 0).sum()) == ran.refined.totals["moved"] > 0
    observed, refined = observed_and_refined(ran)
    moved = np.zeros(len(rows), dtype=bool)
    for name in observed.column_names:
        if pa.types.is_floating(observed[name].type):
            before, after = (one[name].to_numpy() for one in (observed, refined))
            moved |= (before != after) & ~np.isnan(before)
    assert not (moved & (rows["correction"] == 0)).any()


def test_the_manifest_says_where_everything_came_from(ran):
    store = Store(ran.version.root)
    manifest = resolve(store, f"{ran.settings.dataset}@1")
    content = manifest.content
    assert manifest.digest == ran.version.digest
    for file in (*content["files"], *content["source"]["files"], *content["model"]["files"], *content["evidence"]):
        assert store.holds(file["path"], file["sha256"])
        assert store.size(file["path"]) == file["bytes"]
    assert {content["report"], content["docs"]} < {file["path"] for file in content["evidence"]}
    assert content["files"][0]["path"] == ran.refined.data.path
    assert content["files"][0]["rows"] == ran.snapshot.rows
    assert content["content_digest"] == ran.refined.digest
    assert content["source"]["snapshot"] == ran.snapshot.digest
    assert content["source"]["uri"] == ran.settings.source
    assert content["model"]["mlflow_run_id"] == ran.backbone.run_id
    assert content["model"]["uri"] == ran.backbone.model_uri
    assert content["model"]["digest"] == ran.backbone.digest
    assert content["settings"]["columns"]["target"] == list(ran.settings.columns.target)
    assert [gate["name"] for gate in content["gates"]] == [gate.name for gate in ran.verdict.gates]
    assert content["environment"]["packages"]["prefect-denograd"] == __version__
    assert re.fullmatch(r"[0-9a-f-]{36}", content["run"]["flow_run_id"])
    assert [column["name"] for column in content["schema"]] == [name for name, _ in ran.snapshot.columns]
    assert [column["type"] for column in content["schema"]] == [kind for _, kind in ran.snapshot.columns]


def test_nothing_else_is_in_the_root(ran):
    content = resolve(Store(ran.version.root), ran.settings.dataset).content
    named = [*content["files"], *content["source"]["files"], *content["model"]["files"], *content["evidence"]]
    assert set(contents(ran)) == {file["path"] for file in named} | {
        f"{ran.settings.dataset}/versions/00000001.json",
    }


def test_the_verdict_is_written_down_as_it_was_given(ran):
    store = Store(ran.verdict.root)
    plain = json.loads(store.read(ran.verdict.record.path))
    assert plain["passed"] is True
    assert plain["gates"] == [gate.model_dump() for gate in ran.verdict.gates]
    assert plain["fidelity"] == ran.verdict.fidelity
    measured = {gate.name: gate.value for gate in ran.verdict.gates}
    assert measured["skill"] == ran.backbone.mean_skill
    assert measured["swd"] == ran.verdict.fidelity["swd"]
    assert measured["untouched_identical"] == measured["rows_kept"] == 1


def test_evidence_and_manifest_hold_no_cell_of_the_data(table_run):
    store = Store(table_run.verdict.root)
    observed, _ = observed_and_refined(table_run)
    cells = [SECRET, *(repr(value) for value in observed["a"].to_pylist() if value is not None)]
    evidence = [file.path for file in (*table_run.verdict.files, *table_run.checked.files)]
    for path in (*evidence, "readings/versions/00000001.json", table_run.backbone.file("encoder.json").path):
        text = store.read(path).decode("utf-8", errors="ignore")
        assert not [cell for cell in cells if cell in text]


def test_odd_column_names_reach_the_data_docs_escaped(clean, make_settings, small, tmp_path):
    odd = "b <script>alert(1)</script> $x {{y}} 温度"
    table = small.rename_columns(["a", odd, "y"])
    run = clean(make_settings(table, tmp_path, dataset="odd", gates={"skill": {"min": 2}}))
    pages = [file.path for file in run.verdict.files if file.path.endswith(".html")]
    texts = [Store(run.verdict.root).read(path).decode() for path in pages]
    assert any("alert(1)" in text for text in texts)
    assert not any("<script>alert(1)" in text for text in texts)
    assert not run.verdict.passed


def test_artifacts_can_be_looked_at_in_prefect(ran):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    flow_run = resolve(Store(ran.version.root), ran.settings.dataset).content["run"]["flow_run_id"]
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
    with get_client(sync_client=True) as server:
        found = {artifact.key: artifact for artifact in server.read_artifacts(artifact_filter=only)}
    assert set(found) == {"gates", "report", "refinement"}
    rows = json.loads(found["gates"].data)
    assert [row["gate"] for row in rows] == [gate.name for gate in ran.verdict.gates]
    assert Path(ran.page.root, ran.page.page.path).as_uri() in found["report"].data
    assert float(found["refinement"].data) == 100


def test_the_same_again_computes_and_writes_nothing(cleaned_small, clean):
    before = contents(cleaned_small)
    run = clean(cleaned_small.settings)
    assert run.reused == CACHED
    assert (run.version.number, run.version.already) == (1, True)
    assert run.version.digest == cleaned_small.version.digest
    assert contents(run) == before


def test_changed_refinement_uses_the_backbone_again(cleaned_small, clean):
    run = clean(again(cleaned_small, refine={"max_epochs": 15, "tau": 0.11}))
    assert run.reused == {"ingest", "check_input", "train_backbone"}
    assert run.backbone == cleaned_small.backbone
    assert run.version.number == newest(Store(run.version.root), "small").number
    back = clean(cleaned_small.settings)
    assert back.reused == CACHED
    assert (back.version.number, back.version.already) == (run.version.number + 1, False)
    assert back.refined == cleaned_small.refined


def test_changed_gates_judge_again_and_compute_nothing(cleaned_small, clean):
    run = clean(again(cleaned_small, gates={"swd": {"max": 0.16}}))
    assert run.reused == {"ingest", "check_input", "train_backbone", "refine"}


def test_the_same_data_under_another_name_train_nothing(cleaned_small, clean, tmp_path):
    renamed = tmp_path / "renamed.parquet"
    pq.write_table(pq.read_table(cleaned_small.settings.source), renamed, compression="gzip", row_group_size=7)
    run = clean(again(cleaned_small, source=str(renamed)))
    assert run.reused == CACHED - {"ingest", "report"}
    assert run.snapshot.digest == cleaned_small.snapshot.digest
    assert run.snapshot.files == cleaned_small.snapshot.files


def test_history_stays_a_chain(cleaned_small):
    manifests = list(history(Store(cleaned_small.version.root), "small"))
    parents = [manifest.content["parent"] for manifest in manifests]
    assert parents == [None, *(manifest.digest for manifest in manifests[:-1])]


def test_without_prefects_memory_the_result_is_the_same_and_intact(cleaned_small, clean, tmp_path):
    from prefect.settings import PREFECT_HOME, temporary_settings

    clean(cleaned_small.settings)
    before = contents(cleaned_small)
    with temporary_settings({PREFECT_HOME: tmp_path / "prefect"}):
        run = clean(cleaned_small.settings)
        assert run.reused == set()
        assert run.backbone.digest == cleaned_small.backbone.digest
        assert run.refined.attempt == cleaned_small.refined.attempt
        assert run.version.already
        for record in (run.snapshot, run.checked, run.backbone, run.refined, run.verdict, run.page):
            assert record.intact()
        assert clean(cleaned_small.settings).reused == CACHED
    after = contents(run)
    assert {path: after[path] for path in before} == before


def test_mlflow_is_told_again_what_it_missed(cleaned_small, clean):
    run = clean(cleaned_small.settings)
    server = client(run.settings.tracking.uri)
    server.delete_tag(run.backbone.run_id, "denograd.manifest")
    server.set_tag(run.backbone.run_id, "denograd.version", "small@99")
    assert clean(run.settings).version.already
    tags = server.get_run(run.backbone.run_id).data.tags
    assert tags["denograd.manifest"] == run.version.digest
    assert tags["denograd.version"] == f"small@{run.version.number}"


TIGHT = {"swd": {"max": 1e-9}}


def test_a_refused_result_goes_to_quarantine_and_may_be_released(clean, make_settings, small, tmp_path):
    settings = make_settings(small, tmp_path, dataset="small", gates=TIGHT)
    refused = clean(settings)
    store = Store(settings.publish.root)
    assert not refused.verdict.passed
    assert refused.version is None
    assert numbers(store, "small") == []
    assert list(store.list("small/data")) == []
    assert refused.refined.located() == refused.refined.quarantined
    folder = Path(store.uri(refused.refined.quarantined.path)).parent
    assert len(pd.read_parquet(folder)) == 200
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "part-00000.parquet",
        "verdict.json",
        "report.html",
        "manifest.json",
    }
    assert refused.kept.intact()

    asked_again = clean(settings)
    assert asked_again.reused == CACHED
    assert asked_again.kept == refused.kept

    released = clean(again(refused, gates={}))
    assert released.reused == CACHED - {"check_fidelity", "report"}
    assert released.version.number == 1
    assert released.refined.located() == released.refined.data
    manifest = resolve(store, "small")
    assert all(store.holds(file["path"], file["sha256"]) for file in manifest.content["files"])
    assert refused.kept.intact()

    refused_later = clean(settings)
    assert not refused_later.verdict.passed
    assert refused_later.kept.intact()
    assert numbers(store, "small") == [1]
    assert all(store.holds(file["path"], file["sha256"]) for file in manifest.content["files"])
    assert sha256_of(Path(store.uri(released.refined.data.path))) == released.refined.data.sha256

    tighter = clean(again(refused, gates={"rho": {"min": 2}}))
    verdicts = {
        json.loads(store.read(one.files[1].path))["gates"][1]["maximum"] for one in (refused.kept, tighter.kept)
    }
    assert verdicts == {1e-9, 0.15}


def test_a_warning_publishes(cleaned_small, clean):
    run = clean(again(cleaned_small, gates={"swd": {"max": 1e-9, "severity": "warning"}}))
    assert run.verdict.passed
    assert [gate.name for gate in run.verdict.failed("warning")] == ["swd"]
    assert run.version is not None


def test_the_whole_way_into_an_object_store(clean, make_settings, small, tmp_path, s3):
    settings = make_settings(small, tmp_path, dataset="small", publish={"root": s3})
    run = clean(settings)
    store = Store(s3)
    assert run.version.number == 1
    content = resolve(store, "small").content
    assert all(store.holds(file["path"], file["sha256"]) for file in (*content["files"], *content["evidence"]))
    assert read_table(store, content["files"][0]["path"]).num_rows == 200
    assert clean(settings).reused == CACHED
    refused = clean(again(run, gates=TIGHT))
    assert refused.kept.intact()
    assert run.refined.located() == run.refined.data


@pytest.fixture
def copied(cleaned_small, tmp_path):
    """A run whose publishing root is a copy, to be damaged, with its stages as functions to call again."""
    import shutil

    shutil.copytree(cleaned_small.settings.publish.root, tmp_path / "published")
    root = str(tmp_path / "published")
    fields = {
        name: getattr(cleaned_small, name).model_copy(update={"root": root})
        for name in ("snapshot", "checked", "backbone", "refined", "verdict", "page")
    }
    return type(cleaned_small)(settings=again(cleaned_small, publish={"root": root}), **fields)


def damage(record_file, root):
    path = Path(root) / record_file.path
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(bytes(raw))
    return path


def test_a_damaged_snapshot_is_named_and_once_moved_away_written_anew(copied):
    path = damage(copied.snapshot.files[0], copied.snapshot.root)
    assert not copied.snapshot.intact()
    with pytest.raises(StoreError, match="damaged") as caught:
        ingest.fn(copied.settings)
    assert caught.value.where == str(path)
    path.unlink()
    assert ingest.fn(copied.settings) == copied.snapshot
    assert copied.snapshot.intact()


def test_refined_data_that_are_gone_are_named(copied, prefect_api):
    (Path(copied.refined.root) / copied.refined.data.path).unlink()
    given = (copied.snapshot, copied.backbone, copied.refined)
    for use in (
        lambda: check_fidelity.fn(*given, copied.settings),
        lambda: publish.fn(copied.snapshot, copied.checked, *given[1:], copied.verdict, copied.page, copied.settings),
        lambda: quarantine.fn(
            copied.snapshot, copied.checked, *given[1:], copied.verdict, copied.page, copied.settings
        ),
    ):
        with pytest.raises(StoreError, match="refined data are gone") as caught:
            use()
        assert caught.value.where.endswith(copied.refined.data.path)


def test_a_damaged_copy_in_quarantine_costs_no_data(copied):
    store = Store(copied.refined.root)
    store.create(copied.refined.quarantined.path, b"damaged")
    with pytest.raises(StoreError, match="damaged") as caught:
        quarantine.fn(
            copied.snapshot,
            copied.checked,
            copied.backbone,
            copied.refined,
            copied.verdict,
            copied.page,
            copied.settings,
        )
    assert caught.value.where == store.uri(copied.refined.quarantined.path)
    assert copied.refined.located() == copied.refined.data


def test_a_damaged_copy_among_the_data_is_not_published(copied):
    store = Store(copied.refined.root)
    store.create(copied.refined.quarantined.path, store.fetch(copied.refined.data.path, Path()))
    damage(copied.refined.data, copied.refined.root)
    before = numbers(store, "small")
    with pytest.raises(StoreError, match="damaged"):
        publish.fn(
            copied.snapshot,
            copied.checked,
            copied.backbone,
            copied.refined,
            copied.verdict,
            copied.page,
            copied.settings,
        )
    assert numbers(store, "small") == before


def test_a_damaged_export_of_the_same_weights_is_named(copied, prefect_api):
    damage(copied.backbone.file("model.pt2"), copied.backbone.root)
    with pytest.raises(StoreError, match="damaged") as caught:
        train_backbone.fn(copied.snapshot, copied.settings)
    assert copied.backbone.digest in caught.value.where
    runs = client(copied.settings.tracking.uri).search_runs(
        [experiment_of(copied.settings.tracking.uri, "small")], order_by=["attributes.start_time DESC"]
    )
    assert runs[0].info.status == "FAILED"


def test_two_tracking_stores_in_one_process_are_kept_apart(cleaned_small, tmp_path, monkeypatch):
    from denograd_tasks.home import default_tracking_uri

    default = default_tracking_uri()
    other = f"sqlite:///{tmp_path}/other/mlflow.db"
    settings = again(cleaned_small, tracking={"uri": other})
    client(cleaned_small.settings.tracking.uri)
    trained = train_backbone.fn(cleaned_small.snapshot, settings)
    assert run_exists(other, trained.run_id)
    assert not run_exists(cleaned_small.settings.tracking.uri, trained.run_id)
    assert client(other).get_model_version_by_alias("small", "champion").run_id == trained.run_id
    assert trained.digest == cleaned_small.backbone.digest
    assert default_tracking_uri() == default


def test_threads_that_train_at_once_are_kept_apart(cleaned_small, tmp_path, racing):
    given = [
        again(cleaned_small, dataset=f"thread-{at}", tracking={"uri": f"sqlite:///{tmp_path}/{at % 2}/mlflow.db"})
        for at in range(3)
    ]
    trained = racing(lambda at: train_backbone.fn(cleaned_small.snapshot, given[at]), len(given))
    for settings, one in zip(given, trained, strict=True):
        assert run_exists(settings.tracking.uri, one.run_id)
        champion = client(settings.tracking.uri).get_model_version_by_alias(settings.dataset, "champion")
        assert champion.run_id == one.run_id


def test_a_run_of_the_users_own_stays_open(cleaned_small, tmp_path):
    other = f"sqlite:///{tmp_path}/mlflow.db"
    settings = again(cleaned_small, tracking={"uri": other})
    experiment = experiment_of(other, "mine")
    with fluent(other), mlflow.start_run(experiment_id=experiment) as mine:
        trained = train_backbone.fn(cleaned_small.snapshot, settings)
        assert mlflow.active_run().info.run_id == mine.info.run_id
        mlflow.log_metric("still", 1)
    assert client(other).get_run(mine.info.run_id).data.metrics == {"still": 1}
    assert run_exists(other, trained.run_id)


def test_a_run_that_a_killed_process_left_is_ended_by_the_next(cleaned_small, tmp_path):
    other = f"sqlite:///{tmp_path}/mlflow.db"
    settings = again(cleaned_small, tracking={"uri": other})
    first = train_backbone.fn(cleaned_small.snapshot, settings)
    server = client(other)
    server.update_run(first.run_id, status="RUNNING")
    train_backbone.fn(cleaned_small.snapshot, settings)
    assert server.get_run(first.run_id).info.status == "KILLED"


@pytest.mark.parametrize("name", ["a/b", "a//b", "/", "..", "", "100% $ü", "x" * 400])
def test_targets_of_any_name_are_tracked(name, cleaned_small):
    server = client(cleaned_small.settings.tracking.uri)
    run_id = server.create_run(experiment_of(cleaned_small.settings.tracking.uri, "names")).info.run_id
    server.log_metric(run_id, f"skill/{metric_name(name)}", 0.5)
    assert list(server.get_run(run_id).data.metrics.values()) == [0.5]


ODD_COLUMNS = {
    "duration": pa.array(range(120), pa.duration("s")),
    "infinite levels": pa.array([float("inf") if row % 7 == 0 else row % 3 + 0.5 for row in range(120)]),
    "nothing": pa.nulls(120),
    "list": pa.array([[row] for row in range(120)]),
    "struct": pa.array([{"a": row} for row in range(120)]),
    "map": pa.array([[("k", row)] for row in range(120)], pa.map_(pa.string(), pa.int64())),
    "bytes": pa.array([bytes([row]) for row in range(120)]),
    "before Christ": pa.array([-(10**11) + row for row in range(120)], pa.timestamp("s")),
    "codes": pa.array([row % 4 for row in range(120)]).dictionary_encode(),
    "huge": pa.array([2**64 - 1 - row * 10**15 for row in range(120)], pa.uint64()),
    "": pa.array([row % 5 for row in range(120)]),
}


def test_columns_of_any_type_are_fit_to_be_carried_along(make_settings, tmp_path):
    generator = np.random.default_rng(0)
    table = pa.table({"a": generator.normal(size=120), "y": generator.normal(size=120), **ODD_COLUMNS})
    settings = make_settings(table, tmp_path)
    checked = check_input.fn(ingest.fn(settings), settings)
    assert [gate.name for gate in checked.gates if not gate.passed] == ["infinite_cells"]
    assert checked.describe() == "5 checks, 1 warnings"


@pytest.mark.parametrize(
    ("changes", "kind", "problem"),
    [
        ({"columns": {"target": "z"}}, SchemaError, "no column 'z'"),
        ({"columns": {"target": "y", "feature": "a", "frozen": "a"}}, SchemaError, "two roles"),
        ({"input": {"min_rows": 201}}, DataError, "too few rows"),
        ({"series": {"time": "a"}}, TimeAxisError, "ascending"),
    ],
)
def test_unfit_input_is_refused_before_anything_is_trained(cleaned_small, changes, kind, problem):
    with pytest.raises(kind, match=problem):
        check_input.fn(cleaned_small.snapshot, again(cleaned_small, **changes))


def test_stages_are_named_and_imported_lazily():
    import denograd_tasks

    stages = [ingest, check_input, train_backbone, refine, check_fidelity, report, publish, quarantine]
    names = [stage.name for stage in stages]
    assert all(getattr(denograd_tasks, name) is stage for name, stage in zip(names, stages, strict=True))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = denograd_tasks.nothing


NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.layer = nn.Linear(input_shape[0], outputs)

    def forward(self, x):
        return self.layer(x)


class Branching(Net):
    def forward(self, x):
        y = self.layer(x)
        return 2 * y if float(y.detach()[0, 0]) > 1e9 else y
"""
BRISK = {"epochs": 20, "batch_size": 32, "learning_rate": 0.05}


@pytest.fixture
def own(make_settings, small, tmp_path):
    """Makes settings for the small table with a network in a file of the user's, and a tracking store of their own."""
    (tmp_path / "nets.py").write_text(NETS)

    def own(name, **changes):
        backbone = {"kind": f"{tmp_path}/nets.py:{name}", "training": BRISK}
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        return make_settings(small, tmp_path, dataset="own", backbone=backbone, tracking={"uri": uri}, **changes)

    return own


@pytest.mark.parametrize(("name", "file"), [("Net", "model.pt2"), ("Branching", "model.safetensors")])
def test_a_network_of_the_users_goes_all_the_way(clean, own, name, file):
    settings = own(name)
    run = clean(settings)
    assert run.verdict.passed
    assert run.backbone.kind == f"nets.py:{name}"
    assert [Path(one.path).name for one in run.backbone.files] == [file, "encoder.json", "architecture.json"]
    assert clean(settings).reused == CACHED

    server = client(settings.tracking.uri)
    version = server.get_model_version_by_alias("own", "champion")
    assert version.run_id == run.backbone.run_id
    assert {"encoder.json", "architecture.json"} <= {one.path for one in server.list_artifacts(version.run_id)}
    with fluent(settings.tracking.uri):
        folder = Path(mlflow.artifacts.download_artifacts(run.backbone.model_uri))
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {file, "encoder.json", "architecture.json", "MLmodel"} <= files
    assert not [one for one in files if one.endswith((".pth", ".pkl", ".pickle"))]
    assert sha256_of(next(folder.rglob(file))) == run.backbone.weights.sha256


def test_an_edited_network_is_trained_anew(clean, own, tmp_path):
    first = clean(own("Net"))
    (tmp_path / "nets.py").write_text(NETS + "# nothing but a remark\n")
    edited = clean(own("Net"))
    assert edited.reused == {"ingest", "check_input"}
    assert edited.backbone.digest != first.backbone.digest


@pytest.fixture
def adopting(cleaned_small):
    """Makes settings that take a registered model for the small table."""

    def adopting(kind="models:/small@champion", **changes):
        return again(cleaned_small, backbone={"kind": kind}, **changes)

    return adopting


def test_a_registered_model_of_an_earlier_run_is_used_as_it_is(cleaned_small, adopting):
    server = client(cleaned_small.settings.tracking.uri)
    champion = server.get_model_version_by_alias("small", "champion")
    number = champion.version
    before = len(server.search_model_versions("name = 'small'"))
    taken = train_backbone.fn(cleaned_small.snapshot, adopting())
    assert taken.adopted
    assert taken.model_uri == f"models:/small/{number}"
    assert taken.digest == cleaned_small.backbone.digest
    assert taken.files == cleaned_small.backbone.files
    assert taken.skill == pytest.approx(cleaned_small.backbone.skill)
    assert taken.architecture == cleaned_small.backbone.architecture
    assert taken.history == ()
    assert len(server.search_model_versions("name = 'small'")) == before
    assert server.get_model_version_by_alias("small", "champion").version == number
    run = server.get_run(taken.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["kind"] == taken.model_uri
    (model,) = run.inputs.model_inputs
    measured = server.get_logged_model(model.model_id).metrics
    assert {one.run_id for one in measured if one.key == "skill/y"} == {champion.run_id, taken.run_id}


def test_the_version_counts_and_not_the_alias(cleaned_small, adopting, prefect_api):
    from denograd_tasks.keys import lookup

    def key(settings):
        return lookup(train_backbone, {"snapshot": cleaned_small.snapshot, "settings": settings})[0]

    server = client(cleaned_small.settings.tracking.uri)
    number = server.get_model_version_by_alias("small", "champion").version
    assert key(adopting()) == key(adopting(f"models:/small/{number}"))
    assert key(adopting(seed=1)) != key(adopting())
    other = train_backbone.fn(cleaned_small.snapshot, again(cleaned_small, seed=2))
    assert other.model_uri != f"models:/small/{number}"
    assert key(adopting()) != key(adopting(f"models:/small/{number}"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"columns": {"target": "y", "frozen": "a"}}, "features: a, b"),
        ({"columns": {"target": "a"}}, "features: a, b"),
        ({"columns": {"target": "y", "ignored": "a"}}, "features: a, b"),
    ],
)
def test_a_model_of_other_columns_is_refused(cleaned_small, adopting, changes, expected):
    with pytest.raises(ConfigError, match="trained on other columns") as caught:
        train_backbone.fn(cleaned_small.snapshot, adopting(**changes))
    assert caught.value.expected == expected


def test_bounds_of_now_hold_for_an_adopted_model(cleaned_small, adopting):
    bounds = {"a": [-1, 1]}
    taken = train_backbone.fn(cleaned_small.snapshot, adopting(columns={"target": "y", "bounds": bounds}))
    encoder = Encoder.from_dict(json.loads(Store(taken.root).read(taken.file("encoder.json").path)))
    assert (encoder.schema["a"].minimum, encoder.schema["a"].maximum) == (-1, 1)


def logged_elsewhere(settings, module, name, **how):
    """Registers a model as somebody else would."""
    from mlflow.models import infer_signature

    example = np.zeros((2, 2), dtype=np.float32)
    server = client(settings.tracking.uri)
    experiment = experiment_of(settings.tracking.uri, "theirs")
    with fluent(settings.tracking.uri), mlflow.start_run(experiment_id=experiment), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pytorch.log_model(
            module,
            name="theirs",
            registered_model_name=name,
            signature=infer_signature(example, example[:, :1]),
            pip_requirements=["torch"],
            **how,
        )
    return server.search_model_versions(f"name = '{name}'")[0]


def test_a_program_of_somebody_elses_reads_standardised_columns(clean, cleaned_small, adopting):
    import torch

    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.fill_(0.7)
        module.bias.zero_()
    example = np.zeros((2, 2), dtype=np.float32)
    logged_elsewhere(cleaned_small.settings, module, "sum", serialization_format="pt2", input_example=example)
    run = clean(adopting("models:/sum/1", gates={"swd": {"max": 1}}))
    assert run.backbone.skill["y"] > 0.9
    assert run.backbone.kind == run.backbone.model_uri == "models:/sum/1"
    assert not run.backbone.architecture.rebuilt
    assert run.refined.totals["moved"] > 0
    wide = adopting("models:/sum/1", columns={"target": "y", "ignored": "a"})
    with pytest.raises(ConfigError, match="does not fit the data"):
        train_backbone.fn(cleaned_small.snapshot, wide)


class Trap:
    """Leaves a proof where it was unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return (Path.touch, (self.proof,))


def test_a_pickled_model_is_refused_and_not_unpickled(cleaned_small, adopting, tmp_path):
    import torch

    version = logged_elsewhere(cleaned_small.settings, torch.nn.Linear(2, 1), "pickled", serialization_format="pickle")
    with fluent(cleaned_small.settings.tracking.uri):
        place = client(cleaned_small.settings.tracking.uri).get_logged_model(version.source.removeprefix("models:/"))
    (weights,) = Path(place.artifact_location.removeprefix("file://")).rglob("model.pth")
    torch.save(Trap(tmp_path / "proof"), weights)
    with pytest.raises(ConfigError, match="not in the pt2 format") as caught:
        train_backbone.fn(cleaned_small.snapshot, adopting("models:/pickled/1"))
    assert "model.pth" in caught.value.found
    assert "serialization_format='pt2'" in caught.value.remedy
    assert not (tmp_path / "proof").exists()


def test_weights_without_a_program_need_the_class_in_the_configuration(clean, own):
    settings = own("Branching")
    run = clean(settings)
    kept = again(run, backbone={"kind": run.backbone.model_uri})
    with pytest.raises(ConfigError, match="no program, only weights") as caught:
        train_backbone.fn(run.snapshot, kept)
    assert "nets.py:Branching" in caught.value.found


def test_a_network_of_the_users_is_adopted_by_its_program(clean, own, tmp_path):
    run = clean(own("Net"))
    (tmp_path / "nets.py").unlink()
    taken = train_backbone.fn(run.snapshot, again(run, backbone={"kind": run.backbone.model_uri}))
    assert taken.digest == run.backbone.digest
    assert taken.skill == pytest.approx(run.backbone.skill)


@pytest.mark.parametrize("kind", ["models:/nothing/1", "models:/small/999", "models:/small@nobody"])
def test_a_model_that_is_not_registered_is_named(cleaned_small, adopting, kind):
    with pytest.raises(ConfigError, match=f"no model '{kind}' in the registry"):
        train_backbone.fn(cleaned_small.snapshot, adopting(kind))
