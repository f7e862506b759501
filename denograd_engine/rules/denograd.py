"""The published rule: a step of fixed length against the joint gradient of x and y."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denograd_engine.descent import Settings
from denograd_engine.devices import in_parts
from denograd_engine.local import Cells, Local
from denograd_engine.problem import Problem
from denograd_engine.rules import GradientRule

PROBED_ITEMS = 2048
"""Items whose gradients decide the automatic step length."""
PROBED_TOGETHER = 512
"""Of these, in one pass through the backbone."""


class DenoGradRule(GradientRule):
    """z <- z - eta g / |g|, g the gradient of an item's loss with respect to its cells, x and y jointly.

    Source: Alonso-Ramos et al., DenoGrad (2025), the core update rule. Every item's step has length eta
    (standardised), whatever the batch. In a series, with G_t the sum of the windows' normalised gradients over step t
    and C_t the number of windows that contain it, x_t <- x_t - eta G_t / C_t. Deviations: cells that may not move do
    not count in the norm, and where the targets stay, their part of the gradient does not either (release 1.1.0 keeps
    it: `compat` too); a target that is also an input channel is one variable, and both its roles enter G_t and C_t.

    Args:
        eta: The step length, standardised. By default tau over the median norm of the residual's gradient, half of
            the length at which the median item starts to jump across the gate.
    """

    def __init__(self, eta: float | None = None) -> None:
        self.eta = eta

    def prepare(self, module: nn.Module, problem: Problem, settings: Settings, scale: float) -> float:
        if self.eta is None:
            norm = _median_norm(module, problem, settings)
            self.eta = settings.tau / max(1.0, norm)
        return self.eta

    def factor(self, norm: Tensor) -> Tensor:
        """-eta / |g|."""
        assert self.eta is not None
        return -self.eta / norm


def _median_norm(module: nn.Module, problem: Problem, settings: Settings) -> float:
    """Median norm of the residual's gradient, on evenly spaced items."""
    known = problem.known
    probe = known[:: max(1, len(known) // PROBED_ITEMS)]
    norms: list[Tensor] = []

    def one(part: slice) -> None:
        x, y = problem.gather(probe[part])
        weight_x, weight_y = problem.weigh(probe[part], torch.ones_like(problem.noise))
        local = Local(module, settings.criterion, Cells(x, y, weight_x, weight_y), settings.tau)
        by_x, by_y = local.jacobian()
        pull = torch.nn.functional.normalize(local.residual, dim=1)[:, :, None]
        norm = torch.linalg.vector_norm((by_x.flatten(2) * pull).sum(dim=1) * weight_x.flatten(1), dim=1)
        if by_y is not None and weight_y is not None:
            norm = torch.hypot(norm, torch.linalg.vector_norm((by_y * pull).sum(dim=1) * weight_y, dim=1))
        norms.append(norm[norm.isfinite()])

    in_parts(one, len(probe), PROBED_TOGETHER)
    usable = torch.cat(norms) if norms else probe
    return float(usable.median()) if len(usable) else 1.0
