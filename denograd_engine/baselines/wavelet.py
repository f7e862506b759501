"""Soft thresholding of wavelet coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import pywt

from denograd_engine.baselines import Baseline
from denograd_engine.baselines.cells import bridged, column_by_column, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAVELET = "sym8"
SHIFTS = 8
"""Positions of the grid that are averaged over."""
MAD = 0.6745
"""Median absolute value of a standard Gaussian."""


@final
class Wavelet(Baseline):
    """BayesShrink (Chang, Yu and Vetterli 2000) with cycle spinning (Coifman and Donoho 1995), column by column.

    Details of level j are drawn towards zero by sigma^2 / s_j, s_j the std of their clean part. Noise that is unknown
    is the median absolute detail of the finest level over 0.6745. Both are learnt in `fit` from all runs together; a
    level that no run there was long enough for stays as it is. The rows of a table are taken to be in order of time.
    """

    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        self.noise = noise
        self.thresholds = [_thresholds(pieces(cells, column, runs), std) for column, std in enumerate(noise.tolist())]

    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        return column_by_column(cells, self.noise, runs, lambda run, column: _shrunk(run, self.thresholds[column]))


def _details(run: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Smooth part first, then the details, the finest last."""
    wavelet = pywt.Wavelet(WAVELET)
    return list(pywt.wavedec(run, wavelet, mode="symmetric", level=pywt.dwt_max_level(len(run), wavelet)))


def _thresholds(runs: list[NDArray[np.float64]], std: float) -> list[float]:
    """One for each level, the finest first."""
    if std == 0:
        return []
    levels: list[list[NDArray[np.float64]]] = []
    for run in runs:
        for level, detail in enumerate(reversed(_details(bridged(run))[1:])):
            if level == len(levels):
                levels.append([])
            levels[level].append(detail)
    details: list[NDArray[np.float64]] = [np.concatenate(level) for level in levels]
    if details and np.isnan(std):
        std = float(np.median(np.abs(details[0])) / MAD)
    clean = [float(np.sqrt(max(float(np.mean(np.square(detail))) - std**2, 0.0))) for detail in details]
    return [std**2 / spread if spread > 0 else np.inf for spread in clean]


def _shrunk(run: NDArray[np.float64], thresholds: list[float]) -> NDArray[np.float64]:
    total = np.zeros(len(run))
    whole = bridged(run)
    for shift in range(SHIFTS):
        smooth, *details = _details(np.pad(whole, (shift, 0), mode="symmetric"))
        bounds = [*thresholds, *[0.0] * len(details)][: len(details)]
        shrunk = [
            np.sign(detail) * np.maximum(np.abs(detail) - bound, 0.0)
            for detail, bound in zip(details, reversed(bounds), strict=True)
        ]
        total += pywt.waverec([smooth, *shrunk], WAVELET, mode="symmetric")[shift : shift + len(run)]
    return total / SHIFTS
