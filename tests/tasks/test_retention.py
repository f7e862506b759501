"""Retention: older versions give up their tables, and nothing that anybody else has is deleted."""

import hashlib
import json
import uuid

import pytest

from denograd_engine.errors import StoreError
from denograd_tasks.litter import LONGEST_RUN, litter_of
from denograd_tasks.refusals import keep_intended
from denograd_tasks.removals import claimed, is_published, removal_of, removal_path, removals, require_tables
from denograd_tasks.retention import outdated, retention_of, retire, tag_version
from denograd_tasks.rollback import roll_back
from denograd_tasks.store import Store
from denograd_tasks.tags import put_tag
from denograd_tasks.versions import commit, history, resolve


def hexadecimal(name):
    return hashlib.sha256(name.encode()).hexdigest()


def body(store, name, snapshot=None, retention=None):
    """What a run publishes, written, as the body of its manifest."""
    attempt, observed = str(uuid.uuid5(uuid.NAMESPACE_URL, name)), snapshot or name

    def put(path, text, **more):
        store.create(path, text.encode())
        return {"path": path, "sha256": hexadecimal(text), "bytes": len(text), **more}

    return {
        "identity": name,
        "files": [put(f"set/data/{attempt}/part-00000.parquet", name, rows=3)],
        "source": {"files": [put(f"set/snapshots/{hexadecimal(observed)}/part-00000.parquet", observed)]},
        "model": {
            "files": [put(f"set/models/{hexadecimal(name)}/model.pt2", name)],
            "tracking_uri": "sqlite:////nowhere/mlflow.db",
            "mlflow_run_id": "none",
        },
        "evidence": [
            put(f"set/evidence/{attempt}/rows.parquet", name),
            put(f"set/evidence/{attempt}/abc/verdict.json", name),
        ],
        "gates": [],
        "settings": {"mode": "full", "publish": {} if retention is None else {"retention": retention}},
    }


@pytest.fixture
def store(root):
    return Store(root)


@pytest.fixture
def four(store):
    """Four versions; the first two are of one snapshot."""
    for name, snapshot in (("a", "s"), ("b", "s"), ("c", None), ("d", None)):
        commit(store, "set", body(store, name, snapshot, retention=2))
    return store


def tables(manifest):
    plain = (*manifest.content["files"], *manifest.content["source"]["files"], *manifest.content["evidence"])
    return {one["path"] for one in plain if one["path"].endswith(".parquet")}


def whole(store, manifest):
    return all(store.size(path) is not None for path in tables(manifest))


def apply(store, keep):
    found = outdated(store, "set", keep)
    retire(store, "set", found)
    return found


def test_the_last_so_many_keep_their_tables_and_the_others_keep_all_the_rest(four):
    before = set(four.list("set"))
    manifests = list(history(four, "set"))
    found = outdated(four, "set", 2)
    assert found.numbers == (1, 2)
    assert set(found.paths) == tables(manifests[0]) | tables(manifests[1])
    assert found.bytes == 5
    assert set(four.list("set")) == before

    retire(four, "set", found)
    assert set(four.list("set")) == before - set(found.paths) | {removal_path("set", number) for number in (1, 2)}
    assert [whole(four, one) for one in manifests] == [False, False, True, True]
    assert outdated(four, "set", 2).numbers == ()
    removal = removals(four, "set")[1]
    assert (removal.manifest, removal.kept, removal.sealed) == (manifests[0].digest, 2, True)
    assert removal.by
    require_tables(four, manifests[2])
    with pytest.raises(StoreError, match="the data of set@1 were removed by retention") as caught:
        require_tables(four, manifests[0])
    assert "retention kept 2" in caught.value.found


def test_without_the_setting_nothing_is_removed_and_the_last_run_says_what_it_is(four):
    assert retention_of(four, "set") == 2
    assert retention_of(four, "other") is None
    assert apply(four, None).numbers == ()
    assert all(whole(four, one) for one in history(four, "set"))
    roll_back(four, resolve(four, "set@1"), "because")
    commit(four, "set", body(four, "e", retention=3))
    roll_back(four, resolve(four, "set@1"), "because")
    assert retention_of(four, "set") == 3


