"""Missing cells, for denoisers that need complete rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.baselines.cells import bridged, spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS = 10
"""Of the EM algorithm."""
RIDGE = 1e-6
"""Added to the variances, in standardised units: columns may be copies of each other."""
MOST_ROWS = 20_000
"""Rows that the joint distribution is learnt from."""


@dataclass(frozen=True)
class Filling:
    """Fills a missing cell with what the present cells of its row let one expect, were the columns jointly Gaussian.

    In a series, a gap within a run is interpolated first. A cell so filled tells a linear denoiser nothing that the
    present cells do not.

    Attributes:
        mean: Shape (P,).
        covariance: Shape (P, P).
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def fit(cls, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> Filling:
        """Learn the joint distribution by EM (Little and Rubin 2002, section 11.2), from evenly spread rows."""
        observed = _interpolated(cells, runs)
        observed = observed[np.linspace(0, len(cells) - 1, min(len(cells), MOST_ROWS)).astype(np.int64)]
        missing = np.isnan(observed)
        seen = np.maximum((~missing).sum(axis=0), 1)
        mean = np.nansum(observed, axis=0) / seen
        variance = np.nansum(np.square(observed - mean), axis=0) / seen
        variance[missing.all(axis=0)] = 1.0
        filling = cls(mean, np.diag(variance + RIDGE))
        for _ in range(ROUNDS if missing.any() else 1):
            filled, uncertainty = filling._expected(observed)
            mean = filled.mean(axis=0)
            centred = filled - mean
            covariance = (centred.T @ centred + uncertainty) / len(observed) + RIDGE * np.eye(len(mean))
            filling = cls(mean, covariance)
        return filling

    def fill(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        """A copy of the cells, shape (rows, P), with no gap."""
        return self._expected(_interpolated(cells, runs))[0]

    def _expected(self, cells: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The cells filled, and the covariance, given the present ones, of those that were missing, over all rows."""
        filled, uncertainty = cells.copy(), np.zeros_like(self.covariance)
        gaps = np.isnan(cells)
        ragged = np.flatnonzero(gaps.any(axis=1))
        patterns, which = np.unique(gaps[ragged], axis=0, return_inverse=True)
        for number, missing in enumerate(patterns):
            rows = ragged[which == number]
            present = ~missing
            across = self.covariance[np.ix_(present, missing)]
            slope = np.linalg.solve(self.covariance[np.ix_(present, present)], across)
            filled[np.ix_(rows, missing)] = self.mean[missing] + (cells[rows][:, present] - self.mean[present]) @ slope
            remainder = self.covariance[np.ix_(missing, missing)] - across.T @ slope
            uncertainty[np.ix_(missing, missing)] += len(rows) * remainder
        return filled, uncertainty


def _interpolated(cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
    if runs is None or not np.isnan(cells).any():
        return cells
    filled = cells.copy()
    for span in spans(len(cells), runs):
        for column in np.flatnonzero(np.isnan(cells[span]).any(axis=0)).tolist():
            filled[span, column] = bridged(cells[span, column])
    return filled
