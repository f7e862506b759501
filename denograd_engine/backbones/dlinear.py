"""A linear forecast from a window split into trend and remainder."""

from __future__ import annotations

from typing import Any

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
        """Predictions of windows of one series, by a single convolution. Its gradient reaches the steps alone.

        Args:
            steps: Shape (steps, columns).
            starts: First step of each window, shape (windows,).

        Returns:
            Shape (windows, outputs).
        """
        slid: Tensor = _Slide.apply(steps, self.kernel())  # type: ignore[no-untyped-call]
        return slid[starts] + self.bias

    def kernel(self) -> Tensor:
        """Weight of every cell of a window, shape (outputs, columns, window)."""
        return self.remainder + (self.trend - self.remainder) @ self.average


class _Slide(torch.autograd.Function):
    """A kernel slid along a series: a convolution for few columns, as one matrix product and a sum along diagonals.

    Measured on 17,420 steps of 7 columns, window 24, one output: five times as fast as `conv1d`, gradient included.
    """

    @staticmethod
    def forward(ctx: Any, steps: Tensor, kernel: Tensor) -> Tensor:
        """Map (steps, columns) and (outputs, columns, window) to (steps - window + 1, outputs)."""
        ctx.save_for_backward(kernel)
        outputs, columns, window = kernel.shape
        products = steps @ kernel.permute(1, 0, 2).reshape(columns, outputs * window)
        shape = (len(steps) - window + 1, outputs, window)
        return products.as_strided(shape, (outputs * window, window, outputs * window + 1)).sum(dim=2)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        """The gradient in the steps, (steps, columns)."""
        (kernel,) = ctx.saved_tensors
        outputs, columns, window = kernel.shape
        padded = nn.functional.pad(slopes[0], (0, 0, window - 1, window - 1))
        seen = padded.unfold(0, window, 1).reshape(-1, outputs * window)
        return seen @ kernel.flip(2).permute(0, 2, 1).reshape(outputs * window, columns), None


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
