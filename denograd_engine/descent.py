"""What the rules and loops share: settings, when to stop, how an item ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denograd_engine.criteria import Criterion
from denograd_engine.devices import in_parts
from denograd_engine.problem import Problem
from denograd_engine.workers import ALONE, Workers

if TYPE_CHECKING:
    from denograd_engine.smoothing import Smoother


class Status(IntEnum):
    """How refinement ended for a row, or for the window that predicts a step."""

    WITHIN_GATE = 0
    """The residual was within tau from the start: nothing moved on its account."""
    CONVERGED = 1
    """The residual came within tau; for `proximal`, the objective reached its minimum."""
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
    REFINED = 7
    """Every noisy cell went to its posterior mean, once."""

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Progress:
    """Where a running refinement stands.

    Attributes:
        share: Of the work, at most 1: rows that are done, or epochs where all windows go together.
        active: Items that are not within the gate yet, as far as is known.
        items: All items.
    """

    share: float
    active: int
    items: int


class Stop:
    """Decides whether a refinement goes on, and passes on how far it is.

    Args:
        deadline: Seconds from creation after which it stops; None never.
        cancelled: Asked between batches until it says True, which stops.
        on_progress: Told now and then.
    """

    def __init__(
        self,
        deadline: float | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._deadline = None if deadline is None else time.monotonic() + deadline
        self._cancelled, self._on_progress = cancelled, on_progress
        self._stopped = False
        self._part: tuple[int, int, int] | None = None

    @property
    def stopped(self) -> bool:
        """Whether it has said so."""
        return self._stopped

    def halt(self) -> None:
        """Say so from now on."""
        self._stopped = True

    def now(self) -> bool:
        """Whether to stop before the next batch. Once it says so, it always does."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        self._stopped = self._stopped or late or (self._cancelled is not None and self._cancelled())
        return self._stopped

    def span(self, first: int, last: int, rows: int) -> None:
        """What follows concerns the rows from `first` to `last` of so many."""
        self._part = (first, last, rows) if (first, last) != (0, rows) else None

    def report(self, progress: Progress) -> None:
        """Tell who wants to know."""
        if self._on_progress is None:
            return
        if self._part is not None:
            first, last, rows = self._part
            share = (first + progress.share * (last - first)) / rows
            progress = Progress(share, progress.active + rows - last, rows)
        self._on_progress(progress)


@dataclass(frozen=True)
class Settings:
    """What every rule needs to know besides the problem.

    Attributes:
        criterion: The loss.
        tau: The gate, standardised.
        max_epochs: Steps of an item, at most.
        batch_size: Items in one pass through the backbone.
        limits: Bounds of the cell columns, standardised, each of shape (P,); None where nothing is bounded.
        smoother: Averages gradients; None does not.
        workers: Who calls the backbone.
    """

    criterion: Criterion
    tau: float
    max_epochs: int
    batch_size: int
    limits: tuple[Tensor, Tensor] | None = None
    smoother: Smoother | None = None
    workers: Workers = ALONE


@dataclass(frozen=True)
class Outcome:
    """What a loop did.

    Attributes:
        shift: Shape (rows, P), standardised, in the problem's row order.
        items: The items that were refined.
        status: A `Status` for each, as are the next three.
        iterations: Epochs in which it stepped.
        before: Residual before, shape (items, R), standardised: see `Criterion.residual`.
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


def residuals(module: nn.Module, criterion: Criterion, x: Tensor, y: Tensor) -> Tensor:
    """The residuals of these inputs and targets, shape (items, R)."""
    parts: list[Tensor] = []

    def one(part: slice) -> None:
        with torch.no_grad():
            parts.append(criterion.residual(module(x[part]).reshape(len(x[part]), -1), y[part]))

    in_parts(one, len(x), len(x))
    return torch.cat(parts)


def residuals_of(module: nn.Module, problem: Problem, items: Tensor, settings: Settings) -> Tensor:
    """The residuals of these items, batch by batch, shape (items, R)."""

    def of(batch: Tensor) -> Tensor:
        return residuals(module, settings.criterion, *problem.gather(batch))

    return torch.cat(list(settings.workers.each(of, torch.split(items, settings.batch_size))))


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
