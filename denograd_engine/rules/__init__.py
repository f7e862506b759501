"""Refinement rules, by name. A new rule is a file here and a line in the registry.

A rule refines a whole problem. Most do it step by step: they turn the backbone about an item into the step that its
cells take, and the loops over rows and windows do the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from denograd_engine.errors import ConfigError

if TYPE_CHECKING:
    from denograd_engine.descent import Outcome, Settings, Stop
    from denograd_engine.local import Local
    from denograd_engine.problem import Problem

REGISTRY: Mapping[str, str] = {
    "denograd": "denograd_engine.rules.denograd:DenoGradRule",
    "gauss_newton": "denograd_engine.rules.gauss_newton:GaussNewton",
    "proximal": "denograd_engine.rules.proximal:Proximal",
}
"""Class of each rule, as module:name. Constructed as `cls(eta, **arguments)`."""


class Rule(ABC):
    """A refinement rule.

    Args:
        eta: The step length, in the rule's own sense; None lets the rule choose.
    """

    @abstractmethod
    def __init__(self, eta: float | None) -> None: ...

    @abstractmethod
    def prepare(self, module: nn.Module, problem: Problem, settings: Settings, scale: float) -> float:
        """Choose the step length if none was given, and say which it is.

        Args:
            module: Frozen.
            problem: Some of the data, or all.
            settings: How they will be refined.
            scale: Held-out root mean squared residual of the backbone, standardised.
        """

    @abstractmethod
    def run(self, module: nn.Module, problem: Problem, settings: Settings, stop: Stop) -> Outcome:
        """Refine the problem."""


@dataclass(frozen=True)
class Step:
    """Where the cells of a batch go.

    Attributes:
        x: Shape (items, ...), zero inside the gate.
        y: Shape (items, T), likewise; None where the targets stay.
        stuck: Items outside the gate that have nowhere to go, shape (items,); None where there are none.
        factor: What x and y are still to be multiplied by, shape (items,); None where they are the steps themselves.
    """

    x: Tensor
    y: Tensor | None
    stuck: Tensor | None
    factor: Tensor | None = None

    def add_to(self, x: Tensor, y: Tensor) -> None:
        """Take the step, in place."""
        for cells, step in ((x, self.x), (y, self.y)):
            if step is None:
                continue
            if self.factor is None:
                cells.add_(step)
            else:
                cells.addcmul_(step, self.factor.reshape(-1, *[1] * (step.ndim - 1)))

    def whole(self) -> tuple[Tensor, Tensor | None]:
        """The steps in x and in y, multiplied out; in place."""
        if self.factor is None:
            return self.x, self.y
        step_x = self.x.mul_(self.factor.reshape(-1, *[1] * (self.x.ndim - 1)))
        return step_x, None if self.y is None else self.y.mul_(self.factor[:, None])


class StepRule(Rule):
    """A rule that moves each item by itself, again and again, until it is within the gate.

    Attributes:
        anchored: Whether it asks where the cells were observed.
        uses_noise: Whether cells move in proportion to their noise variance, rather than all alike.
        averages_active: In a series, whether a cell moves by the mean over the windows that ask it to, rather than over
            all windows that contain it.
    """

    anchored: bool = False
    uses_noise: bool = False
    averages_active: bool = False

    @abstractmethod
    def step(self, local: Local) -> Step:
        """The step of each item of a batch."""

    def run(self, module: nn.Module, problem: Problem, settings: Settings, stop: Stop) -> Outcome:
        from denograd_engine.problem import Rows, Series
        from denograd_engine.rows_loop import refine_rows
        from denograd_engine.windows_loop import refine_windows

        if isinstance(problem, Series):
            return refine_windows(module, problem, self, settings, stop)
        assert isinstance(problem, Rows)
        return refine_rows(module, problem, self, settings, stop)


class GradientRule(StepRule):
    """A rule whose step is the gradient of the loss, times a number that depends on its norm alone."""

    @abstractmethod
    def factor(self, norm: Tensor) -> Tensor:
        """What a gradient of this norm is multiplied by, shape (items,); norms are positive and finite."""

    def along(self, outside: Tensor, gradient_x: Tensor, gradient_y: Tensor | None) -> Step:
        """The step along these gradients, see `Local.gradient`, which may be overwritten."""
        norm = torch.linalg.vector_norm(gradient_x.flatten(1), dim=1)
        if gradient_y is not None:
            norm = torch.hypot(norm, torch.linalg.vector_norm(gradient_y, dim=1))
        factor, lost = self.scaled(norm, outside)
        if lost is None:
            return Step(gradient_x, gradient_y, None, factor)
        for gradient in (gradient_x, gradient_y):
            if gradient is not None:
                gradient[lost] = 0.0
        return Step(gradient_x, gradient_y, outside & lost, factor)

    def scaled(self, norm: Tensor, outside: Tensor) -> tuple[Tensor, Tensor | None]:
        """The factor, finite also where there is no direction, and the items that have none but want one, if any.

        An item inside the gate, whose gradient is zero, does not; unless the slope is infinite there: 0 times that.
        """
        least = torch.finfo(norm.dtype).tiny ** 0.5
        if len(norm):
            shortest, longest = torch.stack(norm.aminmax()).tolist()
            if least <= shortest and longest < torch.inf:
                return self.factor(norm), None
        usable = (norm > 0) & (norm < torch.inf)
        factor = self.factor(norm.clamp(least, torch.finfo(norm.dtype).max))
        lost = ~usable & (outside | (norm != 0))
        if not bool(lost.any()):
            return factor, None
        return torch.where(usable, factor, 0.0), lost

    def step(self, local: Local) -> Step:
        return self.along(local.outside, *local.gradient())


def rule(name: str, eta: float | None = None, arguments: Mapping[str, Any] | None = None) -> Rule:
    """The rule called `name`.

    Raises:
        ConfigError: If there is none, or it does not take these arguments.
    """
    if name not in REGISTRY:
        raise ConfigError(f"there is no rule {name!r}", expected=" or ".join(REGISTRY), where="refine.rule")
    module, attribute = REGISTRY[name].split(":")
    try:
        chosen: Rule = getattr(import_module(module), attribute)(eta, **(arguments or {}))
    except TypeError as error:
        raise ConfigError(
            f"rule {name!r} does not take these arguments",
            found=str(error).split("__init__() ")[-1],
            where="refine.arguments",
        ) from None
    return chosen
