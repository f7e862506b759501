"""One run of a data set at a time: on one machine by a lock, on several by a lease of the Prefect server.

Both end with their holder: the kernel frees the lock of a killed process, and the server a lease that is not renewed.
A lease is no fence. A run that loses it, because the server or this machine was away for long, goes on and tries to get
it back; should two be at work, the store lets one win each number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from threading import Event, Thread
from typing import TYPE_CHECKING
from uuid import UUID

from httpx import HTTPError, HTTPStatusError, codes

from denograd_engine.errors import DenogradError
from denograd_flows.servers import LONGEST, asked_once
from denograd_tasks.home import home
from denograd_tasks.progress import listener

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

LEASE = 60
"""Seconds after which the server gives the place of a killed run to the next."""
RENEWAL = LEASE / 3
"""Seconds after which a lease is renewed."""
LOOK = 5
"""Seconds from one look at a place that is taken to the next."""


class Occupied(DenogradError):
    """Another run of the data set is at work."""


@contextmanager
def alone(dataset: str, wait: bool) -> Iterator[None]:
    """Be the only run of a data set: on this machine, and on all that use the Prefect server, if there is one.

    Args:
        dataset: Its name.
        wait: Whether to wait for another run.

    Raises:
        Occupied: If there is another run, and it is not waited for.
    """
    with ExitStack() as held:
        if not _entered(held, dataset, wait=False):
            if not wait:
                raise Occupied(
                    f"another run of {dataset} is at work",
                    where="on_conflict: cancel",
                    remedy="run again when it is done, or set on_conflict: wait",
                )
            what = f"waiting for another run of {dataset}"
            listener().started(what)
            _entered(held, dataset, wait=True)
            listener().finished(what, "", False)
        yield


def _entered(held: ExitStack, dataset: str, wait: bool) -> bool:
    """Take the lock and the lease, both or none; returns whether they were free."""
    from filelock import FileLock, Timeout
    from prefect.settings import get_current_settings

    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as taken:
        try:
            taken.enter_context(FileLock(folder / f"{dataset}.lock", timeout=-1 if wait else 0))
        except Timeout:
            return False
        if get_current_settings().api.url:
            name = f"denograd-{dataset}"
            lease = granted(name, wait)
            if lease is None:
                return False
            taken.enter_context(Place(name, lease))
        held.push(taken.pop_all())
    return True


def granted(name: str, wait: bool) -> UUID | None:
    """Ask the Prefect server for the only place of a limit, which is made if there is none.

    Args:
        name: Of the limit.
        wait: Whether to wait until it is free.

    Returns:
        The id of a lease; None if the place is taken, and is not waited for.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as server:
        with suppress(ObjectAlreadyExists):
            server.upsert_global_concurrency_limit_by_name(name, 1)
        while (lease := _asked(server, name)) is None and wait:
            time.sleep(LOOK)
    return lease


def _asked(server: SyncPrefectClient, name: str) -> UUID | None:
    try:
        answer = server.increment_concurrency_slots_with_lease([name], 1, "concurrency", LEASE)
    except HTTPStatusError as error:
        if error.response.status_code != codes.LOCKED:
            raise
        return None
    return UUID(answer.json()["lease_id"])


class Place:
    """A lease that a thread renews until the end of the block, which gives it back.

    Prefect's own `concurrency` waits for ever where its server is away while it asks for a place, and ends the run
    where a lease is lost.

    Args:
        name: Of the limit.
        lease: As it was granted; another one where it was lost and the place was free.
    """

    def __init__(self, name: str, lease: UUID) -> None:
        self.name, self.lease = name, lease
        self.ended = Event()
        self.thread = Thread(target=copy_context().run, args=(self._renew,), daemon=True)

    def __enter__(self) -> Place:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join(LONGEST)
        with suppress(HTTPError, RuntimeError), asked_once() as server:  # what is not given back ends by itself
            server.release_concurrency_slots_with_lease(self.lease)

    def _renew(self) -> None:
        while not self.ended.wait(RENEWAL):
            with suppress(HTTPError, RuntimeError), asked_once() as server:  # it is away: perhaps not for long
                self.lease = self._renewed(server)

    def _renewed(self, server: SyncPrefectClient) -> UUID:
        try:
            server.renew_concurrency_lease(self.lease, LEASE)
        except HTTPStatusError as error:
            if error.response.status_code != codes.GONE:
                raise
            return _asked(server, self.name) or self.lease
        return self.lease
