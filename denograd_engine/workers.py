"""Several items' worth of work at a time on the cores of a CPU: one thread of torch for each, instead of all for one.

Small networks do not fill several cores with one batch: measured, two batches side by side take two thirds of the time
of two after another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

Given = TypeVar("Given")
Found = TypeVar("Found")

MOST_WORKERS = 16
POLLED_SECONDS = 0.05
STATELESS = ("torch.", "denograd_engine.")
"""Packages whose layers keep nothing of a forward pass in themselves, so that several can run at once."""


class Workers:
    """Threads that call the backbone side by side; none where that does not pay or is not safe.

    Attributes:
        count: How many there are, 1 if the caller works alone.
    """

    def __init__(self, pool: ThreadPoolExecutor | None, count: int) -> None:
        self._pool, self.count = pool, count

    def each(self, work: Callable[[Given], Found], given: Iterable[Given]) -> Iterator[Found]:
        """What `work` makes of each, in the order given; a few are under way ahead of the one that is taken."""
        if self._pool is None:
            yield from map(work, given)
            return
        under_way: deque[Future[Found]] = deque()
        try:
            for one in given:
                under_way.append(self._pool.submit(work, one))
                if len(under_way) > 2 * self.count:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def together(
        self, work: Callable[[Given], Found], given: Sequence[Given], meanwhile: Callable[[], None]
    ) -> list[Found]:
        """What `work` makes of each, all at once; the caller's thread does something else now and then."""
        if self._pool is None:
            found = []
            for one in given:
                found.append(work(one))
                meanwhile()
            return found
        futures = [self._pool.submit(work, one) for one in given]
        while wait(futures, timeout=POLLED_SECONDS, return_when=FIRST_EXCEPTION).not_done:
            meanwhile()
            if any(future.done() and future.exception() for future in futures):
                break
        return [future.result() for future in futures]


ALONE = Workers(None, 1)


@contextmanager
def workers_for(module: nn.Module, device: torch.device, most: int) -> Iterator[Workers]:
    """Lend workers for a frozen backbone: as many as torch has threads, each with one.

    Args:
        module: The backbone. Those with layers of other packages, which may keep state, get none.
        device: Where it is; only a CPU has several.
        most: No more than this.
    """
    safe = all(type(part).__module__.startswith(STATELESS) for part in module.modules())
    with workers_on(device, most if safe else 1) as workers:
        yield workers


@contextmanager
def workers_on(device: torch.device, most: int) -> Iterator[Workers]:
    """Lend workers: as many as torch has threads, each with one, and no more than `most`; none but on a CPU."""
    threads = torch.get_num_threads()
    count = min(threads, most)
    if device.type != "cpu" or count < 2:
        yield ALONE
        return
    pool = ThreadPoolExecutor(count, "denograd", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield Workers(pool, count)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
