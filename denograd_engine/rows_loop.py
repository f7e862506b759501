"""Refinement of a table: a working set of rows under way, topped up from those that wait as rows finish.

Rows are independent, and a row within the gate stays there: each is refined to its end by itself, and every pass
through the backbone is full of rows that still need it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from denograd_engine.descent import Outcome, Progress, Settings, Stop, final_status, residuals
from denograd_engine.devices import in_parts
from denograd_engine.local import Cells, Local
from denograd_engine.problem import Rows
from denograd_engine.rules import Step, StepRule

FEWEST_OF_A_WORKER = 4096
"""Rows below which another worker is not worth it."""
COMPACT_AT = 0.1
"""Share of finished rows in the working set at which they make room for others."""


def refine_rows(module: nn.Module, problem: Rows, rule: StepRule, settings: Settings, stop: Stop) -> Outcome:
    """Step every row outside the gate until it is inside, or its epochs are used up.

    Exact for a row-wise deterministic backbone: a row within the gate does not move, so its residual stays there. Cells
    beyond their bounds are put on them first. When stopped, rows that were not reached are as observed.
    """
    shares = min(settings.workers.count, len(problem.known) // FEWEST_OF_A_WORKER)
    if shares < 2:
        return _refine_share(module, problem, rule, settings, stop)
    parts = [replace(problem, known=known) for known in problem.known.tensor_split(shares)]
    shift = torch.zeros_like(problem.cells)
    relays = [_Relay(stop, len(part.known)) for part in parts]

    def meanwhile() -> None:
        stop.now()
        active = sum(relay.active for relay in relays)
        stop.report(Progress(1 - active / len(problem.known), active, len(problem.known)))

    stop.now()  # a deadline that is over already must not wait for the first poll
    try:
        outcomes = settings.workers.together(
            lambda share: _refine_share(module, share[0], rule, settings, share[1], shift),
            list(zip(parts, relays, strict=True)),
            meanwhile,
        )
    except BaseException:  # Ctrl-C above all: the workers would go on to their end
        stop.halt()
        raise
    meanwhile()
    return _put_together(outcomes)


def _refine_share(
    module: nn.Module,
    problem: Rows,
    rule: StepRule,
    settings: Settings,
    stop: Stop | _Relay,
    shift: Tensor | None = None,
) -> Outcome:
    work = _Work(module, problem, rule, settings, torch.zeros_like(problem.cells) if shift is None else shift)
    interrupted = False
    while work.unfinished and not interrupted:
        if stop.now():
            interrupted = True
        elif work.advance():
            stop.report(Progress(work.done / max(1, work.count), work.count - work.done, work.count))
    return work.end(interrupted)


class _Relay:
    """Between a worker and whoever may stop it or wants to know: those are called in their own thread alone."""

    def __init__(self, stop: Stop, items: int) -> None:
        self._stop, self.active = stop, items

    def now(self) -> bool:
        return self._stop.stopped

    def report(self, progress: Progress) -> None:
        self.active = progress.active


def _put_together(outcomes: list[Outcome]) -> Outcome:
    """Of shares that wrote to the same shift."""
    joined = {
        name: torch.cat([getattr(outcome, name) for outcome in outcomes])
        for name in ("items", "status", "iterations", "before", "after")
    }
    epochs = max(outcome.epochs for outcome in outcomes)
    interrupted = any(outcome.interrupted for outcome in outcomes)
    return Outcome(shift=outcomes[0].shift, epochs=epochs, interrupted=interrupted, **joined)


@dataclass
class _Set:
    """Rows under way, aligned tensors: what `Cells` holds, and each row's place, steps so far and last residuals."""

    place: Tensor
    x: Tensor
    y: Tensor
    weight_x: Tensor | None
    weight_y: Tensor | None
    from_x: Tensor | None
    from_y: Tensor | None
    steps: Tensor
    residual: Tensor | None = None
    previous: Tensor | None = None

    def __len__(self) -> int:
        return len(self.place)

    def keep(self, which: Tensor) -> _Set:
        """These rows alone."""
        kept: list[Any] = [None if part is None else part[which] for part in self._parts()]
        return _Set(*kept)

    def join(self, other: _Set) -> _Set:
        """These rows, then the others, which have no residuals yet."""
        joined: list[Any] = []
        for mine, theirs in zip(self._parts(), other._parts(), strict=True):
            if mine is not None and theirs is None:
                theirs = mine.new_full((len(other), *mine.shape[1:]), torch.nan)  # noqa: PLW2901
            joined.append(None if mine is None or theirs is None else torch.cat([mine, theirs]))
        return _Set(*joined)

    @property
    def cells(self) -> Cells:
        return Cells(self.x, self.y, self.weight_x, self.weight_y, self.from_x, self.from_y)

    def _parts(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self.__dataclass_fields__)


