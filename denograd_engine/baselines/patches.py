"""Items that row-wise denoisers work on: the rows of a table, the overlapping windows of a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from denograd_engine.baselines.cells import spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 24
"""Steps of a window: a day of hourly readings."""


@dataclass(frozen=True)
class Patches:
    """Every window of a series, within its run, or every row of a table, which is a window of one step.

    A run shorter than a window is continued with its last step; nothing is read back from there.

    Attributes:
        width: Steps of a window.
        starts: Shape (windows,): the first step of each, counted along `source`.
        source: Shape (steps,): the row that each step shows.
        own: Shape (steps,), False where the step continues a short run.
    """

    width: int
    starts: NDArray[np.int64]
    source: NDArray[np.int64]
    own: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: int, runs: tuple[int, ...] | None, width: int = WIDTH) -> Patches:
        """The patches of a table (`runs` is None) or series."""
        if runs is None:
            every = np.arange(rows)
            return cls(1, every, every, np.ones(rows, dtype=bool))
        starts, source, own, first = [np.arange(0)], [np.arange(0)], [np.ones(0, dtype=bool)], 0
        for span in spans(rows, runs):
            steps = span.stop - span.start
            length = max(steps, width)
            starts.append(np.arange(first, first + length - width + 1))
            source.append(np.minimum(np.arange(span.start, span.start + length), span.stop - 1))
            own.append(np.arange(length) < steps)
            first += length
        return cls(width, np.concatenate(starts), np.concatenate(source), np.concatenate(own))

    def cut(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each window shows: (rows, P) to (windows, P, width)."""
        if not len(self.starts):
            return np.empty((0, values.shape[1], self.width))
        return sliding_window_view(values[self.source], self.width, axis=0)[self.starts]

    def fold(self, items: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each row as the mean of what the windows that show it make of it: (windows, P, width) to (rows, P)."""
        total = np.zeros((len(self.source), items.shape[1]))
        visits = np.zeros((len(self.source), 1))
        for offset in range(self.width):
            total[self.starts + offset] += items[:, :, offset]
            visits[self.starts + offset] += 1
        return (total / np.maximum(visits, 1))[self.own]
