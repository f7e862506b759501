"""How one column is counted: numbers by quantiles of the reference, categories by level, missing cells apart.

Everything that is known of a column, in the reference and in a batch, is how many cells fell into each bin. Cuts lie
at equal steps of the normal score, from -3 to 3, so that a test on counts loses next to nothing: what varies within the
bins is a 300th of the variance of the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api import types

from denograd_engine.columns import Role
from denograd_engine.errors import SchemaError
from denograd_engine.frames import TAILS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_engine.schema import Schema

STEPS = np.linspace(-3.0, 3.0, 31)
"""Normal scores at which a column of numbers is cut."""
LEVELS = len(STEPS)
"""Most frequent categories that are counted one by one; all others are counted together."""
BINS = len(STEPS) + 2
"""Of every column, unused ones included: missing, then those between the cuts; or the levels, then all others."""
FURTHEST = 10.0
"""Standard deviations at which a cell counts no more to mean and standard deviation."""


@dataclass(frozen=True)
class Bins:
    """One column.

    Attributes:
        name: Of the column, or of the one whose residuals these are.
        residual: Whether these are residuals of a model.
        cuts: Of numbers, ascending; a bin holds its upper cut. Empty for categories.
        levels: Of categories.
        center: Of numbers, winsorised, in their own unit.
        spread: Likewise; 1 where the column is constant.
    """

    name: str
    residual: bool = False
    cuts: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    center: float = 0.0
    spread: float = 1.0

    @property
    def label(self) -> str:
        """What people call it."""
        return f"residual of {self.name}" if self.residual else self.name

    @property
    def ordered(self) -> bool:
        """Whether these are numbers that vary; a constant's bins are below, equal and above."""
        return len(self.cuts) > 0 and not self.constant

    @property
    def constant(self) -> bool:
        return len(self.cuts) == 2 and self.cuts[0] == np.nextafter(self.cuts[1], -np.inf)

    @property
    def used(self) -> int:
        """Bins that a cell can fall into, the one for missing cells included."""
        return 1 + (len(self.cuts) + 1 if self.cuts else len(self.levels) + 1)

    def place(self, values: pd.Series[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """The bin of each cell, 0 where it is missing; and its distance from the centre.

        Returns:
            Two arrays of shape (rows,), the second in std, 10 at most, and 0 where missing and for categories.

        Raises:
            SchemaError: If numbers are expected and the cells are none.
        """
        if not self.cuts:
            found = pd.Index(self.levels, dtype=object).get_indexer(pd.Index(_names(values), dtype=object))
            placed = np.where(found < 0, len(self.levels), found) + 1
            return np.where(values.isna(), 0, placed).astype(np.uint8), np.zeros(len(values))
        if not is_number(values):
            raise SchemaError(
                f"column {self.name!r} is not of the kind that the reference had",
                expected="numbers",
                found=f"type {values.dtype}",
            )
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        places = np.searchsorted(self.cuts, numbers).astype(np.uint8) + np.uint8(1)
        units = np.clip((numbers - self.center) / self.spread, -FURTHEST, FURTHEST)
        missing = np.isnan(numbers)
        if missing.any():
            places[missing], units[missing] = 0, 0.0
        return places, units


def is_number(values: pd.Series[Any]) -> bool:
    """Whether the column is numeric, and neither logical nor complex."""
    dtype = values.dtype
    return types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype) and not types.is_complex_dtype(dtype)


def watched(frame: pd.DataFrame, schema: Schema) -> list[str]:
    """The columns that can drift: all but ignored ones and time stamps, which never stand still."""
    names = [column.name for column in schema.columns if column.role is not Role.IGNORED]
    return [name for name in names if not _is_time(frame[name])]


def bins_of(name: str, values: pd.Series[Any], residual: bool = False) -> Bins:
    """How a column is counted, from its cells in the reference."""
    present = values.dropna()
    if not is_number(values) or present.empty:
        counts = pd.Series(_names(present), dtype=object).value_counts()
        levels = sorted(zip(-counts.to_numpy(), counts.index.astype(str), strict=True))[:LEVELS]
        return Bins(name, residual, levels=tuple(sorted(level for _, level in levels)))
    from scipy.special import ndtr

    numbers = present.to_numpy(dtype=np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return Bins(name, residual, cuts=(float(np.nextafter(low, -np.inf)), low), center=low)
    body = np.clip(numbers, *np.quantile(numbers, TAILS))
    if body.min() == body.max():
        body = numbers
    cuts = np.unique(np.quantile(numbers, ndtr(STEPS), method="inverted_cdf"))
    return Bins(name, residual, tuple(cuts.tolist()), (), float(body.mean()), float(body.std()))


def _names(values: pd.Series[Any]) -> list[str]:
    return values.astype(str).tolist()


def _is_time(values: pd.Series[Any]) -> bool:
    return types.is_datetime64_any_dtype(values.dtype) or types.is_timedelta64_dtype(values.dtype)
