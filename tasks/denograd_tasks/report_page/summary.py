"""What a cleaning run changed, in numbers: columns, pairs of columns, and the most corrected stretch of a series."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SAMPLE_ROWS = 100_000
_SEED = 42


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
        cells: Present cells of all refined columns.
        sampled: Rows behind `magnitudes`, fewer than `rows` in large data.
        magnitudes: Signed corrections of the moved cells of the sampled rows, in std.
        columns: Every refined column, the most moved first.
    """

    rows: int
    moved_rows: int
    moved_cells: int
    cells: int
    sampled: int
    magnitudes: Floats
    columns: list[ColumnChange]

    @property
    def typical(self) -> float | None:
        """Median absolute correction of a moved cell, in std; None where none moved."""
        return float(np.median(np.abs(self.magnitudes))) if self.magnitudes.size else None

    @property
    def largest(self) -> ColumnChange | None:
        """The column with the largest single correction; None where no cell moved."""
        moved = [column for column in self.columns if column.largest > 0]
        return max(moved, key=lambda column: column.largest) if moved else None


@dataclass(frozen=True)
class PairChange:
    """Pearson's r of two columns, before and after."""

    first: str
    second: str
    before: float
    after: float


@dataclass(frozen=True)
class Structure:
    """Correlation before and after, over the same columns in the same order."""

    names: list[str]
    before: Floats
    after: Floats

    @property
    def difference(self) -> Floats:
        """After minus before; NaN where either is undefined."""
        return self.after - self.before

    @property
    def mean_change(self) -> float | None:
        """Mean absolute change over the pairs that are defined; None without one."""
        upper = np.abs(self.difference[np.triu_indices(len(self.names), 1)])
        defined = upper[np.isfinite(upper)]
        return float(defined.mean()) if defined.size else None

    def most_changed(self, limit: int = 8) -> list[PairChange]:
        """The pairs whose correlation changed most, the most changed first."""
        rows, columns = np.triu_indices(len(self.names), 1)
        change = np.nan_to_num(np.abs(self.difference[rows, columns]))
        order = [i for i in np.argsort(-change, kind="stable")[:limit] if change[i] > 0]
        return [
            PairChange(
                self.names[rows[i]],
                self.names[columns[i]],
                float(self.before[rows[i], columns[i]]),
                float(self.after[rows[i], columns[i]]),
            )
            for i in order
        ]


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of one column within one entity.

    Attributes:
        column: The column.
        time: Its time stamps, or step numbers where the time axis is neither a date nor a number.
        observed: Values before, in the column's unit.
        refined: Values after.
        correction: Refined minus observed, in std.
        profile: Mean absolute correction of the column along the whole time axis, in std, in equal shares of rows.
        span: Where the stretch lies on that axis, as two shares of its length.
    """

    column: str
    time: NDArray[np.generic]
    observed: Floats
    refined: Floats
    correction: Floats
    profile: Floats
    span: tuple[float, float]


def values(frame: pd.DataFrame, column: str) -> Floats:
    """A column as float64, NaN where it is missing or infinite."""
    array = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(array), array, np.nan)


def correction(observed: Floats, refined: Floats, scale: float) -> Floats:
    """Refined minus observed in std; NaN where either is missing."""
    return (refined - observed) / (scale if scale > 0 and math.isfinite(scale) else 1.0)


def sample_rows(rows: int, limit: int = SAMPLE_ROWS) -> NDArray[np.intp]:
    """Positions of at most `limit` rows, in order, the same for the same number of rows."""
    if rows <= limit:
        return np.arange(rows)
    return np.sort(np.random.default_rng(_SEED).choice(rows, limit, replace=False))


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
    picked = sample_rows(rows)
    moved_row = np.zeros(rows, dtype=bool)
    moved_cells = cells = 0
    magnitudes: list[Floats] = []
    columns: list[ColumnChange] = []
    for name, role in roles.items():
        before, after = values(observed, name), values(refined, name)
        scale = scales.get(name, 1.0)
        delta = correction(before, after, scale)
        present = np.isfinite(delta)
        moved = present & (delta != 0)
        moved_row |= moved
        moved_cells += int(moved.sum())
        cells += int(present.sum())
        magnitudes.append(delta[picked][moved[picked]])
        columns.append(_column_change(name, role, before[present], after[present], delta[present], scale))
    columns.sort(key=lambda column: -column.mean)
    pooled = np.concatenate(magnitudes) if magnitudes else np.empty(0)
    return Movement(rows, int(moved_row.sum()), moved_cells, cells, len(picked), pooled, columns)


def _column_change(
    name: str, role: str, before: Floats, after: Floats, delta: Floats, scale: float
) -> ColumnChange:
    size = np.abs(delta)
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


def compare_structure(observed: pd.DataFrame, refined: pd.DataFrame, names: Sequence[str]) -> Structure:
    """Pearson's r between columns, before and after, over the rows where both cells are present.

    Columns that correlate are put side by side (average linkage on 1 - |r| before, leaves in optimal order).
    """
    picked = sample_rows(len(observed))
    before, after = _pearson(observed, names, picked), _pearson(refined, names, picked)
    order = _similar_side_by_side(before)
    grid = np.ix_(order, order)
    return Structure([names[i] for i in order], before[grid], after[grid])


def _pearson(frame: pd.DataFrame, names: Sequence[str], picked: NDArray[np.intp]) -> Floats:
    part = pd.DataFrame({name: values(frame, name)[picked] for name in names})
    with np.errstate(all="ignore"):
        if part.isna().to_numpy().any():
            found = part.corr(min_periods=3).to_numpy(dtype=np.float64, copy=True)
        elif len(part) >= 3:
            centred = part.to_numpy() - part.to_numpy().mean(axis=0)
            length = np.sqrt((centred**2).sum(axis=0))
            found = (centred.T @ centred) / np.outer(length, length)
        else:
            found = np.full((len(names), len(names)), np.nan)
    return np.clip(found, -1.0, 1.0)


def _similar_side_by_side(matrix: Floats) -> list[int]:
    if len(matrix) < 3:
        return list(range(len(matrix)))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = 1.0 - np.abs(np.nan_to_num(matrix))
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
    return [int(i) for i in leaves_list(tree)]


def most_corrected_stretch(
    observed: pd.DataFrame,
    refined: pd.DataFrame,
    column: str,
    scale: float,
    time: str | None,
    entity: Iterable[str],
    steps: int = 150,
    bins: int = 240,
) -> Stretch | None:
    """Finds the window of one column with the largest mean absolute correction, within one entity.

    Args:
        observed: Data before.
        refined: Data after.
        column: The column to look at.
        scale: Its standard deviation, in its unit.
        time: Column (or index level) to order by; None keeps the order of rows.
        entity: Columns that tell one series from another.
        steps: Length of the window; the longest entity's where all are shorter.
        bins: Points of the profile along the whole time axis.

    Returns:
        The stretch, or None where there are fewer than two rows.
    """
    if len(observed) < 2:
        return None
    axis = _time_axis(observed, time)
    keys = list(entity)
    group = observed.groupby(keys, sort=False, dropna=False).ngroup().to_numpy() if keys else np.zeros(len(axis))
    rank = pd.factorize(pd.Series(axis), sort=True)[0]
    order = np.lexsort((rank, group))
    before, after = values(observed, column)[order], values(refined, column)[order]
    delta = correction(before, after, scale)
    size = np.nan_to_num(np.abs(delta))
    group, axis = group[order], axis[order]

    width = int(min(steps, np.unique(group, return_counts=True)[1].max()))
    total = np.concatenate([[0.0], np.cumsum(size)])
    windows = total[width:] - total[:-width]
    windows[group[: len(windows)] != group[width - 1 :]] = -1.0
    start = int(np.argmax(windows))
    part = slice(start, start + width)

    along = np.argsort(rank, kind="stable")
    in_time = np.nan_to_num(np.abs(correction(values(observed, column), values(refined, column), scale)))[along]
    profile = np.array([chunk.mean() for chunk in np.array_split(in_time, min(bins, len(in_time)))])
    place = np.searchsorted(rank[along], rank[order][[start, start + width - 1]]) / len(in_time)
    return Stretch(
        column, axis[part], before[part], after[part], delta[part], profile, (float(place[0]), float(place[1]))
    )


def _time_axis(frame: pd.DataFrame, time: str | None) -> NDArray[np.generic]:
    if time is None:
        return np.arange(len(frame))
    held = frame[time] if time in frame.columns else frame.index.get_level_values(time).to_series()
    if isinstance(held.dtype, pd.DatetimeTZDtype):
        held = held.dt.tz_convert("UTC").dt.tz_localize(None)
    if pd.api.types.is_datetime64_any_dtype(held) or pd.api.types.is_numeric_dtype(held):
        return np.asarray(held.to_numpy())
    return np.asarray(pd.factorize(held, sort=True)[0])
