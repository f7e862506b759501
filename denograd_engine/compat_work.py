"""What `compat` computes: unit gradients under any criterion, and the rows or windows that step along them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from denograd_engine.errors import ConfigError, DataError
from denograd_engine.windows import Windows

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
AT_ONCE = 2**18
"""Numbers in the gradients that are kept until their cells are moved."""
ZERO_NORM = 1e-8
"""What a gradient of length exactly zero is divided by."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of the criterion in a batch of items.

    Attributes:
        x: Shape (items, ...), at least in single precision.
        y: Shape (items, ...), likewise.
        length: Joint length of both in each item, `ZERO_NORM` where it is zero, shape (items,).
        moves: Items that must move: any |f(x) - y| exceeds the gate, and the gradient is finite.
    """

    x: Tensor
    y: Tensor
    length: Tensor
    moves: Tensor

    def unit(self) -> tuple[Tensor, Tensor]:
        """Both, divided by their length."""
        return self.x / _beside(self.x, self.length), self.y / _beside(self.y, self.length)

    def steps(self, eta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Finite gradients of x and y, and what to multiply them by for steps of this length, 0 for those that stay."""
        finite = self.length < torch.inf
        factor = torch.where(self.moves, -eta / self.length, 0.0)
        if bool(finite.all()):
            return self.x, self.y, factor
        return where_item(finite, self.x), where_item(finite, self.y), factor


def gradients(module: nn.Module, criterion: Criterion, x: Tensor, y: Tensor, tau: float, batch_size: int) -> Gradients:
    """Gradients of the criterion in inputs and targets.

    Args:
        module: Frozen (see `devices.frozen`).
        criterion: Of predictions and targets.
        x: Inputs, shape (items, ...).
        y: Targets, shape (items, ...).
        tau: The gate.
        batch_size: Items that model and criterion see at once.

    Raises:
        ConfigError: If the model does not return one tensor, or the criterion not one number.
        DataError: If the predictions do not have the targets' shape.
    """
    batches = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    passes = [_backward(module, criterion, batch_x, batch_y) for batch_x, batch_y in batches]
    gradient_x, gradient_y, predicted = (
        parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*passes, strict=True)
    )
    lengths = [torch.linalg.vector_norm(part.reshape(len(x), -1), dim=1) for part in (gradient_x, gradient_y)]
    length = torch.hypot(*lengths)
    outside = any_cell((predicted - y).abs() > tau)
    usable = length < torch.inf
    return Gradients(gradient_x, gradient_y, length.masked_fill(length == 0, ZERO_NORM), outside & usable)


def _backward(module: nn.Module, criterion: Criterion, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in x and y, at least in single precision, and the predictions in y's shape."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
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
    return raw_x.to(wide), (torch.zeros_like(y) if raw_y is None else raw_y).to(wide), predicted.detach()


class Work(ABC):
    """Data under way, read and moved by items, which are rows or windows.

    Args:
        x: Shape (rows, ...); moved in place.
        y: Shape (rows, ...); moved in place.
        dtype: The model's.
    """

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> None:
        self.x, self.y, self.dtype = x, y, dtype

    def at_once(self, batch_size: int) -> int:
        """Items that are moved together: several batches, whose gradients stay within the caches."""
        return batch_size * max(1, AT_ONCE // (batch_size * self.numbers))

    @property
    @abstractmethod
    def numbers(self) -> int:
        """How many the model reads of an item."""

    @property
    @abstractmethod
    def items(self) -> Tensor:
        """All of them, shape (items,)."""

    @abstractmethod
    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of what the model reads and must predict, in its type."""

    @abstractmethod
    def add(self, items: Tensor, x: Tensor, y: Tensor | None, factor: Tensor) -> None:
        """Ask for steps of these directions, in the shapes of `gather`, times each item's factor."""

    @abstractmethod
    def end_epoch(self) -> None:
        """Take the steps asked for, where `add` has not."""

    @abstractmethod
    def unsettled(self, outside: Tensor) -> Tensor:
        """These items, and those whose residual may have changed in the epoch that ended."""


class RowWork(Work):
    """A table: a row that stays keeps its residual."""

    @property
    def numbers(self) -> int:
        return self.x[:1].numel()

    @property
    def items(self) -> Tensor:
        return torch.arange(len(self.x), device=self.x.device)

    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        which = self._which(items)
        return self.x[which].to(self.dtype), self.y[which].to(self.dtype)

    def add(self, items: Tensor, x: Tensor, y: Tensor | None, factor: Tensor) -> None:
        which = self._which(items)
        for values, direction in ((self.x, x), (self.y, y)):
            if direction is None:
                continue
            if isinstance(which, slice):
                values[which].addcmul_(direction.to(values.dtype), _beside(direction, factor).to(values.dtype))
            else:
                values.index_add_(0, which, (direction * _beside(direction, factor)).to(values.dtype))

    @staticmethod
    def _which(items: Tensor) -> Tensor | slice:
        """The items, ascending, as a slice where they leave none out: nothing is copied then."""
        first, last = items[[0, -1]].tolist()
        return slice(first, last + 1) if last - first == len(items) - 1 else items

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
    def numbers(self) -> int:
        return self.x[:1].numel() * self.windows.width

    @property
    def items(self) -> Tensor:
        return torch.arange(len(self.windows), device=self.x.device)

    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        starts = self.windows.starts[items]
        x = self.x[self.windows.covered(starts)].to(self.dtype)
        return x.flatten(1) if self.flattening else x, self.y[self.windows.predicted(starts)].to(self.dtype)

    def add(self, items: Tensor, x: Tensor, y: Tensor | None, factor: Tensor) -> None:
        starts = self.windows.starts[items]
        step_x = (x * _beside(x, factor)).to(self.x.dtype)
        by_window = step_x.reshape(len(starts), self.windows.width, *self.x.shape[1:])
        self.windows.fold_(self.sum_x, starts, by_window)
        if y is not None:
            step_y = (y * _beside(y, factor)).to(self.y.dtype)
            self.sum_y.index_add_(0, self.windows.predicted(starts), step_y)

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
