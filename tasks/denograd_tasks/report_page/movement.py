"""How far every refined column, and the whole data set, moved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from denograd_tasks.report_page.cells import Floats, correction, sample_rows, values


@dataclass(frozen=True)
class ColumnChange:
    """How far one refined column moved.

    Attributes:
        name: The column.
        role: `feature` or `target`.
        mean: Mean absolute correction over its present cells, in std.
        largest: Largest absolute correction, in std.
        moved_share: Share of its present cells that moved.
        typical_units: Median absolute correction of its moved cells, in the column's own unit.
        mean_shift: Mean after minus mean before, in std.
        std_ratio: Standard deviation after over before; NaN where the column was constant.
    """

    name: str
    role: str
    mean: float
    largest: float
    moved_share: float
    typical_units: float
    mean_shift: float
    std_ratio: float


@dataclass(frozen=True)
class Movement:
    """How far the whole data set moved.

    Attributes:
        rows: Number of rows.
        moved_rows: Rows in which at least one cell moved.
        moved_cells: Cells that moved, of all refined columns.
        magnitudes: Signed corrections of the moved cells, in std; in large data those of a sample of the moved rows.
        columns: Every refined column, the most moved first.
    """

    rows: int
    moved_rows: int
    moved_cells: int
    magnitudes: Floats
    columns: list[ColumnChange]

    @property
    def moved_columns(self) -> int:
        """Columns in which at least one cell moved."""
        return sum(column.largest > 0 for column in self.columns)

    @property
    def typical(self) -> float | None:
        """Median absolute correction of a moved cell, in std; None where none moved."""
        return float(np.median(np.abs(self.magnitudes))) if self.magnitudes.size else None

    @property
    def largest(self) -> ColumnChange | None:
        """The column with the largest single correction; None where no cell moved."""
        moved = [column for column in self.columns if column.largest > 0]
        return max(moved, key=lambda column: column.largest) if moved else None


def measure(
    observed: pd.DataFrame,
    refined: pd.DataFrame,
    roles: Mapping[str, str],
    scales: Mapping[str, float],
) -> Movement:
    """Measures what moved, one column at a time.

    Args:
        observed: Data before.
        refined: Data after, with the same rows and columns.
        roles: The refined columns, each with its role.
        scales: Standard deviation of each refined column, in its unit.
    """
    rows = len(observed)
    moved_row = np.zeros(rows, dtype=bool)
    moved_cells = 0
    columns: list[ColumnChange] = []
    for name, role in roles.items():
        before, after = values(observed, name), values(refined, name)
        scale = scales.get(name, 1.0)
        delta = correction(before, after, scale)
        present = np.isfinite(delta)
        moved = present & (delta != 0)
        moved_row |= moved
        moved_cells += int(moved.sum())
        columns.append(_column_change(name, role, before[present], after[present], scale))
    columns.sort(key=lambda column: -column.mean)
    picked = np.flatnonzero(moved_row)
    picked = picked[sample_rows(len(picked))]
    pooled = np.full((len(columns), len(picked)), np.nan)
    for place, name in enumerate(roles):
        before, after = values(observed, name)[picked], values(refined, name)[picked]
        pooled[place] = correction(before, after, scales.get(name, 1.0))
    magnitudes = pooled[np.isfinite(pooled) & (pooled != 0)]
    return Movement(rows, len(np.flatnonzero(moved_row)), moved_cells, magnitudes, columns)


def _column_change(name: str, role: str, before: Floats, after: Floats, scale: float) -> ColumnChange:
    size = np.abs(correction(before, after, scale))
    moved = size > 0
    if not size.size:
        return ColumnChange(name, role, 0.0, 0.0, 0.0, math.nan, math.nan, math.nan)
    spread = float(before.std())
    return ColumnChange(
        name,
        role,
        mean=float(size.mean()),
        largest=float(size.max()),
        moved_share=float(moved.mean()),
        typical_units=float(np.median(np.abs(after - before)[moved])) if moved.any() else math.nan,
        mean_shift=float(correction(before.mean(), after.mean(), scale)),
        std_ratio=float(after.std()) / spread if spread > 0 else math.nan,
    )
