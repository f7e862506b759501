"""What the two refinement loops share: the gate, the linearised model, when to stop, how an item ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor, nn

from denograd_engine.problem import Problem
from denograd_engine.rules import Linearised, Rule


class Status(IntEnum):
    """How refinement ended for a row, or for the window that predicts a step."""

    WITHIN_GATE = 0
    """The residual was within tau from the start: nothing moved on its account."""
    CONVERGED = 1
    """The residual came within tau."""
    OSCILLATING = 2
    """The residual jumps across the gate: eta is too long for it."""
    MAX_EPOCHS = 3
    """Still on its way when the epochs were used up."""
    STALLED = 4
    """The gradient vanished outside the gate, or is not finite."""
    SKIPPED = 5
    """Not refined: the target is missing, or no window predicts this step."""
    INTERRUPTED = 6
    """Stopped by the deadline or by the caller."""

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Progress:
    """Where a running refinement stands."""

    epoch: int
    max_epochs: int
    active: int
    items: int


@dataclass
class Stop:
    """Decides whether a loop goes on.

    Attributes:
        deadline: Seconds from creation after which it stops; None never.
        cancelled: Asked between batches; True stops.
        on_progress: Told after each epoch.
    """

    deadline: float | None = None
    cancelled: Callable[[], bool] | None = None
    on_progress: Callable[[Progress], None] | None = None
    _started: float = field(default_factory=time.monotonic)

    def now(self) -> bool:
        """Whether to stop before the next batch."""
        late = self.deadline is not None and time.monotonic() - self._started > self.deadline
        return late or (self.cancelled is not None and self.cancelled())

    def report(self, progress: Progress) -> None:
        if self.on_progress is not None:
            self.on_progress(progress)


@dataclass(frozen=True)
class Settings:
    """What both loops need to know besides the problem.

    Attributes:
        rule: Turns gradients into steps.
        tau: The gate, standardised.
        max_epochs: Steps of an item, at most.
        batch_size: Items in one pass through the backbone.
        limits: Bounds of the cell columns, standardised, each of shape (P,); None where nothing is bounded.
    """

    rule: Rule
    tau: float
    max_epochs: int
    batch_size: int
    limits: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a loop did.

    Attributes:
        shift: Shape (rows, P), standardised, in the problem's row order.
        items: The items that were refined.
        status: A `Status` for each, as are the next three.
        iterations: Epochs in which it stepped.
        before: Residual before, shape (items, T), standardised.
        after: Residual after, likewise.
        epochs: Epochs run.
        interrupted: Whether the deadline or the caller stopped it.
    """

    shift: Tensor
    items: Tensor
    status: Tensor
    iterations: Tensor
    before: Tensor
    after: Tensor
    epochs: int
    interrupted: bool


def linearise(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    tau: float,
    movable_x: Tensor | None,
    movable_y: Tensor | None,
    refine_y: bool = True,
) -> tuple[Linearised, Tensor]:
    """Gradients of the squared loss of each item outside the gate.

    Args:
        module: Frozen (see `devices.frozen`).
        x: Inputs, shape (items, ...).
        y: Targets, shape (items, T).
        tau: The gate: an item is outside while any of its targets' |r| exceeds it.
        movable_x: Broadcastable to x; None where every cell moves.
        movable_y: Broadcastable to y, likewise.
        refine_y: Whether targets move at all.

    Returns:
        The linearised model, with zero gradients inside the gate, and the mask of items outside it.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        predicted = module(leaf).reshape(y.shape)
        residual = (predicted - y).detach()
        outside = ~(residual.abs().amax(dim=1) <= tau)
        pull = torch.where(outside[:, None], residual, 0.0)
        (gradient_x,) = torch.autograd.grad(predicted, leaf, grad_outputs=pull)
    if movable_x is not None:
        gradient_x = gradient_x * movable_x
    square = gradient_x.flatten(1).square().sum(dim=1)
    gradient_y = None
    if refine_y:
        gradient_y = -pull if movable_y is None else -pull * movable_y
        square = square + gradient_y.square().sum(dim=1)
    broken = ~square.isfinite()
    if bool(broken.any()):
        gradient_x, square = gradient_x.clone(), square.masked_fill(broken, 0.0)
        gradient_x[broken] = 0.0
        if gradient_y is not None:
            gradient_y[broken] = 0.0
    return Linearised(residual, gradient_x, gradient_y, square), outside


def residuals(module: nn.Module, problem: Problem, items: Tensor, batch_size: int) -> Tensor:
    """f(x) - y of these items, shape (items, T)."""
    parts = []
    with torch.no_grad():
        for batch in torch.split(items, batch_size):
            x, y = problem.gather(batch)
            parts.append(module(x).reshape(y.shape) - y)
    return torch.cat(parts)


def final_status(
    iterations: Tensor, before: Tensor, after: Tensor, crossed: Tensor, stalled: Tensor, tau: float, interrupted: bool
) -> Tensor:
    """The `Status` of each item, from how it moved and where it ended."""
    status = torch.full_like(iterations, Status.INTERRUPTED if interrupted else Status.MAX_EPOCHS)
    status[crossed] = Status.OSCILLATING
    status[stalled] = Status.STALLED
    inside = after.abs().amax(dim=1) <= tau
    status[inside] = Status.CONVERGED
    status[inside & (iterations == 0) & (before.abs().amax(dim=1) <= tau)] = Status.WITHIN_GATE
    return status
