"""A multilayer perceptron, for tables and for flattened windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_dropout, require_positive


class MLP(nn.Module):
    """Linear layers with SiLU between them; smooth, so that its gradient to the input is informative.

    Args:
        input_shape: (columns,), or (window, columns), which is flattened.
        outputs: Number of targets.
        hidden: Width of each hidden layer.
        dropout: Share of hidden units dropped while training.
    """

    def __init__(
        self, input_shape: tuple[int, ...], outputs: int, hidden: Sequence[int] = (128, 64), dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_dropout(dropout)
        layers: list[nn.Module] = [nn.Flatten()]
        width = prod(input_shape)
        for units in hidden:
            require_positive(hidden=units)
            layers += [nn.Linear(width, units), nn.SiLU(), nn.Dropout(dropout)]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs of shape (items, *input_shape) to (items, outputs)."""
        predicted: Tensor = self.layers(x)
        return predicted
