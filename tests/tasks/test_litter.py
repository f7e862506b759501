"""What may be deleted, and when: never anything that a version names, or that a run could still publish."""

import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from denograd_engine.errors import StoreError
from denograd_tasks.litter import GRACE, LONGEST_RUN, collect, litter_of, littered, require_young
from denograd_tasks.records import File, Snapshot
from denograd_tasks.refusals import keep_intended
from denograd_tasks.stale_results import stale_results
from denograd_tasks.store import Store
from denograd_tasks.versions import commit, newest, read_manifest

SECOND = timedelta(seconds=1)
LATE = LONGEST_RUN + GRACE + 60 * SECOND
GATES = [{"name": "swd", "value": 0.2, "maximum": 0.1, "passed": False}]


@pytest.fixture
def store(root):
    return Store(root)


@pytest.fixture
def later(monkeypatch):
    """Sets the clock of every store ahead."""
    clock = Store.clock

    def set_ahead(by):
        monkeypatch.setattr(Store, "clock", lambda store, folder: clock(store, folder) + by)

    return set_ahead


def hexadecimal(name):
    return hashlib.sha256(name.encode()).hexdigest()


def named(store, name):
    """Everything that a version of a run names, written; as the body of its manifest."""
    attempt = str(uuid.uuid5(uuid.NAMESPACE_URL, name))

    def put(path, **more):
        store.create(path, name.encode())
        return {"path": path, "sha256": hexadecimal(name), "bytes": len(name), **more}

    return {
        "identity": name,
        "files": [put(f"set/data/{attempt}/part-00000.parquet", rows=3)],
        "source": {"files": [put(f"set/snapshots/{hexadecimal(name)}/part-00000.parquet")]},
        "model": {"files": [put(f"set/models/{hexadecimal(name)}/model.pt2")]},
        "evidence": [
            put(f"set/evidence/{attempt}/rows.parquet"),
            put(f"set/evidence/{attempt}/abc/verdict.json"),
            put(f"set/evidence/input-{hexadecimal(name)[:32]}/docs/index.html"),
        ],
        "gates": GATES,
    }


def paths(body):
    groups = (body["files"], body["source"]["files"], body["model"]["files"], body["evidence"])
    return {one["path"] for group in groups for one in group}


def quarantined(store, body):
    """What quarantine makes of a run's result."""
    folder = body["files"][0]["path"].replace("/data/", "/quarantine/").rsplit("/", 1)[0]
    store.create(f"{folder}/part-00000.parquet", b"")
    keep_intended(store, f"{folder}/_evidence/abc", body)
    store.delete(body["files"][0]["path"])
    return folder


def found(store, keep=None):
    return {one.path for one in litter_of(store, "set", keep)}


def test_only_what_nothing_names_is_litter_and_only_once_it_is_old(store, later):
    published, killed = named(store, "published"), named(store, "killed")
    commit(store, "set", published)
    assert found(store) == set()
    later(LONGEST_RUN + GRACE - 60 * SECOND)
    assert found(store) == set()
    later(LATE)
    assert found(store) == paths(killed)
    collect(store, litter_of(store, "set"))
    assert set(store.list("set")) == paths(published) | {"set/versions/00000001.json"}
    assert found(store) == set()


def test_files_that_are_not_ours_stay(store, later):
    body = named(store, "published")
    commit(store, "set", body)
    data = body["files"][0]["path"].rsplit("/", 1)[0]
    theirs = ["set/readme.txt", "set/data/mine.csv", "set/data/other/x", f"{data}/added.parquet", "set/versions/x.tmp"]
    for path in theirs:
        store.create(path, b"")
    later(LATE)
    assert found(store) == set()


def test_a_result_in_quarantine_and_all_that_it_needs_stay_until_they_are_given_up(store, later):
    body = named(store, "refused")
    folder = quarantined(store, body)
    later(LATE)
    assert found(store) == set()
    assert found(store, LATE + timedelta(hours=1)) == set()
    whole = {f"{folder}/part-00000.parquet", f"{folder}/_evidence/abc/manifest.json"}
    spent = litter_of(store, "set", LATE - timedelta(hours=1))
    assert {one.path for one in spent} == whole | paths(body) - {body["files"][0]["path"]}
    assert [one.kind for one in spent[:2]] == ["quarantine"] * 2


def test_what_a_quarantined_result_needs_may_be_published_at_any_age(store, later):
    body = named(store, "refused")
    quarantined(store, body)
    store.create(body["files"][0]["path"], b"")
    later(10 * LONGEST_RUN)
    store.delete(body["files"][0]["path"])
    with pytest.raises(StoreError, match="missing"):
        require_young(store, "set", body)
    store.create(body["files"][0]["path"], b"")
    require_young(store, "set", body)


