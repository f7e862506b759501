"""Refinement rules, by name. A rule turns the linearised model of an item into the step its cells take.

A new rule is a file here and a line in the registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from torch import Tensor

from denograd_engine.errors import ConfigError

REGISTRY: Mapping[str, str] = {"denograd": "denograd_engine.rules.denograd:DenoGradRule"}
"""Class of each rule, as module:name. Constructed as `cls(eta)`."""


@dataclass(frozen=True)
class Linearised:
    """The squared loss 1/2 |r|^2 of each item, to first order.

    Attributes:
        residual: r = f(x) - y, shape (items, T), standardised.
        gradient_x: J_f' r, shape (items, ...), zero where a cell may not move.
        gradient_y: -r, shape (items, T), likewise; None if the targets stay.
        square: Squared norm of the joint gradient, shape (items,).
    """

    residual: Tensor
    gradient_x: Tensor
    gradient_y: Tensor | None
    square: Tensor


class Rule(ABC):
    """A refinement rule.

    Args:
        eta: The step length, in the rule's own sense.
    """

    def __init__(self, eta: float) -> None:
        self.eta = eta

    @abstractmethod
    def factor(self, model: Linearised) -> Tensor:
        """What each item's gradient is multiplied by to give its step, shape (items,)."""


def rule(name: str, eta: float) -> Rule:
    """The rule called `name`.

    Raises:
        ConfigError: If there is none.
    """
    if name not in REGISTRY:
        raise ConfigError(f"there is no rule {name!r}", expected=" or ".join(REGISTRY), where="refine.rule")
    module, attribute = REGISTRY[name].split(":")
    chosen: Rule = getattr(import_module(module), attribute)(eta)
    return chosen
