"""Refinement of a table: rows are independent, and those within the gate leave the working set for good."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denograd_engine.descent import Outcome, Progress, Settings, Stop, final_status, linearise
from denograd_engine.problem import Rows

COMPACT_AT = 0.1
"""Share of finished rows in the working set at which it is compacted."""


def refine_rows(module: nn.Module, problem: Rows, settings: Settings, stop: Stop) -> Outcome:
    """Step every row outside the gate until it is inside, or the epochs are used up.

    Exact for a row-wise deterministic backbone: a row within the gate does not move, so its residual stays there. Cells
    beyond their bounds are put on them first.
    """
    items = problem.known
    count, features = len(items), problem.cells.shape[1] - len(problem.target_at)
    x, y = problem.gather(items)
    move_x, move_y = problem.moves(items)
    work = _WorkingSet(x.clone(), y.clone(), move_x, move_y, torch.arange(count, device=x.device))
    refine_y = bool(move_y.any())
    low, high = (None, None) if settings.limits is None else settings.limits
    if low is not None and high is not None:
        _clamp(work.x[:, :features], low[:features], high[:features], move_x)
        _clamp(work.y, low[features:], high[features:], move_y)

    final_x, final_y = work.x.clone(), work.y.clone()
    before = torch.zeros_like(y)
    iterations = torch.zeros(count, dtype=torch.int64, device=x.device)
    crossed, stalled = (torch.zeros(count, dtype=torch.bool, device=x.device) for _ in range(2))
    last = torch.zeros_like(y)
    epochs, interrupted = 0, False
    while epochs < settings.max_epochs and len(work.row) and not interrupted:
        finished = torch.zeros(len(work.row), dtype=torch.bool, device=x.device)
        for at in range(0, len(work.row), settings.batch_size):
            if stop.now():
                interrupted = True
                break
            part = slice(at, at + settings.batch_size)
            row = work.row[part]
            model, outside = linearise(
                module, work.x[part], work.y[part], settings.tau, work.move_x[part], work.move_y[part], refine_y
            )
            factor = settings.rule.factor(model)
            work.x[part].addcmul_(model.gradient_x, factor[:, None])
            if model.gradient_y is not None:
                work.y[part].addcmul_(model.gradient_y, factor[:, None])
            if low is not None and high is not None:
                _clamp(work.x[part][:, :features], low[:features], high[:features], work.move_x[part])
                _clamp(work.y[part], low[features:], high[features:], work.move_y[part])
            if epochs == 0:
                before[row] = model.residual
            stuck = outside & (factor == 0)
            crossed[row] = (model.residual * last[row] < 0).any(dim=1) & outside
            last[row] = model.residual
            stalled[row] = stuck
            iterations[row] += outside & ~stuck
            finished[part] = ~outside | stuck
        epochs += not interrupted
        done = int(finished.sum())
        if done >= COMPACT_AT * len(finished):
            final_x[work.row[finished]] = work.x[finished]
            final_y[work.row[finished]] = work.y[finished]
            work = work.keep(~finished)
        stop.report(Progress(epochs, settings.max_epochs, len(finished) - done, count))
    final_x[work.row], final_y[work.row] = work.x, work.y

    shift = torch.zeros_like(problem.cells)
    shift[items] = torch.cat([final_x[:, :features] - x[:, :features], final_y - y], dim=1)
    after = _residuals(module, final_x, final_y, settings.batch_size)
    if settings.limits is not None or epochs == 0:
        before = _residuals(module, x, y, settings.batch_size)
    status = final_status(iterations, before, after, crossed, stalled, settings.tau, interrupted)
    return Outcome(shift, items, status, iterations, before, after, epochs, interrupted)


class _WorkingSet:
    """The rows still under way, contiguous."""

    def __init__(self, x: Tensor, y: Tensor, move_x: Tensor, move_y: Tensor, row: Tensor) -> None:
        self.x, self.y, self.move_x, self.move_y, self.row = x, y, move_x, move_y, row

    def keep(self, which: Tensor) -> _WorkingSet:
        return _WorkingSet(self.x[which], self.y[which], self.move_x[which], self.move_y[which], self.row[which])


def _clamp(cells: Tensor, low: Tensor, high: Tensor, moves: Tensor) -> None:
    """Hold movable cells within their bounds, in place. All of shape (rows, columns), `moves` 1 or 0."""
    cells.copy_(torch.where(moves[:, : cells.shape[1]] > 0, cells.clamp(low, high), cells))


def _residuals(module: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        parts = [
            module(x[at : at + batch_size]).reshape(-1, y.shape[1]) - y[at : at + batch_size]
            for at in range(0, len(x), batch_size)
        ]
    return torch.cat(parts)
