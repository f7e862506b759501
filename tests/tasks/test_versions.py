"""Manifests: each exists once, follows its parent without a gap, and is found by name."""

import hashlib
import json
import multiprocessing

import pytest

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.store import Store, open_store
from denograd_tasks.versions import (
    FORMAT_VERSION,
    commit,
    datasets,
    history,
    manifest_path,
    newest,
    numbers,
    read_manifest,
    resolve,
)


def body(identity, **fields):
    return {"identity": identity, "files": [{"path": f"set/data/{identity}/part-00000.parquet"}], **fields}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "published"))


@pytest.fixture
def three(store):
    """A store with three versions."""
    for identity in "abc":
        commit(store, "set", body(identity))
    return store


def require_unbroken_chain(store, dataset, length):
    parent = None
    manifests = list(history(store, dataset))
    assert [manifest.number for manifest in manifests] == list(range(1, length + 1))
    for manifest in manifests:
        raw = store.read(manifest.path)
        assert manifest.content == json.loads(raw)
        assert manifest.content["parent"] == parent
        assert manifest.content["format_version"] == FORMAT_VERSION
        assert manifest.content["dataset"] == manifest.dataset == dataset
        assert manifest.digest == hashlib.sha256(raw).hexdigest()
        parent = manifest.digest


def test_the_first_version_has_no_parent(store):
    assert newest(store, "set") is None
    made = commit(store, "set", body("a", note="kept"))
    assert not made.already
    assert (made.manifest.number, made.manifest.content["parent"]) == (1, None)
    assert made.manifest.content["note"] == "kept"
    assert made.manifest == newest(store, "set") == read_manifest(store, "set", 1)


def test_manifests_form_a_chain_of_digests(three):
    require_unbroken_chain(three, "set", 3)
    assert numbers(three, "set") == [1, 2, 3]


def test_a_change_in_an_old_manifest_breaks_the_chain(three):
    path = three.local / manifest_path("set", 2)
    path.write_text(path.read_text().replace('"identity": "b"', '"identity": "x"'))
    first, second, third = history(three, "set")
    assert second.content["parent"] == first.digest
    assert third.content["parent"] != second.digest


def test_the_same_result_is_not_published_twice(three):
    again = commit(three, "set", body("c", note="another run"))
    assert again.already
    assert again.manifest == newest(three, "set")
    assert numbers(three, "set") == [1, 2, 3]


def test_going_back_to_an_older_result_is_a_new_version(three):
    made = commit(three, "set", body("a"))
    assert (made.already, made.manifest.number) == (False, 4)


def test_data_sets_are_numbered_apart(three):
    assert commit(three, "other", body("a")).manifest.number == 1
    assert commit(three, "set2", body("a")).manifest.number == 1
    assert commit(three, "set", body("d")).manifest.number == 4


def test_the_body_that_was_given_is_left_alone(store):
    given = body("a")
    commit(store, "set", given)
    assert given == body("a")


def test_a_body_cannot_lie_about_its_place_in_the_history(three):
    made = commit(three, "set", body("d", number=99, parent="x", dataset="y", format_version=0))
    assert (made.manifest.number, made.manifest.dataset) == (4, "set")
    require_unbroken_chain(three, "set", 4)


def test_racing_publishers_get_numbers_without_gaps(root, racing):
    publishers = 30
    made = racing(lambda at: commit(open_store(root), "set", body(f"result {at}")), publishers)
    assert sorted(one.manifest.number for one in made) == list(range(1, publishers + 1))
    assert not any(one.already for one in made)
    store = open_store(root)
    require_unbroken_chain(store, "set", publishers)
    for at, one in enumerate(made):
        assert read_manifest(store, "set", one.manifest.number).identity == f"result {at}"


def test_of_racing_publishers_of_one_result_exactly_one_publishes(root, racing):
    made = racing(lambda at: commit(open_store(root), "set", body("same", run=at)), 30)
    assert sorted(one.already for one in made) == [False] + [True] * 29
    assert {one.manifest.digest for one in made} == {newest(open_store(root), "set").digest}
    assert numbers(open_store(root), "set") == [1]


def publish_some(root, publisher, count, go):
    store = open_store(root)
    go.wait(60)
    return [commit(store, "set", body(f"{publisher}-{at}")).manifest.number for at in range(count)]


def test_racing_processes_get_numbers_without_gaps(tmp_path):
    root, publishers, count = str(tmp_path / "published"), 4, 10
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(publishers) as pool:
        go = manager.Barrier(publishers)
        made = pool.starmap(publish_some, [(root, publisher, count, go) for publisher in range(publishers)])
    assert sorted(number for one in made for number in one) == list(range(1, publishers * count + 1))
    assert all(one == sorted(one) for one in made)
    require_unbroken_chain(open_store(root), "set", publishers * count)


def test_a_name_alone_is_the_newest_version(three):
    assert resolve(three, "set").number == 3
    assert resolve(three, "set@2").number == resolve(three, "set@02").number == 2


@pytest.mark.parametrize("name", ["", "Set", "set@", "set@X", "set@-1", "set@1@2", "../set", "a/b", "set 1", "@1"])
def test_a_malformed_name_is_refused(three, name):
    with pytest.raises(ConfigError, match="no name of a version") as caught:
        resolve(three, name)
    assert caught.value.found == name


def test_an_unknown_data_set_is_told_which_there_are(three):
    commit(three, "another", body("a"))
    with pytest.raises(StoreError, match="no published data set 'sett'") as caught:
        resolve(three, "sett")
    assert caught.value.found == "another, set"
    assert caught.value.where == three.root


def test_an_empty_root_is_told_to_be_empty(store):
    with pytest.raises(StoreError) as caught:
        resolve(store, "set@1")
    assert caught.value.found == "none at all"
    assert "denograd run" in caught.value.remedy


@pytest.mark.parametrize("number", [0, 4, 10**9])
def test_an_unknown_version_is_told_which_there_are(three, number):
    with pytest.raises(StoreError, match=f"'set' has no version {number}") as caught:
        resolve(three, f"set@{number}")
    assert caught.value.found == "versions 1 to 3"


def test_data_sets_are_those_with_a_version(three):
    three.create("unpublished/data/x/part-00000.parquet", b"")
    three.create("half/versions/note.txt", b"")
    three.create("half/versions/1.json", b"")
    commit(three, "another.set-2", body("a"))
    assert datasets(three) == ["another.set-2", "set"]
    assert numbers(three, "half") == []


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, None, "1"])
def test_a_format_from_the_future_is_refused(three, version):
    content = {**body("d"), "format_version": version, "number": 4, "dataset": "set"}
    three.create(manifest_path("set", 4), json.dumps(content).encode())
    for use in (
        lambda: resolve(three, "set"),
        lambda: commit(three, "set", body("e")),
        lambda: list(history(three, "set")),
    ):
        with pytest.raises(StoreError, match="does not know") as caught:
            use()
        assert caught.value.found == str(version)
        assert "upgrade" in caught.value.remedy
    assert resolve(three, "set@3").number == 3
    assert numbers(three, "set") == [1, 2, 3, 4]


@pytest.mark.parametrize("raw", [b"", b'{"format_version": 1', b"[1]", b"null", b"\xff\xfe"])
def test_a_damaged_manifest_is_named(three, raw):
    three.create(manifest_path("set", 4), raw)
    with pytest.raises(StoreError, match="damaged") as caught:
        resolve(three, "set")
    assert caught.value.where == three.uri(manifest_path("set", 4))


def test_a_missing_manifest_is_an_error(three):
    with pytest.raises(StoreError, match="missing"):
        read_manifest(three, "set", 7)
