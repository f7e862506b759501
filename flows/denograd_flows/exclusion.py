"""One run of a data set at a time: on one machine by a lock, on several by a lease of the Prefect server.

Both end with their holder: the kernel frees the lock of a killed process, and the server a lease that is not renewed.
A lease is no fence. Whoever loses one while it is at work meets the store, where one wins each number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from httpx import HTTPStatusError, codes

from denograd_engine.errors import DenogradError
from denograd_tasks.home import home
from denograd_tasks.progress import listener

LEASE = 60
"""Seconds after which the server gives the place of a killed run to the next."""


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
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.settings import get_current_settings

    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as taken:
        try:
            taken.enter_context(FileLock(folder / f"{dataset}.lock", timeout=-1 if wait else 0))
            if get_current_settings().api.url:
                taken.enter_context(_lease(f"denograd-{dataset}", wait))
        except Timeout:
            return False
        except ConcurrencySlotAcquisitionError as error:
            if not isinstance(error.__cause__, HTTPStatusError) or error.__cause__.response.status_code != codes.LOCKED:
                raise
            return False
        held.push(taken.pop_all())
    return True


@contextmanager
def _lease(name: str, wait: bool) -> Iterator[None]:
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as server, suppress(ObjectAlreadyExists):
        server.upsert_global_concurrency_limit_by_name(name, 1)
    with concurrency(name, max_retries=None if wait else 0, lease_duration=LEASE, strict=True):
        yield
