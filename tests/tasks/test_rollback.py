"""A rollback is the next version, with an earlier one's content; history stays."""

import pytest

from denograd_engine.errors import StoreError
from denograd_tasks.audit.lineage import lineage_of
from denograd_tasks.audit.reproduce import reproduce
from denograd_tasks.audit.verify import verify
from denograd_tasks.litter import LONGEST_RUN, require_young
from denograd_tasks.rollback import roll_back
from denograd_tasks.store import Store
from denograd_tasks.tracking import client
from denograd_tasks.versions import PLACE, history, origin_of, resolve


@pytest.fixture
def store(audited, tmp_path):
    """A copy of a signed history of four versions."""
    import shutil

    shutil.copytree(audited.root, tmp_path / "published")
    return Store(str(tmp_path / "published"))


def test_an_earlier_content_becomes_the_next_version(store, audited):
    before = {path: store.sha256(path) for path in store.list("")}
    target = resolve(store, "readings@1")
    done = roll_back(store, target, "version 2 was made with a wrong gate")
    manifest = done.committed.manifest
    assert (manifest.number, manifest.origin, done.committed.already, done.told) == (5, 1, False, True)
    added = {path for path in store.list("") if path not in before}
    assert added == {"readings/versions/00000005.json", "readings/versions/00000005.sig"}
    assert all(store.sha256(path) == digest for path, digest in before.items())
    same = set(target.content) - {*PLACE, "run"}
    assert {name: manifest.content[name] for name in same} == {name: target.content[name] for name in same}

    found = lineage_of(store, manifest)
    assert (found.rolled_back.to, found.rolled_back.manifest) == (1, target.digest)
    assert found.rolled_back.reason == "version 2 was made with a wrong gate"
    assert found.run.trigger == "rollback of readings@1"
    assert found.run.user == found.rolled_back.by
    assert verify(store, "readings", every=True, public_key=audited.public).intact
    run = client(target.content["model"]["tracking_uri"]).get_run(target.content["model"]["mlflow_run_id"])
    assert run.data.tags["denograd.manifest"] == manifest.digest
    assert (reproduce(store, manifest).outcome, reproduce(store, manifest).made_as) == ("identical", "readings@1")


def test_going_back_to_what_is_there_already_does_nothing(store):
    for number in (4, 4):
        assert roll_back(store, resolve(store, f"readings@{number}"), "because").committed.already
    first = roll_back(store, resolve(store, "readings@2"), "because").committed.manifest
    again = roll_back(store, resolve(store, "readings@2"), "because").committed
    assert (again.already, again.manifest) == (True, first)
    assert roll_back(store, first, "because").committed.already


def test_a_rollback_can_be_gone_back_to_and_rolled_back(store):
    roll_back(store, resolve(store, "readings@1"), "one")
    roll_back(store, resolve(store, "readings@3"), "two")
    last = roll_back(store, resolve(store, "readings@5"), "three").committed.manifest
    assert (last.number, last.origin) == (7, 1)
    assert origin_of(store, last).number == 1
    assert [one.origin for one in history(store, "readings")] == [1, 2, 3, 4, 1, 3, 1]
    assert verify(store, "readings", every=True).intact


def test_it_may_be_of_any_age(store, monkeypatch):
    clock = Store.clock
    monkeypatch.setattr(Store, "clock", lambda store, folder: clock(store, folder) + 10 * LONGEST_RUN)
    require_young(store, "readings", roll_back(store, resolve(store, "readings@1"), "old").committed.manifest.content)


def test_what_is_damaged_is_not_gone_back_to(store):
    target = resolve(store, "readings@1")
    (store.local / target.content["files"][0]["path"]).write_bytes(b"other")
    with pytest.raises(StoreError, match="missing or damaged"):
        roll_back(store, target, "because")
    assert resolve(store, "readings").number == 4


def test_an_mlflow_that_is_away_is_said_and_keeps_nothing_from_being_published(store, monkeypatch):
    from denograd_engine.errors import ServiceError

    def away(uri, run_id, tags):
        raise ServiceError("the MLflow tracking server does not answer as it should")

    monkeypatch.setattr("denograd_tasks.rollback.tag_run", away)
    done = roll_back(store, resolve(store, "readings@1"), "because")
    assert (done.told, done.committed.manifest.number) == (False, 5)


def test_of_several_rollbacks_at_once_each_follows_the_other(store, racing):
    results = racing(lambda at: roll_back(store, resolve(store, f"readings@{1 + at % 3}"), "because"), 6)
    assert all(one.committed.manifest.number >= 4 for one in results)
    assert verify(store, "readings", every=True).intact
