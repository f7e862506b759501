"""Refinement of a series by consensus: each step moves by the mean of what the windows that contain it ask for.

Source: Alonso-Ramos et al., DenoGrad (2025), the consensus strategy: with G_t the sum of the windows' normalised
gradients over step t and C_t the number of windows that cover it, x_t <- x_t - eta G_t / C_t. Deviation: a target
that is also an input channel is one variable, and both its roles enter the same G_t and C_t.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from denograd_engine.descent import (
    Outcome,
    Progress,
    Settings,
    Stop,
    final_status,
    linearise,
    residuals,
)
from denograd_engine.problem import Series


def refine_windows(module: nn.Module, problem: Series, settings: Settings, stop: Stop) -> Outcome:
    """Step the whole series, epoch by epoch.

    A window within the gate sleeps until a step that it covers or predicts moves. Whole epochs only: an interrupted
    epoch changes nothing. Cells beyond their bounds are put on them first.
    """
    windows, items = problem.windows, problem.known
    device, width = problem.cells.device, problem.cells.shape[1]
    targets = list(problem.target_at)
    cells = problem.cells.clone()
    if settings.limits is not None:
        cells.copy_(torch.where(problem.movable, cells.clamp(*settings.limits), cells))
    live = replace(problem, cells=cells)
    visits = _visits(problem)
    refine_y = bool(problem.movable[:, targets].any())
    everything_moves = bool(problem.movable.all()) and not problem.context.shape[1]

    before = torch.zeros(len(items), len(targets), dtype=cells.dtype, device=device)
    last = torch.zeros_like(before)
    iterations = torch.zeros(len(items), dtype=torch.int64, device=device)
    crossed, stalled, outside = (torch.zeros(len(items), dtype=torch.bool, device=device) for _ in range(3))
    awake = torch.ones(len(items), dtype=torch.bool, device=device)
    epochs, interrupted = 0, False
    while epochs < settings.max_epochs and bool(awake.any()):
        pull, stepping = torch.zeros_like(cells), torch.zeros_like(awake)
        for at in torch.split(awake.nonzero().squeeze(1), settings.batch_size):
            if stop.now():
                interrupted = True
                break
            starts = windows.starts[items[at]]
            x, y = live.gather(items[at])
            move_x, move_y = (None, None) if everything_moves else problem.moves(items[at])
            model, outside[at] = linearise(module, x, y, settings.tau, move_x, move_y, refine_y)
            factor = settings.rule.factor(model)
            steps = model.gradient_x[:, :, :width] * factor[:, None, None]
            windows.fold_(pull, starts, steps)
            if model.gradient_y is not None:
                predictions = torch.zeros(len(at), width, dtype=cells.dtype, device=device)
                predictions[:, targets] = model.gradient_y * factor[:, None]
                pull.index_add_(0, windows.predicted(starts), predictions)
            if epochs == 0:
                before[at] = model.residual
            crossed[at] = (model.residual * last[at] < 0).any(dim=1) & outside[at]
            last[at] = model.residual
            stalled[at] = outside[at] & (factor == 0)
            stepping[at] = outside[at] & (factor != 0)
        if interrupted:
            break
        step = pull / visits
        cells += step
        if settings.limits is not None:
            cells.copy_(torch.where(problem.movable, cells.clamp(*settings.limits), cells))
        iterations += stepping
        epochs += 1
        moved = (step != 0).any(dim=1)
        awake = windows.touched(moved)[items] | (outside & ~stalled)
        stop.report(Progress(epochs, settings.max_epochs, int(outside.sum()), len(items)))

    after = residuals(module, live, items, settings.batch_size)
    if settings.limits is not None or epochs == 0:
        before = residuals(module, problem, items, settings.batch_size)
    status = final_status(iterations, before, after, crossed, stalled, settings.tau, interrupted)
    return Outcome(cells - problem.cells, items, status, iterations, before, after, epochs, interrupted)


def _visits(problem: Series) -> torch.Tensor:
    """C_t of every cell, shape (rows, P): windows that cover it, and, for targets, windows that predict it.

    Windows whose own target is missing have nothing to say, and are not counted.
    """
    covering, predicting = problem.windows.visits(problem.windows.starts[problem.known])
    visits = covering[:, None].repeat(1, problem.cells.shape[1])
    visits[:, list(problem.target_at)] += predicting[:, None]
    return visits.clamp_min(1).to(problem.cells.dtype)
