"""Refinement of a series: each step moves by the mean of what the windows that contain it ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from denograd_engine.descent import Outcome, Progress, Settings, Stop, final_status, residuals_of
from denograd_engine.devices import in_parts
from denograd_engine.local import Cells, Local
from denograd_engine.problem import Series
from denograd_engine.rules import GradientRule, Step, StepRule
from denograd_engine.scan import SCANNED_LINEAR, ConstantGradient
from denograd_engine.workers import ALONE

GATHERED = 2**18
"""Numbers in the windows that are laid out together, for several passes through the backbone."""


def refine_windows(module: nn.Module, problem: Series, rule: StepRule, settings: Settings, stop: Stop) -> Outcome:
    """Step the whole series, epoch by epoch.

    A window within the gate sleeps until a step that it covers or predicts moves. Whole epochs only: an interrupted
    epoch changes nothing. Cells beyond their bounds are put on them first. Windows whose own target is missing have
    nothing to say, and are not counted.
    """
    items, device = problem.known, problem.cells.device
    cells = _held(problem, problem.cells.clone(), settings)
    live = replace(problem, cells=cells)
    asks = _Asking(module, problem, rule, settings)
    everyone = problem.visits(items).clamp_min(1).to(cells.dtype)
    iterations = torch.zeros(len(items), dtype=torch.int64, device=device)
    awake = torch.ones(len(items), dtype=torch.bool, device=device)
    epochs, interrupted = 0, False
    while epochs < settings.max_epochs and bool(awake.any()):
        pull = torch.zeros_like(cells)
        batches = _until(stop, torch.split(awake.nonzero().squeeze(1), asks.batch_size))
        workers = settings.workers if asks.constant is None else ALONE
        for batch, answer in workers.each(partial(asks.ask, live), batches):
            asks.take(batch, answer, pull, first=epochs == 0)
        if stop.stopped:
            interrupted = True
            break
        stepping = asks.outside & ~asks.stalled & awake
        visits = problem.visits(items[stepping]).clamp_min(1) if rule.averages_active else everyone
        step = pull.div_(visits)
        cells += step
        _held(problem, cells, settings)
        iterations += stepping
        epochs += 1
        moved = (step != 0).any(dim=1)
        if bool(moved.all()):
            awake.fill_(True)
        else:
            awake = problem.windows.touched(moved)[items] | (asks.outside & ~asks.stalled)
        stop.report(Progress(epochs / settings.max_epochs, int(asks.outside.sum()), len(items)))

    after = residuals_of(module, live, items, settings)
    before = asks.before
    if settings.limits is not None or epochs == 0:
        before = residuals_of(module, problem, items, settings)
    status = final_status(iterations, before, after, asks.crossed, asks.stalled, settings.tau, interrupted)
    return Outcome(cells - problem.cells, items, status, iterations, before, after, epochs, interrupted)


@dataclass(frozen=True)
class _Answer:
    """What some windows want, either window by window or summed over the cells, and how they stand."""

    residual: Tensor
    outside: Tensor
    stuck: Tensor | None
    cells: Tensor | None = None
    windows: tuple[Tensor, Tensor | None] | None = None


def _until(stop: Stop, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches, until told to stop."""
    for batch in batches:
        if stop.now():
            return
        yield batch


class _Asking:
    """Asks the windows where their cells should go, and remembers how each stood when it was last asked."""

    def __init__(self, module: nn.Module, problem: Series, rule: StepRule, settings: Settings) -> None:
        self.module, self.problem, self.rule, self.settings = module, problem, rule, settings
        self.variances = problem.noise.square() if rule.uses_noise else torch.ones_like(problem.noise)
        alike = bool(problem.movable.all()) and not problem.context.shape[1] and bool((self.variances == 1).all())
        self.weigh_x, self.targets_move = not alike, problem.targets_move()
        device, count = problem.cells.device, len(problem.known)
        shape = (count, 1 if len(problem.labels) else problem.outputs)
        self.before, self.last = (torch.zeros(shape, dtype=problem.cells.dtype, device=device) for _ in range(2))
        self.crossed, self.stalled, self.outside = (
            torch.zeros(count, dtype=torch.bool, device=device) for _ in range(3)
        )
        self.constant, self.batch_size = None, settings.batch_size
        if isinstance(rule, GradientRule) and settings.smoother is None:
            self.constant = ConstantGradient.of(module, problem)
        if self.constant is not None:
            self.batch_size = max(self.batch_size, SCANNED_LINEAR)
        else:
            passes = GATHERED // (math.prod(problem.input_shape) * self.batch_size)
            self.batch_size *= max(1, passes)

    def ask(self, live: Series, batch: Tensor) -> tuple[Tensor, _Answer]:
        """Where these windows want their cells to go. One that wants them nowhere has stalled."""
        items, rule, settings = self.problem.known[batch], self.rule, self.settings
        if self.constant is not None and isinstance(rule, GradientRule):
            return batch, _Answer(*self.constant.step(live, items, rule, settings))
        cells = self._cells(live, items)
        passes: list[tuple[Tensor | None, ...]] = []

        def one(part: slice) -> None:
            local = Local(self.module, settings.criterion, cells.part(part), settings.tau, settings.smoother)
            if isinstance(rule, GradientRule):
                passes.append((local.residual, local.outside, *local.gradient()))
            else:
                step = rule.step(local)
                passes.append((local.residual, local.outside, *step.whole(), step.stuck))

        in_parts(one, len(items), settings.batch_size)
        residual, outside, *rest = map(_joined, zip(*passes, strict=True))
        step = rule.along(outside, *rest) if isinstance(rule, GradientRule) else Step(*rest)
        return batch, _Answer(residual, outside, step.stuck, windows=step.whole())

    def take(self, batch: Tensor, answer: _Answer, pull: Tensor, first: bool) -> None:
        """Add what these windows want to `pull`, and note how they stand."""
        at = slice(None) if len(batch) == len(self.outside) else batch
        if answer.cells is not None:
            pull += answer.cells
        if answer.windows is not None:
            self.problem.scatter_(pull, self.problem.known[batch], *answer.windows)
        if first:
            self.before[at] = answer.residual
        self.crossed[at] = (answer.residual * self.last[at] < 0).any(dim=1) & answer.outside
        self.last[at], self.outside[at] = answer.residual, answer.outside
        self.stalled[at] = False if answer.stuck is None else answer.stuck

    def _cells(self, live: Series, items: Tensor) -> Cells:
        x, y = live.gather(items)
        weight_x = weight_y = from_x = from_y = None
        if self.weigh_x:
            weight_x, weight_y = self.problem.weigh(items, self.variances)
        elif self.targets_move:
            weight_y = torch.ones_like(y)
        if self.rule.anchored:
            observed_x, observed_y = self.problem.gather(items)
            from_x, from_y = observed_x - x, None if weight_y is None else observed_y - y
        return Cells(x, y, weight_x, weight_y, from_x, from_y)


def _held(problem: Series, cells: Tensor, settings: Settings) -> Tensor:
    """The cells within their bounds, in place."""
    if settings.limits is not None:
        cells.copy_(torch.where(problem.movable, cells.clamp(*settings.limits), cells))
    return cells


def _joined(parts: tuple[Tensor | None, ...]) -> Any:
    present = [part for part in parts if part is not None]
    if len(present) < 2:
        return present[0] if present else None
    return torch.cat(present)
