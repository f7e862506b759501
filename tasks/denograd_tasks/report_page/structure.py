"""Correlation between columns, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from denograd_tasks.report_page.cells import Floats, sample_rows, values


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
    return np.asarray(np.clip(found, -1.0, 1.0), dtype=np.float64)


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
