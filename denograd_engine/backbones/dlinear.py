"""A linear forecast from a window split into trend and remainder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_positive, require_span
from denograd_engine.backbones.shapes import series_shape
from denograd_engine.errors import ConfigError

PUBLISHED_KERNEL = 25


class DLinear(nn.Module):
    """One linear map of the moving average and one of what it leaves (Zeng et al. 2023, section 4).

    Theirs forecasts each column from its own past. This one predicts the targets from every column. Both maps and the
    moving average are linear in the window, so that they are folded into a single kernel before they meet the data.

    Args:
        input_shape: (window, columns).
        outputs: Number of targets.
        kernel: Steps of the moving average, odd; None takes about half the window, but not more than the published 25.
    """

    linear = True
    average: Tensor

    def __init__(self, input_shape: tuple[int, ...], outputs: int, kernel: int | None = None) -> None:
        super().__init__()
        window, columns = series_shape("dlinear", input_shape)
        kernel = min(PUBLISHED_KERNEL, window // 4 * 2 + 1) if kernel is None else kernel
        require_positive(kernel=kernel)
        require_span("kernel", kernel, window, "choose a shorter moving average")
        if kernel % 2 == 0:
            raise ConfigError(
                "backbone.arguments.kernel must be odd, so that the moving average has a middle",
                found=str(kernel),
                where="backbone.arguments.kernel",
            )
        self.register_buffer("average", moving_average(window, kernel), persistent=True)
        self.trend = nn.Parameter(torch.empty(outputs, columns, window))
        self.remainder = nn.Parameter(torch.empty(outputs, columns, window))
        self.bias = nn.Parameter(torch.zeros(outputs))
        for weight in (self.trend, self.remainder):
            nn.init.normal_(weight, std=1 / (window * columns))

    def forward(self, x: Tensor) -> Tensor:
        """Map windows of shape (items, window, columns) to (items, outputs)."""
        return nn.functional.linear(x.transpose(1, 2).flatten(1), self.kernel().flatten(1), self.bias)

    def scan(self, steps: Tensor, starts: Tensor) -> Tensor:
        """Predictions of windows of one series, by a single convolution.

        Args:
            steps: Shape (steps, columns).
            starts: First step of each window, shape (windows,).

        Returns:
            Shape (windows, outputs).
        """
        predicted: Tensor = nn.functional.conv1d(steps.T.unsqueeze(0), self.kernel(), self.bias)
        return predicted[0, :, starts].T

    def kernel(self) -> Tensor:
        """Weight of every cell of a window, shape (outputs, columns, window)."""
        return self.remainder + (self.trend - self.remainder) @ self.average


def moving_average(window: int, kernel: int) -> Tensor:
    """The centred moving average as a matrix, the ends repeated beyond the window as in the paper's code.

    Returns:
        Shape (window, window): row t holds the weights of the average at step t.

    >>> moving_average(3, 3)
    tensor([[0.6667, 0.3333, 0.0000],
            [0.3333, 0.3333, 0.3333],
            [0.0000, 0.3333, 0.6667]])
    """
    beside = kernel // 2
    covered = torch.arange(window)[:, None] + torch.arange(-beside, beside + 1)
    rows = torch.zeros(window, window)
    return rows.scatter_add_(1, covered.clamp(0, window - 1), torch.full_like(covered, 1 / kernel, dtype=rows.dtype))
