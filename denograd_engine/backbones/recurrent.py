"""Recurrent layers and what is read off their last state."""

from __future__ import annotations

from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_dropout, require_positive


class LastState(nn.Module):
    """Stacked recurrent layers and a linear head on the last step's state.

    Args:
        layer: `nn.LSTM` or `nn.GRU`.
        columns: Numbers of each step.
        outputs: Number of targets.
        hidden: Width of the state.
        layers: Number of stacked layers.
        dropout: Share dropped between layers and before the head while training.
    """

    def __init__(
        self, layer: type[nn.LSTM] | type[nn.GRU], columns: int, outputs: int, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        require_positive(hidden=hidden, layers=layers)
        require_dropout(dropout)
        between = dropout if layers > 1 else 0.0
        self.recurrent = layer(columns, hidden, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (items, steps, columns) to (items, outputs)."""
        states, _ = self.recurrent(x)
        predicted: Tensor = self.head(self.dropout(states[:, -1]))
        return predicted