def test_a_snapshot_goes_with_the_last_version_that_has_it(four):
    manifests = list(history(four, "set"))
    apply(four, 3)
    shared = manifests[0].content["source"]["files"][0]["path"]
    assert four.size(shared) is not None
    assert removal_of(four, manifests[0]).number == 1
    apply(four, 2)
    assert four.size(shared) is None


def test_a_tagged_version_stays(four):
    tag_version(four, resolve(four, "set@1"), "audit", move=False)
    assert apply(four, 1).numbers == (2, 3)
    assert [whole(four, one) for one in history(four, "set")] == [True, False, False, True]
    with pytest.raises(StoreError, match="has given up its data"):
        tag_version(four, resolve(four, "set@2"), "late", move=False)


def test_a_version_that_is_tagged_while_retention_is_at_work_stays(four):
    found = outdated(four, "set", 2)
    put_tag(four, "set", "audit", 1, move=False)
    retire(four, "set", found)
    assert [whole(four, one) for one in history(four, "set")] == [True, False, True, True]
    assert set(removals(four, "set")) == {2}


def test_what_a_version_has_that_came_meanwhile_stays(four):
    found = outdated(four, "set", 2)
    roll_back(four, resolve(four, "set@1"), "because")
    retire(four, "set", found)
    newest = resolve(four, "set")
    assert newest.origin == 1
    assert whole(four, newest)
    require_tables(four, resolve(four, "set@1"))
    assert not whole(four, resolve(four, "set@2"))


def test_what_a_rollback_has_stays_as_long_as_the_rollback(four):
    roll_back(four, resolve(four, "set@1"), "because")
    assert apply(four, 1).numbers == (1, 2, 3, 4)
    assert [whole(four, one) for one in history(four, "set")] == [True, False, False, False, True]
    commit(four, "set", body(four, "e"))
    apply(four, 1)
    assert [whole(four, one) for one in history(four, "set")] == [False] * 5 + [True]
    with pytest.raises(StoreError, match="set@1 were removed by retention"):
        roll_back(four, resolve(four, "set@5"), "too late")


def test_what_a_refused_result_needs_stays(four):
    first = resolve(four, "set@1")
    refused = body(four, "refused", "s")
    folder = refused["files"][0]["path"].replace("/data/", "/quarantine/").rsplit("/", 1)[0]
    keep_intended(four, f"{folder}/_evidence/abc", refused)
    apply(four, 1)
    assert four.size(first.content["source"]["files"][0]["path"]) is not None
    assert four.size(first.content["files"][0]["path"]) is None


def test_a_table_that_was_given_up_and_is_computed_again_is_no_version_s_until_it_is_published(four):
    path = resolve(four, "set@1").content["files"][0]["path"]
    assert is_published(four, "set", path)
    apply(four, 2)
    again = body(four, "a", "s")
    assert four.size(path) is not None
    assert not is_published(four, "set", path)
    commit(four, "set", again)
    assert is_published(four, "set", path)
    require_tables(four, resolve(four, "set@1"))
    assert path in claimed(four, "set")


def test_what_is_left_by_retention_that_was_killed_is_litter(four, monkeypatch):
    found = outdated(four, "set", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", lambda store, path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            retire(four, "set", found)
    assert all(whole(four, one) for one in history(four, "set"))
    assert set(removals(four, "set")) == {1, 2}
    assert litter_of(four, "set") == []
    clock = Store.clock
    monkeypatch.setattr(Store, "clock", lambda store, folder: clock(store, folder) + 2 * LONGEST_RUN)
    assert {one.path for one in litter_of(four, "set")} == set(found.paths)


def test_nothing_is_removed_while_what_was_removed_cannot_be_read(four):
    four.create(removal_path("set", 1), json.dumps({"number": 1}).encode())
    with pytest.raises(StoreError, match="cannot be read"):
        outdated(four, "set", 1)
    assert all(whole(four, one) for one in history(four, "set"))
