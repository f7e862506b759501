"""Principal component analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
from sklearn.decomposition import PCA

from denograd_engine.baselines import Baseline
from denograd_engine.baselines.cells import kept
from denograd_engine.baselines.filling import Filling
from denograd_engine.baselines.patches import Patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_NOISE = 1e-3
"""Noise std that columns without noise are scaled by, in standardised units: they count as exact."""


@final
class PrincipalComponents(Baseline):
    """Rows (in a series: windows, which makes it singular spectrum analysis) on their leading components.

    Columns are scaled by their noise, so that noise alone has variance 1 in every direction. A component is kept where
    its variance l exceeds what noise reaches in that many columns and rows, (1 + sqrt(columns / rows))^2 (Marchenko and
    Pastur 1967), and what it keeps is multiplied by 1 - 1 / l, the share that is not noise.

    Where the noise of a column is unknown, it is taken to be that of probabilistic PCA over the noisy columns, with
    Minka's choice (2000) of the number of components: one std for all of them; 0 where there are fewer rows than
    columns.
    """

    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        self.noise = noise
        self.filling = Filling.fit(cells, runs)
        filled = self.filling.fill(cells, runs)
        items = Patches.of(len(cells), runs).cut(filled)
        rows, width = len(items), items.shape[2]
        std = np.where(np.isnan(noise), _unexplained(items[:, noise != 0]) if np.isnan(noise).any() else 0.0, noise)
        self.scale = np.repeat(np.maximum(std, LEAST_NOISE), width)
        if not items.std(axis=0).any():
            self.center, self.components = np.zeros(len(self.scale)), np.eye(len(self.scale))
            self.shares = np.ones(len(self.scale))
            return
        model = PCA(svd_solver="full").fit(items.reshape(rows, -1) / self.scale)
        self.center = model.mean_
        variances = model.explained_variance_
        above = variances > (1 + np.sqrt(len(self.scale) / rows)) ** 2
        self.components = model.components_[above]
        self.shares = 1 - 1 / variances[above]

    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        patches = Patches.of(len(cells), runs)
        items = patches.cut(self.filling.fill(cells, runs))
        centred = items.reshape(len(items), len(self.scale)) / self.scale - self.center
        signal = (centred @ self.components.T * self.shares) @ self.components
        denoised = ((signal + self.center) * self.scale).reshape(items.shape)
        return kept(cells, self.noise, patches.fold(denoised))


def _unexplained(items: NDArray[np.float64]) -> float:
    """Noise std after probabilistic PCA."""
    flat = items.reshape(len(items), -1)
    flat = flat[:, flat.std(axis=0) > 0]
    if len(flat) <= flat.shape[1] or flat.shape[1] < 2:
        return 0.0
    return float(np.sqrt(PCA("mle", svd_solver="full").fit(flat).noise_variance_))
