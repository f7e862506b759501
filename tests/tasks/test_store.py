"""The publishing root: objects come into being whole, once, and alike on local disk and in an object store."""

import hashlib
import multiprocessing
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from denograd_engine.errors import ServiceError, StoreError
from denograd_tasks.store import Store, open_store, sha256_of

ODD_PATHS = ["a b/c d.txt", "Zürich/温度.json", "50% off/#1 of 2?.txt", "a+b&c=d/[x]~.txt", "deep/er/and/deeper/x"]


@pytest.fixture
def store(root):
    return Store(root)


def test_an_object_is_created_once_and_then_stays(store):
    assert store.create("a/b.txt", b"first")
    assert not store.create("a/b.txt", b"second")
    assert store.read("a/b.txt") == b"first"


def test_a_file_is_created_like_bytes(store, tmp_path):
    local = tmp_path / "local.bin"
    local.write_bytes(os.urandom(3_000_000))
    assert store.create("copy.bin", local)
    assert store.read("copy.bin") == local.read_bytes()
    assert store.size("copy.bin") == 3_000_000
    assert store.sha256("copy.bin") == sha256_of(local) == hashlib.sha256(local.read_bytes()).hexdigest()
    assert local.exists()


def test_an_empty_object_is_an_object(store, tmp_path):
    assert store.create("empty", b"")
    assert (store.read("empty"), store.size("empty")) == (b"", 0)
    assert store.holds("empty", hashlib.sha256(b"").hexdigest())
    assert store.fetch("empty", tmp_path).read_bytes() == b""


def test_what_is_absent_is_none_false_or_an_error_that_names_it(store, tmp_path):
    assert store.size("no/such") is None
    assert store.sha256("no/such") is None
    assert not store.holds("no/such", "0" * 64)
    assert list(store.list("no")) == []
    for ask in (store.read, lambda path: store.fetch(path, tmp_path)):
        with pytest.raises(StoreError, match="missing") as caught:
            ask("no/such")
        assert caught.value.where == store.uri("no/such")


def test_a_folder_is_no_object(store):
    store.create("folder/object", b"1")
    assert store.size("folder") is None
    with pytest.raises(StoreError):
        store.read("folder")


def test_deleting_is_final_and_deleting_nothing_is_no_error(store):
    store.create("a", b"1")
    store.delete("a")
    store.delete("a")
    store.delete("never/was")
    assert store.size("a") is None
    assert store.create("a", b"2")


def test_a_listing_is_ascending_and_stays_below_its_folder(store):
    for path in ("set/b", "set/a/2", "set/a/10", "sets/c", "set.d", "other"):
        store.create(path, b"")
    assert list(store.list("set")) == ["set/a/10", "set/a/2", "set/b"]
    assert list(store.list("set/a")) == ["set/a/10", "set/a/2"]
    assert list(store.list("")) == sorted(["set/b", "set/a/2", "set/a/10", "sets/c", "set.d", "other"])


def test_a_listing_longer_than_a_page_is_complete(s3):
    store = Store(s3)
    paths = [f"many/{number:04d}" for number in range(1005)]
    for path in paths:
        store.create(path, b"")
    assert list(store.list("many")) == paths


def test_a_fetched_copy_has_the_bytes(store, tmp_path):
    store.create("folder/part.bin", b"\0\1" * 700_000)
    assert store.fetch("folder/part.bin", tmp_path).read_bytes() == b"\0\1" * 700_000


def test_on_local_disk_the_object_itself_is_fetched(tmp_path):
    store = Store(str(tmp_path / "root"))
    store.create("a/b", b"1")
    assert store.fetch("a/b", tmp_path) == tmp_path / "root" / "a" / "b" == Path(store.uri("a/b"))


@pytest.mark.parametrize("path", ODD_PATHS)
def test_odd_paths_come_back_as_they_went(store, tmp_path, path):
    assert store.create(path, b"1")
    assert not store.create(path, b"2")
    assert list(store.list("")) == [path]
    assert (store.read(path), store.size(path)) == (b"1", 1)
    assert store.fetch(path, tmp_path).read_bytes() == b"1"
    store.delete(path)
    assert list(store.list("")) == []


@pytest.mark.parametrize("name", ["with space", "Zürich 温度", "a#b%20c", "trailing/"])
def test_odd_roots_are_roots(tmp_path, name):
    store = Store(f"{tmp_path}/{name}")
    store.create("a", b"1")
    assert (tmp_path / name.rstrip("/") / "a").read_bytes() == b"1"
    assert Store(f"file://{tmp_path}/{name}").read("a") == b"1"


def test_a_relative_root_and_a_home_root_are_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Store("published").local == tmp_path / "published"
    assert Store("~/published").local == tmp_path / "me" / "published"


def test_an_address_tells_where_an_object_is(s3, tmp_path):
    assert Store(s3 + "/").uri("a/b") == f"{s3}/a/b"
    assert Store(str(tmp_path) + "/").uri("a/b") == str(tmp_path / "a/b")


