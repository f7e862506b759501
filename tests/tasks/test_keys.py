"""When a stage's earlier result is used again: what determines it, and what must still be there."""

import asyncio

import pytest
from prefect import flow
from prefect.filesystems import LocalFileSystem

from denograd_engine.errors import DataError
from denograd_tasks import keys
from denograd_tasks.growth import Parent
from denograd_tasks.keys import digest_of, lookup
from denograd_tasks.records import Architecture, File, Refined, Snapshot, TrainedBackbone, Verdict
from denograd_tasks.settings import parse_settings
from denograd_tasks.stages.check_fidelity import check_fidelity
from denograd_tasks.stages.check_input import check_input
from denograd_tasks.stages.ingest import ingest
from denograd_tasks.stages.refine import refine
from denograd_tasks.stages.report import report
from denograd_tasks.stages.train_backbone import train_backbone

pytestmark = pytest.mark.usefixtures("prefect_api")

STAGES = {
    "ingest": ingest,
    "check_input": check_input,
    "train_backbone": train_backbone,
    "refine": refine,
    "check_fidelity": check_fidelity,
    "report": report,
}
ALL = set(STAGES)
CHANGES = {
    "dataset": ({"dataset": "other"}, ALL),
    "columns": ({"columns": {"target": "y", "frozen": "a"}}, {"check_input", "train_backbone", "report"}),
    "bounds": ({"columns": {"target": "y", "bounds": {"a": [0, 1]}}}, {"check_input", "train_backbone", "report"}),
    "key": ({"columns": {"target": "y", "key": "a"}}, {"check_input", "train_backbone", "report"}),
    "mode": ({"mode": "append", "columns": {"target": "y", "key": "a"}}, {"check_input", "train_backbone", "report"}),
    "series": ({"series": {"time": "t", "window": 12}}, {"check_input", "train_backbone", "report"}),
    "noise of a series": ({"series": {"time": "t"}}, {"check_input", "train_backbone", "refine", "report"}),
    "epochs": ({"backbone": {"training": {"epochs": 7}}}, {"train_backbone", "report"}),
    "folds": ({"backbone": {"training": {"folds": 3}}}, {"train_backbone", "report"}),
    "architecture": ({"backbone": {"arguments": {"hidden": [8]}}}, {"train_backbone", "report"}),
    "seed": ({"seed": 1}, {"train_backbone", "report"}),
    "device": ({"device": "cpu"}, {"train_backbone", "refine", "report"}),
    "tau": ({"refine": {"tau": 0.2}}, {"refine", "report"}),
    "deadline": ({"refine": {"deadline": 9}}, {"refine", "report"}),
    "strength": ({"refine": {"strength": 0.5}}, {"refine", "report"}),
    "fewest rows": ({"input": {"min_rows": 51}}, {"check_input", "report"}),
    "gates": ({"gates": {"swd": {"max": 0.2}}}, {"check_fidelity", "report"}),
    "severity": ({"gates": {"swd": {"severity": "warning"}}}, {"check_fidelity", "report"}),
    "when and where": (
        {
            "schedule": {"interval": "1h"},
            "watch": {"cron": "0 * * * *"},
            "work_pool": "other",
            "notify": "slack-webhook/team",
            "on_conflict": "cancel",
        },
        set(),
    ),
    "tracking": ({"tracking": {"uri": "sqlite:///elsewhere.db"}}, {"train_backbone", "report"}),
    "root": ({"publish": {"root": "{tmp}/elsewhere"}}, ALL),
}


@pytest.fixture
def settings(tmp_path):
    """Makes settings for a small file, with changes."""
    source = tmp_path / "data.csv"
    source.write_text("a,y\n1,2\n")

    def settings(**changes):
        plain = {
            "dataset": "set",
            "source": str(source),
            "columns": {"target": "y"},
            "publish": {"root": str(tmp_path / "published")},
            "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
        }
        if "publish" in changes:
            changes["publish"] = {"root": changes["publish"]["root"].format(tmp=tmp_path)}
        return parse_settings(plain | changes)

    return settings


