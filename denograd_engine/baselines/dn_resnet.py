"""DN-ResNet, a residual convolutional denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor, nn

from denograd_engine.baselines import Baseline
from denograd_engine.baselines.cells import kept, spans
from denograd_engine.baselines.filling import Filling
from denograd_engine.baselines.fitting import Fitting, denoised_by, fit_denoiser, seeded
from denograd_engine.baselines.patches import Patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS = 32
BLOCKS = 5
CROP = 48
"""Steps of a series that the network is trained on at once."""
FITTING = Fitting(steps=1000, batch_size=64)


@final
class DNResNet(Baseline):
    """DN-ResNet (Ren, El-Khamy and Lee 2018) in one dimension.

    It convolves over the columns of a row, in their order, or, in a series, over time with the columns as channels,
    each run as a whole. As in the source, training is a cascade: it begins with three convolutions, and residual
    blocks are put in one after another. Deviations: the loss is the squared error without the weight on edges; the
    network gives the correction of its input; without clean data, it learns to undo noise that is added to the noisy
    rows, and is then applied to the noisy rows themselves. Runs on the CPU.
    """

    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        self.noise = noise
        self.filling = Filling.fit(cells, runs)
        patches = Patches.of(len(cells), runs, CROP)
        items = patches.cut(self.filling.fill(cells, runs))
        present = patches.cut((~np.isnan(cells)).astype(np.float64)) > 0
        with seeded(self.seed):
            self.network = _Network(0 if runs is None else cells.shape[1])
            ordered = runs is not None
            fit_denoiser(self.network, items, present, noise, FITTING, ordered, self.network.grow)

    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        filled = self.filling.fill(cells, runs)
        if runs is None:
            return kept(cells, self.noise, denoised_by(self.network, filled[:, :, None])[:, :, 0])
        denoised = filled.copy()
        for span in spans(len(cells), runs):
            denoised[span] = denoised_by(self.network, filled[span].T[None])[0].T
        return kept(cells, self.noise, denoised)


class _Network(nn.Module):
    """Maps (items, P, width) to the same shape.

    Args:
        channels: Columns that are channels of a series; 0 convolves over the columns of single rows.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.over_columns = not channels
        channels = channels or 1
        self.first = nn.Conv1d(channels, CHANNELS, 5, padding="same")
        self.second = nn.Conv1d(CHANNELS, CHANNELS, 3, padding="same")
        self.blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.last = nn.Conv1d(CHANNELS, channels, 5, padding="same")
        self.active = 0

    def grow(self, progress: float) -> None:
        """Put in the blocks that are due, one after another over the first half of the training."""
        self.active = min(BLOCKS, int(2 * progress * (BLOCKS + 1)))

    def forward(self, x: Tensor) -> Tensor:
        seen = x.transpose(1, 2) if self.over_columns else x
        hidden = torch.relu(self.second(torch.relu(self.first(seen))))
        for block in list(self.blocks)[: self.active]:
            hidden = block(hidden)
        correction = self.last(hidden)
        corrected: Tensor = x + (correction.transpose(1, 2) if self.over_columns else correction)
        return corrected


class _Block(nn.Module):
    """A residual block, which changes nothing until it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv1d(CHANNELS, CHANNELS, 3, padding="same")
        self.outer = nn.Conv1d(CHANNELS, CHANNELS, 3, padding="same")
        nn.init.zeros_(self.outer.weight)
        if self.outer.bias is not None:
            nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.outer(torch.relu(self.inner(x)))
        return changed
