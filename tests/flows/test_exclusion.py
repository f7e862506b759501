"""One run of a data set at a time, on one machine and on several."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from denograd_flows.exclusion import Occupied, Place, alone, granted
from denograd_flows.servers import asked_once


@pytest.mark.usefixtures("denograd")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "another machine"])
def test_the_second_is_told_or_waits(elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, order = f"shared-{elsewhere}", []
    with alone(name, wait=False):
        if elsewhere:
            monkeypatch.setenv("DENOGRAD_HOME", str(tmp_path / "another"))
        with pytest.raises(Occupied, match=name), alone(name, wait=False):
            pass

        def second() -> None:
            with alone(name, wait=True):
                order.append("second")

        waiting = threading.Thread(target=copy_context().run, args=(second,))  # with this test's server
        waiting.start()
        waiting.join(2)
        order.append("first")
    waiting.join(90)
    assert order == ["first", "second"]
    with alone(name, wait=False):
        order.append("third")
    assert order[-1] == "third"


@pytest.fixture
def lost(denograd: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[UUID], None]:
    """Gives a lease back behind the back of its holder, which renews it five times a second."""
    monkeypatch.setattr("denograd_flows.exclusion.RENEWAL", 0.2)

    def lose(lease: UUID) -> None:
        with asked_once() as server:
            server.release_concurrency_slots_with_lease(lease)

    return lose


def another(place: Place, than: UUID) -> bool:
    until = time.monotonic() + 30
    while place.lease == than and time.monotonic() < until:
        time.sleep(0.05)
    return place.lease != than


def test_a_lease_that_was_lost_is_taken_again(lost: Callable[[UUID], None]) -> None:
    lease = granted("lost", wait=False)
    assert lease is not None
    with Place("lost", lease) as place:
        lost(lease)
        assert another(place, than=lease)
        assert granted("lost", wait=False) is None
    last = granted("lost", wait=False)
    assert last is not None
    lost(last)


def test_a_run_that_lost_its_lease_to_another_goes_on_beside_it(lost: Callable[[UUID], None]) -> None:
    lease = granted("taken", wait=False)
    assert lease is not None
    place = Place("taken", lease)
    lost(lease)
    theirs = granted("taken", wait=False)
    assert theirs is not None
    with place:
        time.sleep(1)
        assert place.lease == lease
        lost(theirs)
        assert another(place, than=lease)


@pytest.mark.usefixtures("denograd")
def test_data_sets_do_not_exclude_each_other() -> None:
    with alone("one", wait=False), alone("other", wait=False):
        pass


def test_a_run_that_is_not_to_wait_is_cancelled(denograd: Any, config: Callable[..., Path], home: Path) -> None:
    from prefect.client.orchestration import get_client

    with alone("occupied", wait=False):
        ran = denograd("run", config(dataset="occupied", on_conflict="cancel"), "--json")
    assert ran.code == 1
    assert ran.json["error"] == "Occupied"
    assert ran.json["problem"] == "another run of occupied is at work"
    with get_client(sync_client=True) as server:
        runs = [run for run in server.read_flow_runs() if run.name == "occupied"]
    assert [(run.state.name, run.state.message) for run in runs if run.state] == [("Cancelled", ran.json["problem"])]
    assert not (home / "published").exists()
