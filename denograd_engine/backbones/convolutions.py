"""Convolutions along time whose features belong to a step, whichever window looks at it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_positive, require_span


class Convolutions(nn.Module):
    """Unpadded convolutions of stride 1, SiLU after each.

    Without padding, the feature of a stretch of steps does not depend on where the window around it begins. So one pass
    over the whole series serves all its windows.

    Args:
        window: Steps of a window, which the convolutions must fit.
        columns: Columns of the series.
        channels: Number of features of each layer.
        kernel: Taps of each convolution.
        dilations: Distance between the taps of each layer.
        dropout: Share of features dropped while training.

    Attributes:
        width: Features of one position.
        reach: Steps that one position sees.
    """

    def __init__(
        self,
        window: int,
        columns: int,
        channels: Sequence[int],
        kernel: int,
        dilations: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        require_positive(kernel=kernel)
        self.reach = 1 + (kernel - 1) * sum(dilations)
        require_span("kernel", self.reach, window, "choose a smaller kernel or fewer channels")
        layers: list[nn.Module] = []
        self.width = columns
        for features, dilation in zip(channels, dilations, strict=True):
            require_positive(channels=features)
            layers += [nn.Conv1d(self.width, features, kernel, dilation=dilation), nn.SiLU(), nn.Dropout(dropout)]
            self.width = features
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (items, steps, columns) to (items, width, steps - reach + 1)."""
        features: Tensor = self.layers(x.transpose(1, 2))
        return features