def test_two_roots_in_one_bucket_do_not_meet(s3):
    one, other = Store(s3 + "/one"), Store(s3 + "/other")
    assert one.create("a", b"1")
    assert other.create("a", b"2")
    assert one.read("a") == b"1"
    assert list(one.list("")) == ["a"]


@pytest.mark.parametrize("attempt", range(3))
def test_of_many_racing_threads_exactly_one_creates(root, racing, attempt):
    won = racing(lambda at: open_store(root).create(f"race/{attempt}", b"%d" % at * 1000), 60)
    assert sorted(won, key=str) == [False] * 59 + [True]
    assert open_store(root).read(f"race/{attempt}") == b"%d" % won.index(True) * 1000


def create_each(root, writer, rounds, go):
    store = open_store(root)
    go.wait(60)
    return [store.create(f"race/{number}", b"%d" % writer * 1000) for number in range(rounds)]


def test_of_many_racing_processes_exactly_one_creates(tmp_path):
    root, rounds, writers = str(tmp_path), 25, 4
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(writers) as pool:
        go = manager.Barrier(writers)
        won = pool.starmap(create_each, [(root, writer, rounds, go) for writer in range(writers)])
    store = open_store(root)
    for number, outcomes in enumerate(zip(*won, strict=True)):
        assert sum(outcomes) == 1
        assert store.read(f"race/{number}") == b"%d" % outcomes.index(True) * 1000


def test_readers_see_an_object_whole_or_not_at_all(tmp_path, racing):
    whole = bytes(range(256)) * 20_000

    def work(at):
        store = open_store(str(tmp_path))
        if at == 0:
            return [store.create(f"big/{number}", whole) for number in range(10)]
        seen = [store.sha256(f"big/{number}") for number in range(10) for _ in range(5)]
        return {digest for digest in seen if digest is not None} | {store.size(path) for path in store.list("big")}

    created, *seen = racing(work, 6)
    assert created == [True] * 10
    assert set().union(*seen) <= {hashlib.sha256(whole).hexdigest(), len(whole)}


def test_the_sweep_removes_what_interrupted_writes_left_and_nothing_else(tmp_path):
    store = Store(str(tmp_path / "root"))
    kept = ["set/data/part.parquet", "set/a#b.txt", "set/#/x", "set/note#12.txt", "set/1", "sets/other#7"]
    litter = ["set/data/part.parquet#1", "set/versions/00000001.json#23", "set/#1"]
    for path in kept + litter:
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"1")
    assert store.sweep("set") == len(litter)
    assert store.sweep("set") == 0
    left = {str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*") if path.is_file()}
    assert left == set(kept)


def test_there_is_nothing_to_sweep_in_an_object_store_or_an_absent_folder(store):
    store.create("set/data/part.parquet", b"1")
    assert store.sweep("set") == store.sweep("absent") == 0
    assert list(store.list("")) == ["set/data/part.parquet"]


def test_litter_is_no_object(tmp_path):
    store = Store(str(tmp_path))
    store.create("set/a", b"1")
    (tmp_path / "set" / "b#1").write_bytes(b"half")
    assert list(store.list("set")) == ["set/a"]


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.create("a", b"1"),
        lambda store: store.size("a"),
        lambda store: list(store.list("")),
    ],
)
def test_a_server_that_is_away_is_named(s3, monkeypatch, use):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setattr("denograd_tasks.store.PATIENCE", timedelta(seconds=1))
    with pytest.raises(ServiceError) as caught:
        use(Store(s3))
    assert caught.value.where == s3
    assert address in caught.value.found
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "use", [lambda store: store.create("a", b"1"), lambda store: list(store.list(""))], ids=["create", "list"]
)
def test_a_bucket_that_is_not_there_is_named(s3, use):
    with pytest.raises(ServiceError) as caught:
        use(Store("s3://nobody-made-this/prefix"))
    assert caught.value.where == "s3://nobody-made-this/prefix"
    assert "404" in caught.value.found


@pytest.mark.parametrize("root", ["nosuch://bucket/prefix", "s3://"])
def test_a_root_of_unknown_kind_is_refused(root):
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        Store(root)
    assert caught.value.where == "publish.root"


def test_a_root_beneath_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        Store(str(tmp_path / "file" / "root"))
    assert str(tmp_path / "file" / "root") in caught.value.found


FULL = """
import resource, sys
from denograd_engine.errors import StoreError
from denograd_tasks.store import Store
store = Store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.create("set/data", bytes(10_000))
except StoreError as error:
    print(error)
"""


def test_a_full_disk_is_named_and_nothing_half_written_stays(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a file could not be written: there is no room")
    assert str(tmp_path) in done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_disk_that_cannot_be_written_is_named(tmp_path):
    store = Store(str(tmp_path))
    store.create("file", b"1")
    with pytest.raises(ServiceError) as caught:
        store.create("file/below", b"2")
    assert caught.value.where == str(tmp_path)
