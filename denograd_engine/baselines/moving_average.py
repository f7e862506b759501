"""The centred moving average."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
from scipy.ndimage import uniform_filter1d

from denograd_engine.baselines import Baseline
from denograd_engine.baselines.cells import column_by_column, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

REACHES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)
"""Steps to either side that are tried."""


@final
class MovingAverage(Baseline):
    """Each cell becomes the mean of the present cells around it, in its column and run.

    The window is chosen for each column: by leave-one-out prediction error where the noise is unknown; where it is
    known, by Mallows' Cp (1973), which counts leaving the column alone among the choices. Towards the end of a run the
    window is cut off there. The rows of a table are taken to be in order of time.
    """

    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        self.noise = noise
        self.reach = [_chosen(pieces(cells, column, runs), std) for column, std in enumerate(noise.tolist())]

    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        return column_by_column(cells, self.noise, runs, lambda run, column: _mean(run, self.reach[column])[0])


def _mean(run: NDArray[np.float64], reach: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean about each step, and how many cells went into it; each of shape (steps,)."""
    width = 2 * reach + 1
    present = ~np.isnan(run)
    count = np.rint(uniform_filter1d(present.astype(np.float64), width, mode="constant") * width)
    total = uniform_filter1d(np.where(present, run, 0.0), width, mode="constant") * width
    return total / np.maximum(count, 1), count


def _chosen(runs: list[NDArray[np.float64]], std: float) -> int:
    if not runs or std == 0:
        return 0
    errors = {reach: _error(runs, reach, std) for reach in REACHES}
    if not np.isnan(std):
        errors[0] = std**2
    return min(errors, key=errors.__getitem__)


def _error(runs: list[NDArray[np.float64]], reach: int, std: float) -> float:
    """Expected squared error of the means where the noise is known; elsewhere that plus the noise variance."""
    terms = []
    for run in runs:
        mean, count = _mean(run, reach)
        used = ~np.isnan(run) & (count > 1)
        residual, own = (run - mean)[used], 1 / count[used]
        terms.append(np.square(residual / (1 - own)) if np.isnan(std) else np.square(residual) + std**2 * (2 * own - 1))
    joined = np.concatenate(terms)
    return float(joined.mean()) if len(joined) else np.inf