def test_an_old_attempt_is_not_published_and_the_next_run_starts_anew(store, later):
    body = named(store, "slow")
    require_young(store, "set", body)
    later(LONGEST_RUN + GRACE / 2)
    with pytest.raises(StoreError, match="older than 7 days") as caught:
        require_young(store, "set", body)
    assert "wait an hour" in caught.value.remedy
    assert set(store.list("set")) == paths(body)
    later(LATE)
    with pytest.raises(StoreError, match="older than 7 days") as caught:
        require_young(store, "set", body)
    assert "run again" in caught.value.remedy
    assert list(store.list("set")) == []


def test_what_a_version_names_may_be_published_again_at_any_age(store, later):
    body = named(store, "published")
    commit(store, "set", body)
    later(10 * LONGEST_RUN)
    require_young(store, "set", body)


@pytest.mark.parametrize("minutes", range(-90, 180, 30))
def test_what_may_be_published_is_not_deleted_while_its_manifest_is_written(store, later, minutes):
    body = named(store, "slow")
    age = LONGEST_RUN + timedelta(minutes=minutes)
    later(age)
    try:
        require_young(store, "set", body)
    except StoreError:
        assert minutes >= 0
    else:
        later(GRACE - 60 * SECOND)
        assert found(store) == set()


def test_what_a_kill_left_of_a_replacement_is_litter_in_time(store, later):
    store.replace("set/tags/best.json", b"{}")
    store.create(f"set/tags/best.json.{uuid.uuid4()}.new", b"{")
    assert not found(store)
    later(LONGEST_RUN + 2 * GRACE)
    assert {path.rsplit(".", 1)[-1] for path in found(store)} == {"new"}


def test_the_clock_of_the_store_is_asked_and_leaves_nothing(store):
    before = datetime.now(UTC)
    assert abs(store.clock("set") - before) < timedelta(minutes=5)
    assert list(store.list("set")) == []


def test_a_killed_look_at_the_clock_is_litter_itself(store, later):
    store.create(f"set/clock/{uuid.uuid4()}", b"")
    later(LATE)
    assert len(found(store)) == 1


def test_nothing_is_deleted_while_a_manifest_cannot_be_read(store, later):
    named(store, "killed")
    store.create("set/versions/00000001.json", b"{")
    later(LATE)
    with pytest.raises(StoreError, match="damaged"):
        litter_of(store, "set")


def test_data_sets_are_found_published_or_not(store):
    named(store, "killed")
    commit(store, "other", {"identity": "x", "files": []})
    store.create("photos/2024/a.jpg", b"")
    assert littered(store) == ["other", "set"]


def test_time_that_goes_backwards_does_no_harm_to_the_history(store, monkeypatch):
    class Backwards(datetime):
        at = datetime(2030, 1, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz=None):
            cls.at -= timedelta(days=400)
            return cls.at

    monkeypatch.setattr("denograd_tasks.versions.datetime", Backwards)
    for identity in "abc":
        commit(store, "set", {"identity": identity, "files": []})
    manifests = [read_manifest(store, "set", number) for number in (1, 2, 3)]
    assert [one.content["created"][:4] for one in manifests] == ["2028", "2027", "2026"]
    assert [one.content["parent"] for one in manifests] == [None, manifests[0].digest, manifests[1].digest]
    assert newest(store, "set").identity == "c"


def remember(folder, key, path, root):
    """A result as Prefect's JSON keeps it."""
    record = Snapshot(
        root=root, files=(File(path=path, sha256="", bytes=0),), digest="d", source="s", rows=1, columns=()
    )
    plain = {"__class__": "denograd_tasks.records.Snapshot", "data": record.model_dump(mode="json")}
    (folder / key).write_text(json.dumps({"metadata": {}, "result": json.dumps(plain)}))


def test_remembered_results_that_lead_to_nothing_are_found_but_none_that_hides_another(tmp_path):
    store = Store(str(tmp_path / "published"))
    store.create("set/there", b"")
    key, other = f"ingest-{'0' * 64}", f"ingest-{'1' * 64}"
    for name, path in ((key, "gone"), (f"{key}-1", "there"), (f"{key}-2", "gone"), (f"{key}-10", "gone"), (other, "")):
        remember(tmp_path, name, f"set/{path}", store.root)
    remember(tmp_path, f"ingest-{'2' * 64}", "set/gone", str(tmp_path / "elsewhere"))
    (tmp_path / f"ingest-{'3' * 64}").write_text("half writ")
    (tmp_path / "notes-of-mine").write_text("")
    assert {path.name for path in stale_results(tmp_path, store.root)} == {f"{key}-2", f"{key}-10", other}
    assert len(stale_results(tmp_path, store.root, {"set/there"})) == 5
