"""Convolutions that see short patterns, and a long short-term memory network over what they see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_dropout
from denograd_engine.backbones.convolutions import Convolutions
from denograd_engine.backbones.recurrent import LastState
from denograd_engine.backbones.shapes import series_shape


class CNNLSTM(nn.Module):
    """Convolutions, an LSTM over their features, and a linear head on its last state (Sainath et al. 2015).

    Args:
        input_shape: (window, columns).
        outputs: Number of targets.
        channels: Number of features of each convolution.
        kernel: Taps of each convolution.
        hidden: Width of the state.
        layers: Number of stacked LSTM layers.
        dropout: Share of features dropped while training.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        channels: Sequence[int] = (64,),
        kernel: int = 3,
        hidden: int = 64,
        layers: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        window, columns = series_shape("cnn_lstm", input_shape)
        require_dropout(dropout)
        self.convolutions = Convolutions(window, columns, channels, kernel, [1] * len(channels), dropout)
        self.positions = window - self.convolutions.reach + 1
        self.last = LastState(nn.LSTM, self.convolutions.width, outputs, hidden, layers, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map windows of shape (items, window, columns) to (items, outputs)."""
        predicted: Tensor = self.last(self.convolutions(x).transpose(1, 2))
        return predicted

    def scan(self, steps: Tensor, starts: Tensor) -> Tensor:
        """Predictions of windows of one series, each step convolved once; the LSTM runs over every window.

        Args:
            steps: Shape (steps, columns).
            starts: First step of each window, shape (windows,).

        Returns:
            Shape (windows, outputs).
        """
        features = self.convolutions(steps.unsqueeze(0)).squeeze(0).T
        seen = starts[:, None] + torch.arange(self.positions, device=starts.device)
        predicted: Tensor = self.last(features[seen])
        return predicted
