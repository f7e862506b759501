"""A convolutional network along time, which can read a whole series at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_dropout
from denograd_engine.backbones.convolutions import Convolutions
from denograd_engine.backbones.shapes import series_shape


class CNN(nn.Module):
    """Dilated convolutions, their mean over the window and their last position, and a small head.

    Dilations double from layer to layer, for as many layers as the window holds (van den Oord et al. 2016; Bai et al.
    2018). Unlike theirs, the convolutions are not padded and have no residual connections, and the mean lets the
    gradient reach every step of the window.

    Args:
        input_shape: (window, columns).
        outputs: Number of targets.
        channels: Number of features of each layer; None takes up to three layers of 64, as fit the window.
        kernel: Taps of each convolution.
        hidden: Width of the head's hidden layer.
        dropout: Share of features dropped while training.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        channels: Sequence[int] | None = None,
        kernel: int = 3,
        hidden: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        window, columns = series_shape("cnn", input_shape)
        require_dropout(dropout)
        if channels is None:
            channels = (64,) * max(1, sum(1 + (kernel - 1) * (2**depth - 1) <= window for depth in (1, 2, 3)))
        dilations = [2**depth for depth in range(len(channels))]
        self.convolutions = Convolutions(window, columns, channels, kernel, dilations, dropout)
        self.positions = window - self.convolutions.reach + 1
        self.head = nn.Sequential(
            nn.Linear(2 * self.convolutions.width, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map windows of shape (items, window, columns) to (items, outputs)."""
        features = self.convolutions(x)
        predicted: Tensor = self.head(torch.cat([features.mean(dim=2), features[:, :, -1]], dim=1))
        return predicted

    def scan(self, steps: Tensor, starts: Tensor) -> Tensor:
        """Predictions of windows of one series, each step convolved once.

        Args:
            steps: Shape (steps, columns).
            starts: First step of each window, shape (windows,).

        Returns:
            Shape (windows, outputs).
        """
        features = self.convolutions(steps.unsqueeze(0)).squeeze(0)
        means = nn.functional.avg_pool1d(features, self.positions, stride=1)
        pooled = torch.cat([means[:, starts], features[:, starts + self.positions - 1]])
        predicted: Tensor = self.head(pooled.T)
        return predicted
