"""From a table to counts: how many cells of each column fell into each bin, hour by hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api import types

from denograd_engine.drift.bins import BINS, Bins
from denograd_engine.errors import SchemaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Residuals = Mapping[str, NDArray[np.floating]]

HOURS = 24


@dataclass(frozen=True)
class Clock:
    """What is known of the time of a row.

    Attributes:
        order: The column that rows are ordered by; None in tables, whose order is that of the rows.
        hourly: Whether rows are compared with those of the same hour of the day.
    """

    order: str | None = None
    hourly: bool = False

    @property
    def phases(self) -> int:
        """P, the groups of rows that are told apart."""
        return HOURS if self.hourly else 1


@dataclass(frozen=True)
class Counted:
    """A table, counted.

    Attributes:
        places: The bin of each cell, rows in the order of time, shape (rows, C).
        phases: The hour of each row, or 0, shape (rows,).
        starts: The first row of each time step, shape (steps,).
        counts: Shape (P, C, BINS).
        moments: Sums of the standardised cells and of their squares, shape (P, C, 2).
    """

    places: NDArray[np.uint8]
    phases: NDArray[np.intp]
    starts: NDArray[np.intp]
    counts: NDArray[np.int64]
    moments: NDArray[np.float64]


def count(frame: pd.DataFrame, residuals: Residuals, columns: Sequence[Bins], clock: Clock) -> Counted:
    """Count a table.

    Args:
        frame: Shape (rows, columns).
        residuals: By the name of what they belong to, one for each row, NaN where there is none.
        columns: How each is counted.
        clock: How time is told.

    Raises:
        SchemaError: If a column is gone or of another kind, or if residuals do not fit the rows.
    """
    order, starts, phases = _in_time(frame, clock)
    places = np.empty((len(frame), len(columns)), dtype=np.uint8)
    counts = np.empty((clock.phases, len(columns), BINS), dtype=np.int64)
    moments = np.empty((clock.phases, len(columns), 2))
    for at, column in enumerate(columns):
        values = _residual(residuals, column.name, len(frame)) if column.residual else _cells(frame, column.name)
        placed, units = column.place(values)
        if order is not None:
            placed, units = placed[order], units[order]
        places[:, at] = placed
        counts[:, at] = np.bincount(phases * BINS + placed, minlength=clock.phases * BINS).reshape(-1, BINS)
        moments[:, at, 0] = np.bincount(phases, units, minlength=clock.phases)
        moments[:, at, 1] = np.bincount(phases, np.square(units), minlength=clock.phases)
    return Counted(places, phases, starts, counts, moments)


def _in_time(frame: pd.DataFrame, clock: Clock) -> tuple[NDArray[np.intp] | None, NDArray[np.intp], NDArray[np.intp]]:
    """The order of time, None where the rows are in it; the first row of each step; the hour of each row."""
    alike = np.zeros(len(frame), dtype=np.intp)
    if clock.order is None:
        return None, np.arange(len(frame)), alike
    times, order = _cells(frame, clock.order).reset_index(drop=True), None
    if clock.hourly and not types.is_datetime64_any_dtype(times.dtype):
        raise SchemaError(
            f"column {clock.order!r} is not of the kind that the reference had",
            expected="time stamps",
            found=f"type {times.dtype}",
        )
    if not times.is_monotonic_increasing:
        times = times.sort_values(kind="stable")
        order = times.index.to_numpy()
    starts = np.flatnonzero((times != times.shift()).to_numpy(dtype=bool))
    return order, starts, times.dt.hour.fillna(0).to_numpy(dtype=np.intp) if clock.hourly else alike


def _cells(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    if name not in frame.columns:
        raise SchemaError(f"there is no column {name!r} in the data", expected="the columns of the reference")
    values = frame[name]
    if values.ndim > 1:
        raise SchemaError(f"column {name!r} occurs {values.shape[1]} times", expected="every column name once")
    return values


def _residual(residuals: Residuals, name: str, rows: int) -> pd.Series[Any]:
    shape = np.shape(residuals[name]) if name in residuals else None
    if shape != (rows,):
        raise SchemaError(
            f"the residuals of {name!r} do not fit the rows",
            expected=f"one for each of {rows:,} rows",
            found="none" if shape is None else f"shape {shape}",
        )
    return pd.Series(residuals[name])
