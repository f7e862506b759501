"""Windows as views of one series, and the folding of window contributions back to time steps.

A window starting at step s covers steps s..s+W-1 and predicts step s+W+h-1 for each horizon h. It never crosses from
one entity to another, nor a gap in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from pandas.api import types
from torch import Tensor

from denograd_engine.errors import TimeAxisError
from denograd_engine.schema import Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERATED_GAP = 1.5
"""A pause longer than this many usual steps breaks a series, unless `Series.max_gap` says otherwise."""


@dataclass(frozen=True)
class Layout:
    """The order in which rows form unbroken runs.

    Attributes:
        order: Shape (rows,): positions in the table, run after run.
        runs: Length of each run; they add up to the number of rows.
        clock: Shape (rows,), in layout order: seconds since the first time stamp, or the time column's own number.
    """

    order: NDArray[np.int64]
    runs: tuple[int, ...]
    clock: NDArray[np.float64]


def lay_out(frame: pd.DataFrame, series: Series) -> Layout:
    """Find the unbroken runs of each entity.

    Raises:
        TimeAxisError: If a time stamp is missing, out of order or repeated within an entity, or if no run is long
            enough for a single window.
    """
    time = frame[series.time]
    _check_time_column(time, series)
    clock = _clock(time)
    codes: NDArray[np.integer] = np.zeros(len(frame), dtype=np.int64)
    if series.entity:
        entities = frame[list(series.entity)].reset_index(drop=True)
        codes = entities.groupby(list(series.entity), sort=False, dropna=False).ngroup().to_numpy(dtype=np.int64)
    order = np.argsort(codes, kind="stable").astype(np.int64)
    steps = np.diff(clock[order])
    same = np.diff(codes[order]) == 0
    wrong = np.flatnonzero(same & (steps <= 0))
    if len(wrong):
        raise _unordered(time, order, steps, wrong, series)
    allowed = _allowed_gap(steps[same], series, time)
    breaks = np.flatnonzero(~same | (steps > allowed)) + 1
    runs = np.diff(np.concatenate([[0], breaks, [len(frame)]]))
    if runs.max(initial=0) < series.span:
        raise _too_short(runs, series, steps[same], time)
    return Layout(order, tuple(int(run) for run in runs), clock[order])


@dataclass(frozen=True)
class Windows:
    """Every window of a laid-out series.

    Attributes:
        starts: Shape (windows,): first step of each, counted along the layout.
        steps: Number of steps of the series, all runs together.
        width: Steps covered, W.
        reaches: Distances from a window's first step to those that it predicts, W+h-1 for each horizon h, ascending.
    """

    starts: Tensor
    steps: int
    width: int
    reaches: tuple[int, ...]

    @classmethod
    def of(cls, layout: Layout, series: Series) -> Windows:
        """The windows of each run, `series.stride` apart, from its first step on."""
        first, starts = 0, []
        for run in layout.runs:
            starts.append(np.arange(first, first + run - series.span + 1, series.stride))
            first += run
        joined = np.concatenate(starts) if starts else np.empty(0)
        reaches = tuple(series.window + ahead - 1 for ahead in series.horizons)
        return cls(torch.from_numpy(joined.astype(np.int64)), first, series.window, reaches)

    def __len__(self) -> int:
        return len(self.starts)

    def covered(self, starts: Tensor) -> Tensor:
        """Steps covered by these windows, shape (windows, W)."""
        return starts[:, None] + torch.arange(self.width, device=starts.device)

    def predicted(self, starts: Tensor) -> Tensor:
        """Steps predicted by these windows at the nearest horizon, shape (windows,): each stands for its window."""
        return starts + self.reaches[0]

    def ahead(self, starts: Tensor) -> Tensor:
        """All steps predicted by these windows, shape (windows, horizons)."""
        return starts[:, None] + torch.tensor(self.reaches, device=starts.device)

    def gather(self, steps: Tensor, starts: Tensor) -> Tensor:
        """What these windows cover of an array over the steps: (steps, C) to (windows, W, C), contiguous."""
        first = _first_of_unbroken(starts)
        if first is None:
            return steps[self.covered(starts)]
        return steps[first : first + len(starts) + self.width - 1].unfold(0, self.width, 1).transpose(1, 2).contiguous()

    def visits(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """How many of these windows cover, and how many predict, each step. Two tensors of shape (steps,)."""
        edges = torch.zeros(self.steps + 1, dtype=torch.int64, device=starts.device)
        ones = torch.ones_like(starts)
        edges.index_add_(0, starts, ones).index_add_(0, starts + self.width, -ones)
        predicted = torch.zeros(self.steps, dtype=torch.int64, device=starts.device)
        for reach in self.reaches:
            predicted.index_add_(0, starts + reach, ones)
        return edges.cumsum(0)[:-1], predicted

    def fold_(self, into: Tensor, starts: Tensor, contributions: Tensor) -> None:
        """Add each window's contributions to the steps that it covers, in place.

        One offset at a time, so that no two additions meet: the sum is the same to the bit on every run, on a GPU too.

        Args:
            into: Shape (steps, P).
            starts: Distinct and ascending, shape (windows,).
            contributions: Shape (windows, W, P).
        """
        first = _first_of_unbroken(starts)
        for offset in range(self.width):
            if first is None:
                into.index_add_(0, starts + offset, contributions[:, offset])
            else:
                into[first + offset : first + offset + len(starts)] += contributions[:, offset]

    def touched(self, moved: Tensor) -> Tensor:
        """Which windows cover or predict a moved step.

        Args:
            moved: Boolean, shape (steps,).

        Returns:
            Boolean, shape (windows,).
        """
        starts = self.starts.to(moved.device)
        before = torch.nn.functional.pad(moved.to(torch.int32).cumsum(0), (1, 0))
        return (before[starts + self.width] > before[starts]) | moved[self.ahead(starts)].any(dim=1)


def _first_of_unbroken(starts: Tensor) -> int | None:
    """The first of ascending starts that leave none out; None if they do."""
    if not len(starts):
        return None
    first, last = starts[[0, -1]].tolist()
    return int(first) if last - first == len(starts) - 1 else None


def _check_time_column(time: pd.Series[Any], series: Series) -> None:
    numeric = types.is_numeric_dtype(time.dtype) and not types.is_bool_dtype(time.dtype)
    if not numeric and not types.is_datetime64_any_dtype(time.dtype):
        raise TimeAxisError(
            f"column {series.time!r} is not a time axis",
            expected="time stamps or numbers",
            found=f"type {time.dtype}",
            where="series.time",
            remedy="store the column as time stamps (in CSV: ISO 8601, such as 2024-03-01 12:00:00)",
        )
    missing = np.flatnonzero(time.isna().to_numpy())
    if len(missing):
        raise TimeAxisError(
            f"time column {series.time!r} has missing cells",
            found=f"{len(missing):,} missing, the first at row {missing[0]:,}",
            where="series.time",
            remedy="drop these rows or fill in their time",
        )


def _clock(time: pd.Series[Any]) -> NDArray[np.float64]:
    if types.is_datetime64_any_dtype(time.dtype):
        seconds: NDArray[np.float64] = (time - time.min()).dt.total_seconds().to_numpy(dtype=np.float64)
        return seconds
    return time.to_numpy(dtype=np.float64)


def _allowed_gap(steps: NDArray[np.float64], series: Series, time: pd.Series[Any]) -> float:
    if series.max_gap is None:
        return TOLERATED_GAP * float(np.median(steps)) if len(steps) else np.inf
    numeric = not types.is_datetime64_any_dtype(time.dtype)
    try:
        allowed = float(series.max_gap) if numeric else pd.Timedelta(series.max_gap).total_seconds()
    except ValueError:
        allowed = np.nan
    if not allowed > 0:
        raise TimeAxisError(
            "the longest allowed gap cannot be read",
            expected="a positive number" if numeric else "a positive duration such as '2h' or '4D'",
            found=repr(series.max_gap),
            where="series.max_gap",
        )
    return allowed


def _unordered(
    time: pd.Series[Any],
    order: NDArray[np.int64],
    steps: NDArray[np.float64],
    wrong: NDArray[np.int64],
    series: Series,
) -> TimeAxisError:
    repeated = int((steps[wrong] == 0).sum())
    stamps = ", ".join(str(time.iloc[order[at + 1]]) for at in wrong[:3])
    kind = "repeats" if repeated == len(wrong) else "is not in ascending order"
    names = f", within each {' and '.join(series.entity)}" if series.entity else ""
    return TimeAxisError(
        f"time column {series.time!r} {kind}",
        expected=f"every time stamp once, in ascending order{names}",
        found=f"{repeated:,} repeated and {len(wrong) - repeated:,} out of order, the first at {stamps}",
        where="series.time",
        remedy="sort by time and drop duplicates, or name the column that tells the series apart in series.entity",
    )


def _too_short(
    runs: NDArray[np.int64], series: Series, steps: NDArray[np.float64], time: pd.Series[Any]
) -> TimeAxisError:
    longest = int(runs.max(initial=0))
    remedy = (
        f"choose series.window below {longest - series.horizons[-1] + 1}, or allow longer pauses with series.max_gap"
    )
    if len(steps) and types.is_datetime64_any_dtype(time.dtype):
        wide = pd.Timedelta(seconds=float(np.quantile(steps, 0.99)))
        remedy += f" (99% of the steps are at most {wide})"
    return TimeAxisError(
        "no unbroken stretch of the series is long enough for one window",
        expected=f"at least {series.span:,} steps without a gap ({series.window} seen, {series.horizons[-1]} ahead)",
        found=f"{longest:,} at most, in {len(runs):,} stretches",
        where="series",
        remedy=remedy,
    )
