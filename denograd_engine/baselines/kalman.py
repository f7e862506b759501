"""The Kalman smoother of a local linear trend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np
from scipy.optimize import minimize
from statsmodels.tsa.statespace.structural import UnobservedComponents

from denograd_engine.baselines import Baseline
from denograd_engine.baselines.cells import column_by_column, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_STEPS = 20_000
"""Steps of a column that the likelihood is computed over."""
BOUNDS = (-18.0, 4.0)
"""Of the logarithm of a variance."""


@final
class Kalman(Baseline):
    """Fixed-interval (Rauch-Tung-Striebel) smoothing of a local linear trend, column by column.

    Level and slope are random walks (Harvey 1989, section 2.3.2); a slope that never moves leaves the local level.
    Their variances have the greatest likelihood over all runs together, as has the variance of the noise where it is
    unknown. Every run starts afresh, with an exact diffuse prior. The rows of a table are taken to be in order of
    time.
    """

    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        self.noise = noise
        self.variances = [
            _likeliest(pieces(cells, column, runs, MOST_STEPS), std) for column, std in enumerate(noise.tolist())
        ]

    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        return column_by_column(cells, self.noise, runs, lambda run, column: _smoothed(run, self.variances[column]))


def _trend(run: NDArray[np.float64]) -> Any:
    return UnobservedComponents(run, "lltrend", use_exact_diffuse=True)


def _likeliest(runs: list[NDArray[np.float64]], std: float) -> NDArray[np.float64]:
    """Variances of noise, level and slope, shape (3,)."""
    if not runs or std == 0:
        return np.zeros(3)
    known = [] if np.isnan(std) else [std**2]
    models = [_trend(run) for run in runs]
    steps = sum(map(len, runs))

    def variances(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([known, np.exp(logarithms)])

    def cost(logarithms: NDArray[np.float64]) -> float:
        found = variances(logarithms)
        return -float(sum(model.loglike(found) for model in models)) / steps

    start = np.log([0.1, 0.03, 0.001])[len(known) :]
    return variances(minimize(cost, start, method="L-BFGS-B", bounds=[BOUNDS] * len(start)).x)


def _smoothed(run: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    if not variances.any():
        return run
    level: NDArray[np.float64] = _trend(run).smooth(variances, return_ssm=True).smoothed_state[0]
    return level
