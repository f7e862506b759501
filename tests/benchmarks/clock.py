"""Timing that is fair to all contestants: they take turns, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

SECONDS_A_TURN = 4.0
"""What slow contestants may take for a repetition; they then run fewer epochs, but at least one."""
SHORT_SECONDS = 1.0
"""A warm-up as short as this is repeated, to know what an epoch takes without what only the first call does."""


class Contestant(Protocol):
    def prepare(self, epochs: int) -> Callable[[], int]:
        """Make everything ready, and return what is timed. That returns the epochs it has run."""


@dataclass
class Timing:
    """The repetitions of one contestant.

    Attributes:
        seconds: Of each repetition.
        epochs: Run in each repetition.
        error: Why there are no repetitions.
    """

    seconds: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    error: str | None = None

    def plain(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "epochs": self.epochs, "error": self.error}


class Failed(Exception):
    """A contestant could not do the work. Holds its message, and none of its source."""


def take_turns(
    contestants: Mapping[str, Contestant],
    epochs: int,
    whole: Sequence[str],
    repetitions: int,
    device: torch.device,
) -> dict[str, Timing]:
    """Time each contestant `repetitions` times after a warm-up, in rounds that start with another one each time.

    Args:
        contestants: By name.
        epochs: Of the whole work.
        whole: Names of those that do the whole work in each repetition. The others may do fewer epochs of it.
        repetitions: Rounds.
        device: Where they work.
    """
    timings = {name: Timing() for name in contestants}
    planned: dict[str, int] = {}
    for name, contestant in contestants.items():
        try:
            seconds, ran = timed(contestant, 1, device)
            if seconds < SHORT_SECONDS:
                seconds, ran = timed(contestant, min(3, epochs), device)
        except Failed as failure:
            timings[name].error = str(failure)
            continue
        affordable = max(1, int(SECONDS_A_TURN * ran / seconds))
        planned[name] = epochs if name in whole else min(epochs, affordable)
    names = list(planned)
    for turn in range(repetitions):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if timings[name].error:
                continue
            try:
                seconds, ran = timed(contestants[name], planned[name], device)
            except Failed as failure:
                timings[name].error = str(failure)
                continue
            timings[name].seconds.append(seconds)
            timings[name].epochs.append(ran)
    return timings


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(contestant: Contestant, epochs: int, device: torch.device) -> tuple[float, int]:
    """Seconds, and epochs run."""
    run = contestant.prepare(epochs)
    gc.collect()
    wait_for(device)
    started = time.perf_counter()
    ran = run()
    wait_for(device)
    return time.perf_counter() - started, ran
