"""What retention removed is told by verification, and everything else that is missing is a finding."""

import json
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.audit.cell import cell_of
from denograd_tasks.audit.diff import diff_source, diff_versions
from denograd_tasks.audit.lineage import lineage_of
from denograd_tasks.audit.reproduce import reproduce
from denograd_tasks.audit.signing import sign
from denograd_tasks.audit.verify import verify
from denograd_tasks.removals import removal_path, removals, write_removal
from denograd_tasks.retention import outdated, retire
from denograd_tasks.store import Store
from denograd_tasks.versions import canonical, resolve, sealed


@pytest.fixture
def store(audited, tmp_path):
    """A copy of a signed history of four versions."""
    shutil.copytree(audited.root, tmp_path / "published")
    return Store(str(tmp_path / "published"))


@pytest.fixture
def two_left(store):
    """The same after retention has left two versions their tables; what was refused needs those of version 2."""
    retire(store, "readings", outdated(store, "readings", 2))
    return store


def data(store, number):
    return store.local / resolve(store, f"readings@{number}").content["files"][0]["path"]


def found(store, audited=None, name="readings"):
    key = None if audited is None else audited.public
    return {(one.kind, one.version) for one in verify(store, name, every=True, public_key=key).findings}


def test_what_was_removed_is_told_and_is_no_finding(two_left, audited):
    assert [data(two_left, number).exists() for number in (1, 2, 3, 4)] == [False, True, True, True]
    verified = verify(two_left, "readings", every=True, public_key=audited.public)
    assert verified.findings == ()
    assert verified.signed
    assert [(one.version, one.tables, one.kept) for one in verified.given_up] == [(1, 3, 2), (2, 3, 2)]
    assert verify(two_left, "readings@1").intact


def test_what_needs_no_table_still_answers(two_left):
    manifest = resolve(two_left, "readings@1")
    assert lineage_of(two_left, manifest).number == 1
    for path in (manifest.content["report"], manifest.content["docs"], manifest.content["model"]["files"][0]["path"]):
        assert two_left.size(path)


def test_what_needs_a_table_says_that_retention_removed_it(two_left):
    one, four = resolve(two_left, "readings@1"), resolve(two_left, "readings@4")
    for ask in (
        lambda: diff_versions(two_left, one, four),
        lambda: diff_versions(two_left, four, one),
        lambda: diff_source(two_left, one),
        lambda: cell_of(two_left, one, "y", row=0),
        lambda: reproduce(two_left, one),
    ):
        with pytest.raises(StoreError, match="the data of readings@1 were removed by retention"):
            ask()
    cell = cell_of(two_left, four, "y", row=0)
    assert cell.gone == (1,)
    assert {other.number for other in cell.elsewhere} <= {2, 3}
    assert reproduce(two_left, resolve(two_left, "readings@3")).outcome == "identical"


def test_a_missing_table_of_a_kept_version_is_a_finding(two_left):
    data(two_left, 3).unlink()
    assert found(two_left) == {("missing", 3)}


def test_whoever_deletes_and_says_that_retention_did_is_found_by_the_signature(two_left, audited):
    for write in (lambda removal: None, lambda removal: sign(two_left, removal, Ed25519PrivateKey.generate())):
        data(two_left, 3).unlink(missing_ok=True)
        write(write_removal(two_left, resolve(two_left, "readings@3"), 1))
        assert [one.version for one in verify(two_left, "readings").given_up] == [1, 2, 3]
        assert found(two_left, audited) == {("unsigned", 3), ("missing", 3)}


def test_retention_never_removes_the_newest(two_left):
    data(two_left, 4).unlink()
    write_removal(two_left, resolve(two_left, "readings@4"), 1)
    assert found(two_left) == {("added", 4), ("missing", 4)}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"by": "nobody"}, "edited"),
        ({"number": 3}, "edited"),
        ({"files": []}, "edited"),
        ({"manifest": "0" * 64}, "exchanged"),
    ],
    ids=["by", "number", "files", "manifest"],
)
@pytest.mark.parametrize("again", [True, False], ids=["sealed", "unsealed"])
def test_what_was_written_down_and_edited_does_not_count(two_left, change, kind, again):
    path = removal_path("readings", 1)
    plain = json.loads(two_left.read(path)) | change
    (two_left.local / path).write_bytes(canonical(sealed(plain) if again else plain))
    if again and "by" in change:  # only a signature tells who
        assert verify(two_left, "readings", every=True).intact
    else:
        assert found(two_left) == {(kind if again else "edited", 1), ("missing", 1)}


def test_what_is_neither_is_a_finding(two_left):
    two_left.create("readings/removed/notes.txt", b"")
    two_left.create(removal_path("readings", 3), b"{")
    assert found(two_left) == {("added", None), ("edited", 3)}


def test_a_table_that_is_back_is_looked_at_like_any_other(two_left):
    path = data(two_left, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"other")
    assert found(two_left) == {("changed", 1)}
    path.unlink()
    path.with_name("part-00001.parquet").write_bytes(b"more")
    assert found(two_left) == {("added", 1)}


def test_without_the_key_nothing_is_removed(store, audited):
    (audited.folder / "key.pem").rename(audited.folder / "away.pem")
    try:
        with pytest.raises(ConfigError, match="the key cannot be read"):
            retire(store, "readings", outdated(store, "readings", 1))
    finally:
        (audited.folder / "away.pem").rename(audited.folder / "key.pem")
    assert removals(store, "readings") == {}
    assert verify(store, "readings", every=True).intact
