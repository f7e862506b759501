"""The way back from tensors to the user's table: units, dtypes, bounds, whole numbers and missing cells as observed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from denograd_engine.columns import Column
from denograd_engine.schema import Schema


class Restoration:
    """A refined table in the making: a copy of the refined columns, and the observed ones as they are.

    Args:
        frame: As observed. Not changed.
        schema: The roles of its columns.
        spreads: One standardised unit of each of `schema.cells`, in its own unit, shape (P,).
    """

    def __init__(self, frame: pd.DataFrame, schema: Schema, spreads: NDArray[np.float64]) -> None:
        self._observed, self._schema, self._spreads = frame, schema, spreads
        self._refined: dict[str, Any] = {}
        for name in schema.refined:
            values = frame[name]
            plain = isinstance(values.dtype, np.dtype) and values.dtype.kind == "f" and not schema[name].integer
            self._refined[name] = values.to_numpy(copy=True) if plain else values.array.copy()

    def put(self, start: int, shift: NDArray[Any]) -> None:
        """Shift the cells of the rows from `start` on.

        Args:
            start: Position of the first of them.
            shift: Shape (rows, P), standardised. A cell whose shift is zero comes back bit-identical, unless it
                violates a declared bound.
        """
        rows = slice(start, start + len(shift))
        for at, name in enumerate(self._schema.cells):
            if name not in self._refined:
                continue
            in_units, array, column = shift[:, at] * self._spreads[at], self._refined[name], self._schema[name]
            if isinstance(array, np.ndarray):
                _shift_floats(array[rows], in_units, column)
            else:
                _shift(array, self._observed[name].iloc[rows], start, in_units, column)

    def frame(self) -> pd.DataFrame:
        """A new table with the same index, columns, dtypes and missing cells; whole numbers stay whole."""
        restored = self._observed.copy(deep=False)
        for name, array in self._refined.items():
            restored[name] = pd.Series(array, index=self._observed.index, name=name, copy=False)
        return restored


def _shift_floats(into: NDArray[np.floating], shift: NDArray[np.float64], column: Column) -> None:
    np.add(into, shift, out=into, where=shift != 0, casting="same_kind")
    low, high = _limits(column, into.dtype)
    if low > -np.inf or high < np.inf:
        np.clip(into, low, high, out=into)


def _shift(into: Any, values: pd.Series[Any], start: int, shift: NDArray[np.float64], column: Column) -> None:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    present = ~np.isnan(numbers)
    low, high = _limits(column, values.dtype)
    if column.integer or types.is_integer_dtype(values.dtype):
        shift = np.round(shift)
    moved = present & ((shift != 0) | (numbers < low) | (numbers > high))
    if moved.any():
        changed = np.clip(numbers[moved] + shift[moved], low, high)
        into[start + np.flatnonzero(moved)] = pd.Series(changed).astype(values.dtype).array


def _limits(column: Column, dtype: Any) -> tuple[float, float]:
    """The column's bounds, rounded inwards to what its type can hold."""
    low = -np.inf if column.minimum is None else column.minimum
    high = np.inf if column.maximum is None else column.maximum
    if column.integer or types.is_integer_dtype(dtype):
        low, high = float(np.ceil(low)), float(np.floor(high))
    kind = np.dtype(getattr(dtype, "numpy_dtype", dtype))
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        low, high = float(max(low, limits.min)), float(min(high, limits.max))
        return low, high if high <= limits.max else float(np.nextafter(high, 0.0))
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            lowest, highest = np.array([low, high]).astype(kind)
        low = float(lowest if float(lowest) >= low else np.nextafter(lowest, kind.type(np.inf)))
        high = float(highest if float(highest) <= high else np.nextafter(highest, kind.type(-np.inf)))
    return low, high
