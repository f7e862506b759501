"""The frozen backbone about a batch of items: how far each is from its prediction, and which way that changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denograd_engine.criteria import Criterion

if TYPE_CHECKING:
    from denograd_engine.smoothing import Smoother


@dataclass(frozen=True)
class Cells:
    """The cells of a batch, and what is known of them.

    Attributes:
        x: Inputs, shape (items, ...).
        y: Targets, shape (items, T).
        weight_x: How readily each input moves, 0 not at all, broadcastable to x; None where all do alike (weight 1).
        weight_y: The same for y; None where no target moves.
        from_x: Where the inputs were observed, less where they are, z0 - z; None for rules that do not ask.
        from_y: The same for y.
    """

    x: Tensor
    y: Tensor
    weight_x: Tensor | None
    weight_y: Tensor | None
    from_x: Tensor | None = None
    from_y: Tensor | None = None

    def part(self, which: slice) -> Cells:
        """Some of them."""
        if which.start == 0 and which.stop >= len(self.x):
            return self

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[which]

        weights = (cut(self.weight_x), cut(self.weight_y))
        return Cells(self.x[which], self.y[which], *weights, cut(self.from_x), cut(self.from_y))


class Local:
    """The backbone about these cells, to first order. Asked once: the graph is gone afterwards.

    Args:
        module: Frozen (see `devices.frozen`).
        criterion: The loss.
        cells: The batch.
        tau: The gate: an item is outside while any of its residuals exceeds it in size, or is not a number.
        smoother: Averages gradients over perturbed copies; None takes them where the cells are.

    Attributes:
        residual: See `Criterion.residual`.
        outside: Items outside the gate, shape (items,).
        all_outside: Whether every item is.
    """

    def __init__(
        self, module: nn.Module, criterion: Criterion, cells: Cells, tau: float, smoother: Smoother | None = None
    ) -> None:
        self.cells, self.criterion, self._smoother = cells, criterion, smoother
        self._leaf = cells.x.detach().requires_grad_()
        with torch.enable_grad():
            self._predicted = module(self._leaf).reshape(len(cells.x), -1)
        self.predicted = self._predicted.detach()
        self.residual = criterion.residual(self.predicted, cells.y)
        self.outside = (_largest(self.residual.abs()) <= tau).logical_not_()  # not a number is outside
        self.all_outside = bool(self.outside.all())

    def gradient(self) -> tuple[Tensor, Tensor | None]:
        """Gradients of each item's loss in x and y, times the weights; zero inside the gate. Free to be overwritten."""
        if self._smoother is None:
            pull, pull_y = self.criterion.pull(self.predicted, self.cells.y)
            gradient_x = self._backward(self._inside_zero(pull))
        else:
            gradient_x, pull_y = self._smoother.gradient(self.criterion, self._leaf, self.cells.y)
            gradient_x = self._inside_zero(gradient_x)
        gradient_x = gradient_x if self.cells.weight_x is None else gradient_x * self.cells.weight_x
        if self.cells.weight_y is None or pull_y is None:
            return gradient_x, None
        return gradient_x, self._inside_zero(pull_y) * self.cells.weight_y

    def jacobian(self) -> tuple[Tensor, Tensor | None]:
        """Derivatives of each residual in x and y, shapes (items, R, ...) and (items, R, T), unweighted."""
        slopes = self.criterion.slopes(self.predicted, self.cells.y)
        if self._smoother is None:
            by_x = [self._backward(slope, keep=True) for slope, _ in slopes]
        else:
            by_x = self._smoother.jacobian(self.criterion, self._leaf, self.cells.y)
        by_y = None if self.cells.weight_y is None else torch.stack([slope_y for _, slope_y in slopes], dim=1)
        return torch.stack(by_x, dim=1), by_y

    def _backward(self, cotangent: Tensor, keep: bool = False) -> Tensor:
        (gradient,) = torch.autograd.grad(self._predicted, self._leaf, grad_outputs=cotangent, retain_graph=keep)
        return gradient

    def _inside_zero(self, values: Tensor) -> Tensor:
        return values if self.all_outside else torch.where(_beside(values, self.outside), values, 0.0)


def _largest(sizes: Tensor) -> Tensor:
    """Of each item, shape (items,)."""
    return sizes[:, 0] if sizes.shape[1] == 1 else sizes.amax(dim=1)


def _beside(values: Tensor, one_each: Tensor) -> Tensor:
    return one_each.reshape(-1, *[1] * (values.ndim - 1))
