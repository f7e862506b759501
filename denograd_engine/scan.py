"""Windows of a series that share what they overlap in: one pass over the steps serves them all.

For backbones that offer `scan` (see `backbones`). The sum of the windows' gradients needs no window's own gradient. A
gradient that is normalised window by window does, unless it is the same for all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denograd_engine.descent import Settings
from denograd_engine.problem import Series
from denograd_engine.rules import GradientRule

SCANNED, SCANNED_LINEAR = 2**11, 2**15
"""Windows in one pass: more where it needs memory for their steps alone, not for the windows."""


class Scan:
    """The backbone on the steps that these windows cover.

    Args:
        module: Frozen, with a method `scan`.
        live: The series.
        items: Windows, ascending.

    Attributes:
        predicted: Shape (windows, outputs).
    """

    def __init__(self, module: nn.Module, live: Series, items: Tensor) -> None:
        starts = live.windows.starts[items]
        first, last = starts[[0, -1]].tolist()
        self._live, self._steps = live, slice(first, last + live.windows.width)
        self._leaf = live.steps[self._steps].detach().requires_grad_()
        with torch.enable_grad():
            self._predicted = module.scan(self._leaf, starts - first)  # type: ignore[operator]
        self.predicted: Tensor = self._predicted.detach()

    def scatter_(self, into: Tensor, cotangent: Tensor) -> None:
        """Add the gradient of (predicted * cotangent).sum() to the cells, in place. Asked once.

        Args:
            into: Shape (rows, P).
            cotangent: Shape (windows, outputs).
        """
        (gradient,) = torch.autograd.grad(self._predicted, self._leaf, grad_outputs=cotangent)
        into[self._steps, : self._live.inputs] += gradient[:, : self._live.inputs]


class ConstantGradient:
    """Steps along the gradient of a linear backbone: its norm is known without computing it window by window.

    Args:
        module: Frozen, linear, with a method `scan`.
        gram: Products of the outputs' gradients over the cells that may move, shape (outputs, outputs).
        moves: 1 for cell columns that may move, 0 for others, shape (P,).
    """

    def __init__(self, module: nn.Module, gram: Tensor, moves: Tensor) -> None:
        self._module, self._gram, self._moves = module, gram, moves

    @classmethod
    def of(cls, module: nn.Module, problem: Series) -> ConstantGradient | None:
        """For this backbone and series; None where gradients differ, by their windows or by the cells that may move."""
        alike = problem.movable.all(dim=0) | ~problem.movable.any(dim=0)
        if not getattr(module, "linear", False) or problem.flatten or not bool(alike.all()):
            return None
        moves = problem.movable[0].to(problem.cells)
        x = problem.cells.new_zeros(1, *problem.input_shape).requires_grad_()
        with torch.enable_grad():
            outputs = module(x)[0]
            each = [torch.autograd.grad(one, x, retain_graph=True)[0] for one in outputs]
        gradient = torch.cat(each)[:, :, : problem.inputs] * moves[: problem.inputs]
        return cls(module, gradient.flatten(1) @ gradient.flatten(1).T, moves)

    def step(
        self, live: Series, items: Tensor, rule: GradientRule, settings: Settings
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of these windows: residuals, who is outside the gate, who of them is stuck; and their steps, (rows, P)."""
        scan, y = Scan(self._module, live, items), live.targets(items)
        residual = settings.criterion.residual(scan.predicted, y)
        outside = ~(residual.abs().amax(dim=1) <= settings.tau)
        pull, pull_y = settings.criterion.pull(scan.predicted, y)
        square = ((pull @ self._gram) * pull).sum(dim=1)
        targets = self._moves[list(live.target_at)].repeat(len(live.windows.reaches))
        if pull_y is not None:
            pull_y = pull_y * targets
            square = square + pull_y.square().sum(dim=1)
        factor, stuck = rule.scaled(square.sqrt(), outside)
        moving = outside if stuck is None else outside & ~stuck
        factor = torch.where(moving, factor, 0.0)[:, None]
        share = torch.zeros_like(live.cells)
        scan.scatter_(share, torch.where(factor != 0, pull * factor, 0.0))
        if pull_y is not None:
            live.scatter_targets_(share, items, torch.where(factor != 0, pull_y * factor, 0.0))
        return residual, outside, outside & ~moving, share.mul_(self._moves)