class _Work:
    """The rows of a problem: waiting, under way, done.

    Args:
        shift: Zeros, shape (rows, P), where those that are done are written.
    """

    def __init__(self, module: nn.Module, problem: Rows, rule: StepRule, settings: Settings, shift: Tensor) -> None:
        self.module, self.problem, self.rule, self.settings = module, problem, rule, settings
        self.items = problem.known
        self.count, self.waiting, self.done = len(self.items), 0, 0
        self.features = problem.cells.shape[1] - len(problem.target_at)
        self.variances = problem.noise.square() if rule.uses_noise else torch.ones_like(problem.noise)
        self.alike = bool(problem.movable.all()) and not problem.context.shape[1] and bool((self.variances == 1).all())
        device, dtype = problem.cells.device, problem.cells.dtype
        residual = problem.outputs if not len(problem.labels) else 1
        self.shift = shift
        self.before = torch.full((self.count, residual), torch.nan, dtype=dtype, device=device)
        self.after = self.before.clone()
        self.iterations = torch.zeros(self.count, dtype=torch.int64, device=device)
        self.crossed, self.stalled = (torch.zeros(self.count, dtype=torch.bool, device=device) for _ in range(2))
        self.set = self._next(0)
        self.stuck = self.stalled[:0]
        self.fresh, self.oldest, self.passes = 0, 0, 0

    @property
    def unfinished(self) -> bool:
        return self.waiting < self.count or len(self.set) > 0

    def advance(self) -> bool:
        """One pass; whether rows finished and made room."""
        room = self.settings.batch_size - len(self.set)
        if self.waiting < self.count and room > 0:
            self.fresh = len(self.set)
            if not self.fresh:
                self.oldest = self.passes
            self.set = self.set.join(self._next(room)) if self.fresh else self._next(room)
        outside, stuck, nobody = self._step()
        self.stuck = stuck
        self.passes += 1
        under_way = self.set
        finished = torch.zeros_like(outside) if nobody else ~outside | stuck
        under_way.steps += 1 if nobody else outside & ~stuck
        if self.passes - self.oldest >= self.settings.max_epochs:
            finished |= under_way.steps >= self.settings.max_epochs
            self.oldest = self.passes - int(torch.where(finished, 0, under_way.steps).max())
            self._retire(finished, outside, stuck)
            return True
        if not nobody and int(finished.sum()) >= COMPACT_AT * len(under_way):
            self._retire(finished, outside, stuck)
            return True
        return False

    def end(self, interrupted: bool) -> Outcome:
        """Take in what is under way or still waits, and sum up."""
        if len(self.set):
            everyone = torch.ones_like(self.stuck)
            self._retire(everyone, everyone, self.stuck)
        while self.waiting < self.count:
            rest = self._next(self.settings.batch_size)
            self.before[rest.place] = self.after[rest.place] = self._residual(rest)
        inside = self.after.abs().amax(dim=1) <= self.settings.tau
        looked = self.iterations + (inside | self.stalled) if not interrupted else self.iterations
        epochs = min(self.settings.max_epochs, int(looked.max())) if self.count else 0
        status = final_status(
            self.iterations, self.before, self.after, self.crossed, self.stalled, self.settings.tau, interrupted
        )
        return Outcome(self.shift, self.items, status, self.iterations, self.before, self.after, epochs, interrupted)

    def _next(self, count: int) -> _Set:
        """The rows that have waited longest, put within their bounds."""
        place = torch.arange(self.waiting, min(self.waiting + count, self.count), device=self.items.device)
        self.waiting += len(place)
        x, y = self.problem.gather(self.items[place])
        if self.alike:
            weight_x, weight_y = None, None if not self.problem.target_at else torch.ones_like(y)
        else:
            weight_x, weight_y = self.problem.weigh(self.items[place], self.variances)
        bounded = self._clamped(x, y, weight_x, weight_y)
        if self.settings.limits is not None and len(place):
            self.before[place] = residuals(self.module, self.settings.criterion, x, y)
        from_x = from_y = None
        if self.rule.anchored:
            from_x = x - bounded[0]
            from_y = None if weight_y is None else y - bounded[1]
        steps = torch.zeros(len(place), dtype=torch.int64, device=place.device)
        return _Set(place, *bounded, weight_x, weight_y, from_x, from_y, steps)

    def _clamped(self, x: Tensor, y: Tensor, weight_x: Tensor | None, weight_y: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.settings.limits is None:
            return x, y
        (low, high), features = self.settings.limits, self.features
        x = x.clone()
        held = x[:, :features].clamp(low[:features], high[:features])
        x[:, :features] = held if weight_x is None else torch.where(weight_x[:, :features] > 0, held, x[:, :features])
        if weight_y is not None:
            y = torch.where(weight_y > 0, y.clamp(low[features:], high[features:]), y)
        return x, y

    def _step(self) -> tuple[Tensor, Tensor, bool]:
        """Move the working set; who was outside the gate, who of them is stuck, and whether nobody finished."""
        moving, outside, stuck, residual, nobody = self.set, [], [], [], True

        def one(part: slice) -> None:
            cells = moving.cells.part(part)
            nonlocal nobody
            local = Local(self.module, self.settings.criterion, cells, self.settings.tau, self.settings.smoother)
            step = self.rule.step(local)
            self._take(cells, step)
            outside.append(local.outside)
            stuck.append(torch.zeros_like(local.outside) if step.stuck is None else step.stuck)
            nobody &= local.all_outside and step.stuck is None
            residual.append(local.residual)

        in_parts(one, len(moving), self.settings.batch_size)
        moving.previous, moving.residual = moving.residual, _joined(residual)
        if self.fresh < len(moving):
            if self.settings.limits is None:
                self.before[moving.place[self.fresh :]] = moving.residual[self.fresh :]
            self.fresh = len(moving)
        return _joined(outside), _joined(stuck), nobody

    def _take(self, cells: Cells, step: Step) -> None:
        """Add the step to the cells, in place, and hold them within their bounds."""
        x, y = (cells.x, cells.y) if cells.from_x is None else (cells.x.clone(), cells.y.clone())
        step.add_to(cells.x, cells.y)
        if self.settings.limits is not None:
            held = self._clamped(cells.x, cells.y, cells.weight_x, cells.weight_y)
            cells.x.copy_(held[0])
            cells.y.copy_(held[1])
        if cells.from_x is not None:
            cells.from_x.add_(x - cells.x)
        if cells.from_y is not None:
            cells.from_y.add_(y - cells.y)

    def _retire(self, finished: Tensor, outside: Tensor, stuck: Tensor) -> None:
        if bool(finished.all()):
            gone, left, left_stuck = self.set, self._next(0), stuck[:0]
        else:
            gone, left, left_stuck = self.set.keep(finished), self.set.keep(~finished), stuck[~finished]
            outside, stuck = outside[finished], stuck[finished]
        place, row, features = gone.place, self.items[gone.place], self.features
        self.shift[row, :features] = gone.x[:, :features] - self.problem.cells[row, :features]
        if gone.weight_y is not None:
            self.shift[row, features:] = gone.y - self.problem.cells[row, features:]
        self.iterations[place], self.stalled[place] = gone.steps, stuck
        if gone.residual is not None:
            residual = gone.residual
            if gone.previous is not None:
                self.crossed[place] = (residual * gone.previous < 0).any(dim=1) & outside
            moved = outside & ~stuck
            self.after[place] = residual
            if len(gone) and bool(moved.all()):
                self.after[place] = self._residual(gone)
            elif bool(moved.any()):
                self.after[place[moved]] = self._residual(gone.keep(moved))
        else:
            self.before[place] = self.after[place] = self._residual(gone)
        self.set, self.stuck, self.fresh = left, left_stuck, len(left)
        self.done += len(gone)

    def _residual(self, rows: _Set) -> Tensor:
        parts: list[Tensor] = []

        def one(part: slice) -> None:
            parts.append(residuals(self.module, self.settings.criterion, rows.x[part], rows.y[part]))

        in_parts(one, len(rows), self.settings.batch_size)
        return _joined(parts)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
