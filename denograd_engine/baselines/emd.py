"""Empirical mode decomposition with interval thresholding."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
from PyEMD import EMD

from denograd_engine.baselines import Baseline
from denograd_engine.baselines.cells import bridged, column_by_column, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAD = 0.6745
"""Median absolute value of a standard Gaussian."""
BETA, RHO = 0.719, 2.01
"""How the variance of white noise falls from mode to mode: V_k = V_1 / BETA * RHO^-k from the second on."""
FIRST_SHARE = 1 / (1 + 1 / (BETA * RHO * (RHO - 1)))
"""Share of the variance of white noise in the first mode, after the same law."""
SHORTEST = 8
"""Steps below which a run has no modes to speak of."""
SIFTINGS = 10
"""Of each mode: the number that the constants above were found for."""


@final
class ModeDecomposition(Baseline):
    """EMD-IT (Kopsinis and McLaughlin 2009, IEEE Trans. Signal Processing 57(4), section III), column by column.

    A mode is cut at its zero crossings. An interval whose extremum stays below a threshold is noise, the others are
    drawn towards zero as a whole (soft thresholding). V_k, the variance of white noise in mode k, follows from that in
    the first (Flandrin, Goncalves and Rilling 2004): the known noise determines it, unknown noise is estimated by the
    median absolute value of the first mode over 0.6745. The rows of a table are taken to be in order of time.

    Deviation: the threshold is V_k / s_k, s_k the std of the clean part of the mode (BayesShrink, as for wavelets),
    in place of the universal C sqrt(2 V_k ln n), which is meant for sparse signals and removes most of a dense one.
    """

    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        self.noise = noise
        self.first = np.square(noise) * FIRST_SHARE
        for column in np.flatnonzero(np.isnan(noise)).tolist():
            found = [_modes(run, most=1)[0] for run in pieces(cells, column, runs) if len(run) >= SHORTEST]
            self.first[column] = (np.median(np.abs(np.concatenate(found))) / MAD) ** 2 if found else 0.0

    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        return column_by_column(cells, self.noise, runs, lambda run, column: _cleaned(run, float(self.first[column])))


def _modes(run: NDArray[np.float64], most: int = -1) -> NDArray[np.float64]:
    """Shape (modes, steps): the finest first, the trend last."""
    modes: NDArray[np.float64] = EMD(FIXE=SIFTINGS)(bridged(run), max_imf=most)
    return modes


def _cleaned(run: NDArray[np.float64], first: float) -> NDArray[np.float64]:
    if len(run) < SHORTEST:
        return run
    modes = _modes(run)
    total: NDArray[np.float64] = modes[-1].copy()
    for number, mode in enumerate(modes[:-1], start=1):
        variance = first if number == 1 else first / BETA * float(RHO**-number)
        clean = float(np.sqrt(max(float(np.mean(np.square(mode))) - variance, 0.0)))
        total += _thresholded(mode, variance / clean if clean > 0 else np.inf)
    return total


def _thresholded(mode: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    starts = np.concatenate([[0], np.flatnonzero(np.diff(np.signbit(mode))) + 1])
    peaks = np.maximum.reduceat(np.abs(mode), starts)
    factors = np.maximum(peaks - threshold, 0.0) / np.where(peaks > 0, peaks, 1.0)
    kept: NDArray[np.float64] = mode * np.repeat(factors, np.diff([*starts, len(mode)]))
    return kept