@pytest.fixture
def records(tmp_path):
    """Records as earlier stages leave them, as far as keys look at them."""
    root = str(tmp_path / "published")
    file = File(path="set/x", sha256="0" * 64, bytes=1)
    return {
        "snapshot": Snapshot(root=root, files=(file,), digest="s", source="data.csv", rows=1, columns=()),
        "backbone": TrainedBackbone(
            root=root,
            files=(file,),
            architecture=Architecture(kind="mlp", input_shape=(1,), outputs=1),
            model_uri="models:/set/1",
            run_id="r",
            tracking_uri="t",
            digest="b",
            skill={"y": 0.5},
            residual_scale=1.0,
            history=(),
        ),
        "refined": Refined(root=root, files=(file, file), attempt="1", digest="r", totals={}),
        "verdict": Verdict(root=root, files=(file,), passed=True, gates=(), docs="d", fidelity={}),
    }


def all_keys(settings, records):
    return {name: lookup(stage, {"settings": settings, **records})[0] for name, stage in STAGES.items()}


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_matters_to_the_stages_that_it_determines_and_to_no_other(settings, records, change):
    changes, stages = CHANGES[change]
    before = all_keys(settings(), records)
    assert changed(before, all_keys(settings(**changes), records)) == stages


def test_every_stage_has_a_key_of_its_own_that_stays(settings, records):
    found = all_keys(settings(), records)
    assert all_keys(settings(), records) == found
    assert len(set(found.values())) == len(found)
    assert all(key.startswith(name) for name, key in found.items())


@pytest.mark.parametrize(
    ("record", "changes", "stages"),
    [
        ("snapshot", {"digest": "other"}, ALL - {"ingest"}),
        ("snapshot", {"source": "renamed.csv"}, {"report"}),
        ("backbone", {"digest": "other"}, {"refine", "check_fidelity", "report"}),
        ("snapshot", {"parent": Parent(number=1, digest="p")}, {"train_backbone", "refine", "report"}),
        ("backbone", {"run_id": "other"}, {"report"}),
        ("refined", {"attempt": "2"}, {"check_fidelity", "report"}),
        ("refined", {"strength_chosen": True}, {"check_fidelity"}),
        ("verdict", {"files": (File(path="set/x", sha256="1" * 64, bytes=1),)}, {"report"}),
    ],
)
def test_an_earlier_result_matters_to_the_stages_that_use_it(settings, records, record, changes, stages):
    other = records | {record: records[record].model_copy(update=changes)}
    assert changed(all_keys(settings(), records), all_keys(settings(), other)) == stages


@pytest.mark.parametrize("columns", [{"target": "y"}, {"target": "y", "noise": {"a": 1.0}}])
def test_gates_matter_to_a_refinement_that_goes_as_far_as_they_allow(settings, records, columns):
    auto = {"columns": columns, "refine": {"strength": "auto"}}
    before = all_keys(settings(**auto), records)
    after = all_keys(settings(**auto, gates={"swd": {"max": 0.2}}), records)
    assert changed(before, after) == {"refine", "check_fidelity", "report"}


def test_the_bytes_and_the_place_of_the_source_matter_to_ingestion_alone(settings, records, tmp_path):
    before = all_keys(settings(), records)
    (tmp_path / "copy.csv").write_bytes((tmp_path / "data.csv").read_bytes())
    renamed = all_keys(settings(source=str(tmp_path / "copy.csv")), records)
    (tmp_path / "data.csv").write_text("a,y\n1,3\n")
    edited = all_keys(settings(), records)
    assert changed(before, edited) == {"ingest"}
    assert changed(before, renamed) == {"ingest", "report"}


def test_the_source_of_a_network_matters_to_training_alone(settings, records, tmp_path):
    nets = tmp_path / "nets.py"
    nets.write_text("class Net: ...\n")
    given = settings(backbone={"kind": f"{nets}:Net"})
    before = all_keys(given, records)
    assert all_keys(given, records) == before
    nets.write_text("class Net: pass\n")
    assert changed(before, all_keys(given, records)) == {"train_backbone"}


def test_a_known_truth_matters_to_the_report(settings, records):
    given = {"settings": settings(), **records}
    without = lookup(report, given)[0]
    assert lookup(report, given | {"truth": None})[0] == without
    assert lookup(report, given | {"truth": {"features": 0.5}})[0] != without


