"""What `compat` computes: unit gradients under any criterion, and the rows or windows that step along them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from denograd_engine.errors import ConfigError, DataError
from denograd_engine.windows import Windows

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ZERO_NORM = 1e-8
"""What a gradient of length exactly zero is divided by."""


def unit_gradients(
    module: nn.Module, criterion: Criterion, x: Tensor, y: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the criterion, divided by their joint length in each item.

    Args:
        module: Frozen (see `devices.frozen`).
        criterion: Of predictions and targets.
        x: Inputs, shape (items, ...), for this call alone.
        y: Targets, shape (items, ...), likewise.
        tau: The gate.

    Returns:
        The gradients of x and y, at least in single precision, and the mask of items that must move: any |f(x) - y|
        exceeds tau, and the gradient is finite.

    Raises:
        ConfigError: If the model does not return one tensor, or the criterion not one number.
        DataError: If the predictions do not have the targets' shape.
    """
    x.requires_grad_()
    y.requires_grad_()
    channels_first = isinstance(module, CONVOLUTIONS) and x.ndim == 3
    predicted = _in_shape_of(y, module(x.transpose(1, 2) if channels_first else x))
    loss = criterion(predicted, y)
    if loss.numel() != 1:
        raise ConfigError(
            "the criterion must return one number for a batch",
            found=f"shape {tuple(loss.shape)}",
            remedy="give it reduction='mean' or 'sum'",
        )
    raw_x, raw_y = torch.autograd.grad(loss.sum(), (x, y), allow_unused=True)
    if raw_x is None:
        raise ConfigError("the criterion does not depend on the model's input through anything that has a gradient")
    wide = torch.promote_types(x.dtype, torch.float32)
    gradients = [raw_x.to(wide), (torch.zeros_like(y) if raw_y is None else raw_y).to(wide)]
    length_x, length_y = (torch.linalg.vector_norm(part.reshape(len(x), -1), dim=1) for part in gradients)
    length = torch.hypot(length_x, length_y)
    divisor = length.masked_fill(length == 0, ZERO_NORM)
    unit_x, unit_y = (part / _beside(part, divisor) for part in gradients)
    return unit_x, unit_y, any_cell((predicted - y).detach().abs() > tau) & length.isfinite()


class Work(ABC):
    """Data under way, read and moved by items, which are rows or windows.

    Args:
        x: Shape (rows, ...); moved in place.
        y: Shape (rows, ...); moved in place.
        dtype: The model's.
    """

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> None:
        self.x, self.y, self.dtype = x, y, dtype

    @property
    @abstractmethod
    def items(self) -> Tensor:
        """All of them, shape (items,)."""

    @abstractmethod
    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of what the model reads and must predict, in its type."""

    @abstractmethod
    def add(self, items: Tensor, step_x: Tensor, step_y: Tensor | None) -> None:
        """Ask for these steps, in the shapes of `gather`."""

    @abstractmethod
    def end_epoch(self) -> None:
        """Take the steps asked for, where `add` has not."""

    @abstractmethod
    def unsettled(self, outside: Tensor) -> Tensor:
        """These items, and those whose residual may have changed in the epoch that ended."""


class RowWork(Work):
    """A table: a row that stays keeps its residual."""

    @property
    def items(self) -> Tensor:
        return torch.arange(len(self.x), device=self.x.device)

    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[items].to(self.dtype), self.y[items].to(self.dtype)

    def add(self, items: Tensor, step_x: Tensor, step_y: Tensor | None) -> None:
        self.x.index_add_(0, items, step_x.to(self.x.dtype))
        if step_y is not None:
            self.y.index_add_(0, items, step_y.to(self.y.dtype))

    def end_epoch(self) -> None:
        return

    def unsettled(self, outside: Tensor) -> Tensor:
        return outside


class SeriesWork(Work):
    """A series: windows share steps of time, which move at the end of an epoch by the mean of what was asked.

    Args:
        x: Shape (steps, ...).
        y: Shape (steps, ...).
        dtype: The model's.
        windows: On the same device.
        flattening: Whether the model reads a window as one row.
    """

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype, windows: Windows, flattening: bool) -> None:
        super().__init__(x, y, dtype)
        self.windows, self.flattening = windows, flattening
        self.sum_x, self.sum_y = torch.zeros_like(x), torch.zeros_like(y)
        self.moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        covering, predicting = windows.visits(windows.starts)
        self.visits_x, self.visits_y = _beside(x, covering.clamp_min(1)), _beside(y, predicting.clamp_min(1))

    @property
    def items(self) -> Tensor:
        return torch.arange(len(self.windows), device=self.x.device)

    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        starts = self.windows.starts[items]
        x = self.x[self.windows.covered(starts)].to(self.dtype)
        return x.flatten(1) if self.flattening else x, self.y[self.windows.predicted(starts)].to(self.dtype)

    def add(self, items: Tensor, step_x: Tensor, step_y: Tensor | None) -> None:
        starts = self.windows.starts[items]
        by_window = step_x.to(self.x.dtype).reshape(len(starts), self.windows.width, *self.x.shape[1:])
        self.windows.fold_(self.sum_x, starts, by_window)
        if step_y is not None:
            self.sum_y.index_add_(0, self.windows.predicted(starts), step_y.to(self.y.dtype))

    def end_epoch(self) -> None:
        self.moved = any_cell(self.sum_x != 0) | any_cell(self.sum_y != 0)
        self.x += self.sum_x / self.visits_x
        self.y += self.sum_y / self.visits_y
        self.sum_x.zero_()
        self.sum_y.zero_()

    def unsettled(self, outside: Tensor) -> Tensor:
        awake = self.windows.touched(self.moved)
        awake[outside] = True
        return awake.nonzero().squeeze(1)


def any_cell(mask: Tensor) -> Tensor:
    """Whether anything holds in each item, shape (items,)."""
    return mask.reshape(len(mask), -1).any(dim=1)


def where_item(items: Tensor, values: Tensor) -> Tensor:
    """The values of these items, zero elsewhere.

    Args:
        items: Boolean, shape (items,).
        values: Shape (items, ...).
    """
    return torch.where(_beside(values, items), values, 0)


def _beside(values: Tensor, one_each: Tensor) -> Tensor:
    return one_each.reshape(-1, *[1] * (values.ndim - 1))


def _in_shape_of(y: Tensor, predicted: object) -> Tensor:
    """(b, 1) and (b,) are the same; nothing else is broadcast."""
    if not isinstance(predicted, Tensor):
        raise ConfigError("the model must return one tensor", found=f"a {type(predicted).__name__}", where="model")
    if predicted.shape == y.shape:
        return predicted
    shapes = ([size for size in tensor.shape[1:] if size != 1] for tensor in (predicted, y))
    if len(predicted) != len(y) or len({tuple(shape) for shape in shapes}) > 1:
        raise DataError(
            "the model's predictions do not have the targets' shape",
            expected=f"{tuple(y.shape)}, as the targets of the batch",
            found=f"{tuple(predicted.shape)}",
            where="y",
        )
    return predicted.reshape(y.shape)
