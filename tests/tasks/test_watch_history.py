"""What is remembered of earlier looks: the newest, and every one that began a drift."""

from datetime import UTC, datetime

import pytest

from denograd_tasks.store import Store
from denograd_tasks.watch import history
from denograd_tasks.watch.bookmark import Alarm, Changed, Watched
from denograd_tasks.watch.history import history_path, past_looks, remember

AT = datetime(2026, 1, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def store(root):
    return Store(root)


def watched(check, version=1, drift=False, evidence=1.0):
    changed = [("b", "shape"), ("a", "scale"), ("b", "location")]
    alarm = Alarm(
        at=AT,
        evidence=evidence,
        changed=tuple(
            Changed(column=name, kind=kind, measure="m", effect=1.0, p=1e-9, rows=9, evidence=evidence)
            for name, kind in changed
        ),
    )
    return Watched(
        dataset="set",
        version=version,
        report="r",
        arrived=10 * check,
        rows=99,
        checks=check,
        severity="drift" if drift else "none",
        evidence=evidence,
        changed=(),
        alarm=alarm if drift else None,
    )


def test_looks_are_remembered_across_versions_with_what_began_a_drift(store):
    assert past_looks(store, "set") == ()
    remember(store, watched(1), began=False)
    remember(store, watched(2, drift=True, evidence=float("inf")), began=True)
    remember(store, watched(3, drift=True), began=False)
    remember(store, watched(1, version=2), began=False)
    looks = past_looks(store, "set")
    assert [(one.version, one.check, one.arrived, one.drift, one.began) for one in looks] == [
        (1, 1, 10, False, False),
        (1, 2, 20, True, True),
        (1, 3, 30, True, False),
        (2, 1, 10, False, False),
    ]
    began = looks[1]
    assert (began.at, began.columns, began.kinds) == (AT, ("b", "a"), ("shape", "scale", "location"))
    assert began.evidence == float("inf")


def test_a_look_that_is_made_again_takes_its_own_place(store):
    for again in range(3):
        remember(store, watched(1, evidence=float(again + 1)), began=False)
    assert [(one.check, one.evidence) for one in past_looks(store, "set")] == [(1, 3.0)]


def test_it_does_not_grow_for_ever_and_forgets_no_drift(store, monkeypatch):
    monkeypatch.setattr(history, "KEPT", 5)
    for check in range(1, 21):
        remember(store, watched(check, drift=check == 3), began=check == 3)
    assert [one.check for one in past_looks(store, "set")] == [3, 16, 17, 18, 19, 20]


def test_what_is_damaged_is_begun_anew(store):
    store.replace(history_path("set"), b"{")
    assert past_looks(store, "set") == ()
    remember(store, watched(1), began=False)
    assert len(past_looks(store, "set")) == 1