def test_an_upgrade_misses(settings, records, monkeypatch):
    before = all_keys(settings(), records)
    monkeypatch.setattr(keys, "__version__", "99.0.0")
    assert changed(before, all_keys(settings(), records)) == ALL


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    variants = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": None}, {"b": 1}, {"a": [1]}, [1], {"a": True}, {}]
    assert len({digest_of(one) for one in variants}) == len(variants)


@pytest.fixture
def run(settings):
    """Runs the ingestion; returns whether an earlier result was reused, and the record."""

    def run(**changes):
        state = ingest(settings(**changes), return_state=True)
        return state.name == "Cached", state.result()

    return run


def test_an_intact_record_is_reused(run, settings):
    first, again = run(), run()
    assert first == (False, again[1])
    assert again[0]
    assert lookup(ingest, {"settings": settings()})[1] == again[1]


def test_a_record_whose_file_is_gone_is_made_again(run, settings, tmp_path):
    _, record = run()
    file = tmp_path / "published" / record.files[0].path
    before, key = file.read_bytes(), lookup(ingest, {"settings": settings()})[0]
    file.unlink()
    assert lookup(ingest, {"settings": settings()}) == (f"{key}-1", None)
    assert run() == (False, record)
    assert file.read_bytes() == before
    assert run() == (True, record)


def test_a_record_whose_file_was_touched_is_not_reused(run, settings, tmp_path):
    _, record = run()
    file = tmp_path / "published" / record.files[0].path
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))
    assert lookup(ingest, {"settings": settings()})[1] is None
    file.unlink()
    assert run() == (False, record)


def test_the_same_data_under_another_name_are_read_again_to_the_same_snapshot(run, settings, tmp_path):
    _, record = run()
    other = tmp_path / "renamed.csv"
    other.write_bytes((tmp_path / "data.csv").read_bytes())
    reused, renamed = run(source=str(other))
    assert not reused
    assert renamed == record.model_copy(update={"source": str(other)})
    trained = {"settings": settings(source=str(other))}
    assert (
        lookup(train_backbone, {**trained, "snapshot": renamed})[0]
        == (lookup(train_backbone, {"settings": settings(), "snapshot": record})[0])
    )


def storage(home):
    return {path: path.read_bytes() for path in (home / "prefect" / "storage").rglob("ingest-*") if path.is_file()}


DAMAGES = {
    "empty": lambda raw: b"",
    "half": lambda raw: raw[: len(raw) // 2],
    "one byte short": lambda raw: raw[:-1],
    "noise": lambda raw: b"\xff" * len(raw),
    "nothing in it": lambda raw: b"{}",
    "another shape": lambda raw: raw.replace(b'"digest', b'"digits'),
    "another type": lambda raw: raw.replace(b"Snapshot", b"Verdict"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_half_written_result_is_as_good_as_none(run, settings, home, damage):
    before = set(storage(home))
    _, record = run()
    (path,) = set(storage(home)) - before
    damaged = DAMAGES[damage](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    assert lookup(ingest, {"settings": settings()})[1] is None
    assert run() == (False, record)
    assert run() == (True, record)


def test_a_flow_that_keeps_its_results_elsewhere_gets_them_from_there(settings, tmp_path):
    given, elsewhere = settings(), LocalFileSystem(basepath=str(tmp_path / "results"))
    elsewhere.save("elsewhere", overwrite=True)

    @flow(result_storage=elsewhere)
    def ingestion():
        reused = []
        for _ in range(2):
            state = ingest(given, return_state=True)
            reused.append(state.name == "Cached")
        artefact = tmp_path / "published" / state.result().files[0].path
        artefact.unlink()
        reused.append(ingest(given, return_state=True).name == "Cached")
        return reused, artefact.exists()

    assert ingestion() == ([False, True, False], True)
    assert lookup(ingest, {"settings": given})[1] is None
    assert list((tmp_path / "results").iterdir())


def test_stages_run_in_asynchronous_flows(settings):
    given = settings()

    @flow
    async def ingestion():
        return ingest(given, return_state=True).name, ingest(given, return_state=True).name

    assert asyncio.run(ingestion()) == ("Completed", "Cached")


def test_a_source_that_is_not_there_is_refused_by_the_stage_itself(run, caplog):
    with pytest.raises(DataError, match="does not exist"):
        run(source="/nowhere/data.csv")
    assert "cache key" not in caplog.text
