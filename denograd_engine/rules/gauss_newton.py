"""The nearest consistent point: each row goes where the backbone explains it, by the shortest way in units of noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denograd_engine.descent import Settings
from denograd_engine.local import Local
from denograd_engine.problem import Problem, Rows
from denograd_engine.rules import Step, StepRule

USUAL_FRACTION = 0.5
FURTHEST = 10.0
"""How far the nearest consistent point may be, in standard deviations of the noise, for an item to go there at all."""


class GaussNewton(StepRule):
    """z <- z + eta (z* - z), z* = z0 - S J' (J S J')^+ (r + J (z0 - z)).

    z* is the nearest point to the observed z0, in the metric of the noise covariance S, at which the linearised
    residuals vanish; J = [df/dx, -I] has one row for each target. S is diagonal, from the declared noise; cells that
    may not move have none. Unanchored, the way is measured from z itself, z* = z - S J' (J S J')^+ r: with S = I and
    one target that is release 2.0.0's rule for tables. In a series, a cell moves by the mean over the active windows.
    Where z* is further away than ten standard deviations of the noise, because the backbone is nearly flat there, the
    item stays: no noise explains it.

    Args:
        eta: The fraction of the way taken in one step, at most 1. By default 0.5.
        anchored: Whether the way is measured from where the cells were observed. By default in tables only: windows
            that overlap would call each other's cells back (measured: most of the series then never arrives).
    """

    uses_noise = True
    averages_active = True

    def __init__(self, eta: float | None = None, anchored: bool | None = None) -> None:
        self.eta, self._anchored = USUAL_FRACTION if eta is None else eta, anchored

    def prepare(self, module: nn.Module, problem: Problem, settings: Settings, scale: float) -> float:
        self.anchored = isinstance(problem, Rows) if self._anchored is None else self._anchored
        return self.eta

    def step(self, local: Local) -> Step:
        """Solved for all items of the batch at once; the pseudo-inverse covers targets that contradict each other."""
        cells = local.cells
        by_x, by_y = local.jacobian()
        by_x = by_x.flatten(2)
        weighted_x = by_x if cells.weight_x is None else by_x * cells.weight_x.flatten(1)[:, None]
        gram, way = weighted_x @ by_x.mT, local.residual
        weighted_y = None
        if by_y is not None and cells.weight_y is not None:
            weighted_y = by_y * cells.weight_y[:, None]
            gram = gram + weighted_y @ by_y.mT
        if cells.from_x is not None:
            way = way + (by_x @ cells.from_x.flatten(1)[:, :, None]).squeeze(2)
            if by_y is not None and cells.from_y is not None:
                way = way + (by_y @ cells.from_y[:, :, None]).squeeze(2)
        usable = gram.isfinite().flatten(1).all(dim=1) & way.isfinite().all(dim=1)
        usable &= gram.diagonal(dim1=1, dim2=2).amax(dim=1) > 0
        moving = usable & local.outside
        gram = torch.where(moving[:, None, None], gram, 0.0)
        force = _solve(gram, torch.where(moving[:, None], way, 0.0))
        credible = ((force[:, None] @ gram).squeeze(1) * force).sum(dim=1) <= FURTHEST**2
        usable, moving = usable & credible, moving & credible
        step_x = _towards(weighted_x, force, cells.from_x, self.eta, moving).reshape(cells.x.shape)
        step_y = None if weighted_y is None else _towards(weighted_y, force, cells.from_y, self.eta, moving)
        return Step(step_x, step_y, local.outside & ~usable)


def _solve(gram: Tensor, way: Tensor) -> Tensor:
    """gram^+ way of each item, shapes (items, R, R) and (items, R)."""
    if gram.shape[1] == 1:
        square = gram[:, 0]
        return torch.where(square > 0, way / square, 0.0)
    solved: Tensor = (torch.linalg.pinv(gram, hermitian=True) @ way[:, :, None]).squeeze(2)
    return solved


def _towards(weighted: Tensor, force: Tensor, back: Tensor | None, fraction: float, moving: Tensor) -> Tensor:
    """Fraction (z0 - z - S J' force), shape (items, D); zero for items that do not move."""
    step = -(force[:, None] @ weighted).squeeze(1)
    if back is not None:
        step = step + back.flatten(1)
    return torch.where(moving[:, None], step.mul_(fraction), 0.0)
