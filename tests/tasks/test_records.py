"""Records: small, plain, and able to say whether what they point to is still there."""

import json
import pickle

import pytest
from pydantic import ValidationError

from denograd_tasks.records import (
    Architecture,
    File,
    Gate,
    InputCheck,
    Quarantined,
    Record,
    Refined,
    Report,
    Snapshot,
    TrainedBackbone,
    Verdict,
    Version,
)
from denograd_tasks.store import Store
from denograd_tasks.tables import put_bytes

TOTALS = {"rows": 200, "moved": 50, "epochs": 7, "eta": 0.05, "status": {"converged": 200}}


@pytest.fixture
def store(root):
    return Store(root)


@pytest.fixture
def file(store):
    return put_bytes(store, b"content", "set/x.bin")


@pytest.fixture
def refined(store):
    files = (
        put_bytes(store, b"data", "data/data/1/part-00000.parquet"),
        put_bytes(store, b"rows", "data/evidence/1/rows.parquet"),
    )
    return Refined(root=store.root, files=files, attempt="1", digest="d", totals=TOTALS)


def gate(**changes):
    return Gate(**{"name": "swd", "value": 0.1, "maximum": 0.15, "passed": True} | changes)


def verdict(*gates):
    return Verdict(
        root="r", files=(File(path="v", sha256="0", bytes=1),), passed=True, gates=gates, docs="d", fidelity={}
    )


def test_an_abstract_record_cannot_be_made(store):
    with pytest.raises(TypeError, match="abstract"):
        Record(root=store.root)


def test_a_record_is_intact_while_its_files_are_as_written(store, file):
    record = Snapshot(root=store.root, files=(file,), digest="d", source="s", rows=1, columns=())
    assert record.intact()
    store.delete(file.path)
    assert not record.intact()
    store.create(file.path, b"contenu")
    assert not record.intact()
    store.delete(file.path)
    store.create(file.path, b"content")
    assert record.intact()


def test_every_file_counts(store, file):
    other = put_bytes(store, b"more", "set/y.bin")
    record = InputCheck(root=store.root, files=(file, other), gates=())
    assert record.intact()
    store.delete(other.path)
    assert not record.intact()


def test_a_file_is_found_by_the_end_of_its_path(store, file):
    other = put_bytes(store, b"more", "set/y.bin")
    record = Report(root=store.root, files=(file, other))
    assert record.file("y.bin") == other
    assert record.page == file


def test_a_backbone_needs_its_finished_run(store, file, home):
    from denograd_tasks.tracking import client, experiment_of

    uri = f"sqlite:///{home}/mlflow/mlflow.db"
    run = client(uri).create_run(experiment_of(uri, "records"))
    record = TrainedBackbone(
        root=store.root,
        files=(file,),
        architecture=Architecture(kind="mlp", input_shape=(1,), outputs=1),
        model_uri="models:/set/1",
        run_id=run.info.run_id,
        tracking_uri=uri,
        digest="b",
        skill={"y": 0.5, "z": 0.25},
        residual_scale=1.0,
        history=((1, 0.5, 0.6), (2, 0.4, 0.5)),
    )
    assert not record.intact()
    client(uri).set_terminated(run.info.run_id, "FINISHED")
    assert record.intact()
    assert record.mean_skill == 0.375
    assert record.describe() == "mlp, held-out R2 0.375 after 2 epochs"
    adopted = record.model_copy(update={"adopted": True, "history": ()})
    assert adopted.describe() == "models:/set/1 as it is, held-out R2 0.375"
    own = Architecture(kind="/a/b/nets.py:Net", input_shape=(1,), outputs=1)
    assert record.model_copy(update={"architecture": own}).kind == "nets.py:Net"
    client(uri).delete_run(run.info.run_id)
    assert not record.intact()
    assert not record.model_copy(update={"run_id": "0" * 32}).intact()


def test_refined_data_are_found_where_they_are(store, refined):
    assert refined.located() == refined.data
    assert refined.quarantined.path == "data/quarantine/1/part-00000.parquet"
    store.create(refined.quarantined.path, b"data")
    assert refined.located() == refined.data
    store.delete(refined.data.path)
    assert refined.located() == refined.quarantined
    assert refined.intact()
    store.delete(refined.rows.path)
    assert not refined.intact()
    store.delete(refined.quarantined.path)
    assert refined.located() is None
    assert not refined.intact()


def test_refined_data_that_were_changed_are_not_found(store, refined):
    store.delete(refined.data.path)
    store.create(refined.data.path, b"dada")
    assert refined.located() is None


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"minimum": None, "maximum": 0.15}, "at most 0.15"),
        ({"minimum": 0.9, "maximum": None}, "at least 0.9"),
        ({"minimum": 0.7, "maximum": 1.1}, "0.7 to 1.1"),
        ({"minimum": 0, "maximum": 0}, "0 to 0"),
        ({"minimum": None, "maximum": None}, "none"),
    ],
)
def test_a_bound_in_words(bounds, words):
    assert gate(**bounds).bound == words


def test_a_verdict_in_words():
    refusing, warned = gate(name="rho", passed=False), gate(name="largest", severity="warning", passed=False)
    assert verdict(gate(), gate()).describe() == "2 of 2 gates passed"
    assert verdict(gate(), refusing, warned).describe() == "1 of 3 gates passed, refused by rho, 1 warnings"
    assert [one.name for one in verdict(gate(), refusing, warned).failed("error")] == ["rho"]
    assert [one.name for one in verdict(gate(), refusing, warned).failed("warning")] == ["largest"]


def test_records_in_words(store, file, refined):
    snapshot = Snapshot(
        root="r", files=(file,), digest="0123456789abcdef", source="s", rows=12345, columns=(("a", "t"),)
    )
    assert snapshot.describe() == "12,345 rows x 1 columns, digest 0123456789ab"
    assert snapshot.run_name("set") == "set-01234567"
    assert refined.describe() == "25% of the rows moved in 7 epochs"
    assert InputCheck(root="r", gates=(gate(), gate())).describe() == "2 checks passed"
    assert InputCheck(root="r", gates=(gate(), gate(passed=False))).describe() == "2 checks, 1 warnings"
    assert Report(root="r", files=(File(path="p", sha256="0", bytes=12_345),)).describe() == "12 kB of HTML"
    assert Quarantined(root="r").describe() == "refused data kept apart, nothing published"
    version = Version(root="r", dataset="set", number=3, digest="d", parent=None)
    assert version.describe() == "published as set@3"
    assert version.model_copy(update={"already": True}).describe() == "already published as set@3"


def test_refined_data_without_rows_have_words():
    totals = TOTALS | {"rows": 0, "moved": 0}
    assert Refined(root="r", attempt="1", digest="d", totals=totals).describe().startswith("0% of the rows")


def test_records_survive_json_and_pickle(refined):
    for record in (refined, verdict(gate(value=None))):
        assert type(record).model_validate(json.loads(record.model_dump_json())) == record
        assert pickle.loads(pickle.dumps(record)) == record


def test_records_refuse_unknown_fields_and_changes(refined):
    with pytest.raises(ValidationError, match="Extra inputs"):
        Refined.model_validate({**refined.model_dump(), "frame": [1, 2]})
    with pytest.raises(ValidationError, match="frozen"):
        refined.attempt = "2"
