"""The published rule: a step of fixed length against the joint gradient of x and y."""

from __future__ import annotations

import torch
from torch import Tensor

from denograd_engine.rules import Linearised, Rule


class DenoGradRule(Rule):
    """z <- z - eta g / |g|, g the gradient of an item's loss with respect to its cells, x and y jointly.

    Source: Alonso-Ramos et al., DenoGrad (2025), the core update rule. Every item's step has length eta
    (standardised), whatever the batch. Deviations: cells that may not move do not count in the norm, and where the
    targets stay, their part of the gradient does not either (release 1.1.0 keeps it: `compat` too).
    """

    def factor(self, model: Linearised) -> Tensor:
        """-eta / |g|; zero where the gradient vanishes."""
        return torch.where(model.square > 0, -self.eta * torch.rsqrt(model.square), 0.0)
