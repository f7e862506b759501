"""Did the correction distort the data? Statistics that need no clean data.

All of them compare the refined columns before and after, standardised by the observed data, with missing cells imputed
alike on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_engine.frames import Encoder

CONSTANT = 1e-9
"""A column whose spread is below this share of the fitted one is constant in the data at hand."""
PROJECTIONS = 100
SEED = 42


@dataclass(frozen=True)
class Fidelity:
    """How far the refined data are from the observed.

    Attributes:
        swd: Sliced Wasserstein distance between observed and refined rows (p = 2, standardised).
        rho: Pearson correlation of each refined column with itself before.
        mean_drift: |change of the mean| of each, in std; of a constant column, in the fitted std.
        std_ratio: Standard deviation after over before, of each; of a constant column, 1 and the fitted stds it gained.
        correlation_change: Mean absolute change of the correlations between refined columns; 0 if there is one column.
        moved: Share of rows of which any cell changed.
        largest_correction: Of a single cell, in std.
        mean_squared_correction: Of each column's cells, in std squared.
        untouched_identical: Whether every frozen and ignored column is bit-identical.
        rows_kept: Whether number, order and index of the rows are the same.
        rows: Rows that were compared.
    """

    swd: float
    rho: Mapping[str, float]
    mean_drift: Mapping[str, float]
    std_ratio: Mapping[str, float]
    correlation_change: float
    moved: float
    largest_correction: float
    mean_squared_correction: Mapping[str, float]
    untouched_identical: bool
    rows_kept: bool
    rows: int

    @property
    def mean_rho(self) -> float:
        return float(np.mean(list(self.rho.values())))


def measure_fidelity(
    observed: pd.DataFrame, refined: pd.DataFrame, encoder: Encoder, rows: NDArray[np.bool_] | None = None
) -> Fidelity:
    """Compare a table with its refinement.

    Args:
        observed: As it came, in the user's units.
        refined: The same rows and columns after refinement.
        encoder: Fitted on the observed table.
        rows: Which rows to compare, shape (rows,); None all. What must not change is compared in all of them.
    """
    schema = encoder.schema
    names = schema.refined
    same_rows = len(observed) == len(refined) and observed.index.equals(refined.index)
    if not same_rows or list(observed.columns) != list(refined.columns):
        raise ValueError("observed and refined must have the same rows and columns")
    before, after = (_standardised(one if rows is None else one[rows], encoder) for one in (observed, refined))
    correction = after - before
    spread_before, spread_after = before.std(axis=0), after.std(axis=0)
    constant = spread_before < CONSTANT
    unit = np.where(constant, 1.0, spread_before)
    return Fidelity(
        swd=sliced_wasserstein(before, after),
        rho=_by_name(names, _correlation_by_column(before, after)),
        mean_drift=_by_name(names, np.abs(correction.mean(axis=0)) / unit),
        std_ratio=_by_name(names, spread_after / unit + constant),
        correlation_change=_correlation_change(before, after),
        moved=float((correction != 0).any(axis=1).mean()),
        largest_correction=float(np.abs(correction).max()),
        mean_squared_correction=_by_name(names, np.square(correction).mean(axis=0)),
        untouched_identical=all(_identical(observed[name], refined[name]) for name in schema.untouched),
        rows_kept=same_rows,
        rows=len(before),
    )


def sliced_wasserstein(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Sliced 2-Wasserstein distance between two samples of rows, by POT with 100 projections and seed 42.

    Source: Bonneel et al. 2015; the projections are uniform on the sphere.
    """
    import ot

    if before.shape[1] == 1:
        return float(np.sqrt(np.mean(np.square(np.sort(before[:, 0]) - np.sort(after[:, 0])))))
    return float(ot.sliced_wasserstein_distance(before, after, n_projections=PROJECTIONS, p=2, seed=SEED))


def correlation_matrix(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlations between columns; a constant column correlates with nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.atleast_2d(np.corrcoef(values, rowvar=False))
    return np.nan_to_num(matrix)


def _standardised(frame: pd.DataFrame, encoder: Encoder) -> NDArray[np.float64]:
    columns = []
    for name, scale in zip(encoder.schema.cells, encoder.scales, strict=True):
        if encoder.schema[name].refined:
            raw = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
            columns.append(np.where(np.isnan(raw), scale.imputed, (raw - scale.center) / scale.spread))
    return np.column_stack(columns)


def _correlation_by_column(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = before - before.mean(axis=0), after - after.mean(axis=0)
    norm = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    rho: NDArray[np.float64] = np.divide((a * b).sum(axis=0), norm, out=np.zeros(a.shape[1]), where=norm > 0)
    return np.where((before == after).all(axis=0), 1.0, rho)


def _correlation_change(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    width = before.shape[1]
    if width == 1:
        return 0.0
    change = np.abs(correlation_matrix(after) - correlation_matrix(before))
    return float(change[~np.eye(width, dtype=bool)].mean())


def _identical(before: pd.Series, after: pd.Series) -> bool:
    if before.dtype != after.dtype:
        return False
    if pd.api.types.is_float_dtype(before.dtype) and isinstance(before.dtype, np.dtype):
        bits = f"u{before.dtype.itemsize}"
        return bool((before.to_numpy().view(bits) == after.to_numpy().view(bits)).all())
    return bool(before.equals(after))


def _by_name(names: list[str], values: NDArray[np.float64]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
