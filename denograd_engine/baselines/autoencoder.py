"""The denoising autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
from torch import nn

from denograd_engine.baselines import Baseline
from denograd_engine.baselines.cells import kept
from denograd_engine.baselines.filling import Filling
from denograd_engine.baselines.fitting import Fitting, denoised_by, fit_denoiser, seeded
from denograd_engine.baselines.patches import Patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIDDEN = (64, 256)
"""Fewest and most units of a hidden layer, which has four for each input."""
CODES = (1 / 2, 1.0)
"""Widths of the code that are tried, as shares of the inputs."""
FITTING = Fitting(steps=2000, batch_size=256)


@final
class Autoencoder(Baseline):
    """Rows (in a series: windows, whose results are averaged) through a narrow layer (Vincent et al. 2008).

    Without clean data, the network learns to undo noise that is added to the noisy rows, and is then applied to the
    noisy rows themselves. The width of the code is chosen by the loss on rows held out of that. Runs on the CPU.
    """

    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        self.noise = noise
        self.filling = Filling.fit(cells, runs)
        patches = Patches.of(len(cells), runs)
        items = patches.cut(self.filling.fill(cells, runs))
        present = patches.cut((~np.isnan(cells)).astype(np.float64)) > 0
        with seeded(self.seed):
            tried = [_network(items.shape[1], items.shape[2], share) for share in CODES]
            losses = [fit_denoiser(one, items, present, noise, FITTING, ordered=runs is not None) for one in tried]
        self.network = tried[int(np.argmin(losses))]

    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        patches = Patches.of(len(cells), runs)
        items = patches.cut(self.filling.fill(cells, runs))
        return kept(cells, self.noise, patches.fold(denoised_by(self.network, items)))


def _network(columns: int, width: int, share: float) -> nn.Module:
    size = columns * width
    hidden = min(max(4 * size, HIDDEN[0]), HIDDEN[1])
    code = max(2, round(share * size))
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(size, hidden),
        nn.ReLU(),
        nn.Linear(hidden, code),
        nn.Linear(code, hidden),
        nn.ReLU(),
        nn.Linear(hidden, size),
        nn.Unflatten(1, (columns, width)),
    )
