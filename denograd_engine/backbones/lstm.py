"""A long short-term memory network that reads a window and predicts from its last state."""

from __future__ import annotations

from torch import Tensor, nn

from denograd_engine.backbones.recurrent import LastState
from denograd_engine.backbones.shapes import series_shape


class LSTM(nn.Module):
    """Stacked LSTM layers and a linear head on the last step's state (Hochreiter & Schmidhuber 1997).

    Args:
        input_shape: (window, columns).
        outputs: Number of targets.
        hidden: Width of the state.
        layers: Number of stacked layers.
        dropout: Share dropped between layers and before the head while training.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        hidden: int = 64,
        layers: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _, columns = series_shape("lstm", input_shape)
        self.last = LastState(nn.LSTM, columns, outputs, hidden, layers, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map windows of shape (items, window, columns) to (items, outputs)."""
        predicted: Tensor = self.last(x)
        return predicted
