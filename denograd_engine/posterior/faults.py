"""Cells that are wrong altogether: spikes, slips of the keyboard, sensors that are stuck.

Beside its ordinary noise a cell has, with a small probability, an error of a much larger variance: a contaminated
normal distribution (Tukey, 1960). Which cells, and how probably, follows from their mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.mixture import Mixture

RATE, SIZE = 0.02, 3.0
"""Share of faulty cells and std of their errors, standardised, before anything is known of them."""
MOST = 0.2
"""Share of faulty cells beyond which it is another column that was measured."""
ROUNDS = 20
"""Of expectation maximisation."""
BELIEVED = 100
"""Cells that what is assumed beforehand counts for."""
SMALLEST = 0.5
"""Least variance of the error of a faulty cell."""
STUCK = 1e-6
"""Stretches of one value, as long as a stuck one, of which chance brings fewer than this in a column."""
RESTING = 0.01
"""Share of the other cells from which on a value is one that the column comes back to."""


@dataclass(frozen=True)
class Faults:
    """How often the cells of each column are faulty, and by how much.

    Attributes:
        rate: Share of its cells, shape (C,).
        size: Variance of their errors, standardised, beyond that of the noise, shape (C,).
    """

    rate: Tensor
    size: Tensor

    @classmethod
    def assumed(cls, noise: Tensor) -> Faults:
        """Before anything is known, for columns of this noise variance, shape (C,)."""
        return cls(torch.full_like(noise, RATE), torch.full_like(noise, SIZE**2))

    @property
    def variance(self) -> Tensor:
        """What they add to the variance of the errors of a column, shape (C,)."""
        return self.rate * self.size

    def split(self, mixture: Mixture, noise: Tensor) -> tuple[Mixture, Tensor]:
        """Each component twice, for right cells and for faulty ones, and the error variance of each.

        Args:
            mixture: Of clean cells, shapes (items, M, C).
            noise: Variance of the ordinary noise, shape (C,).

        Returns:
            Shapes (items, 2 M, C) and (2 M, C).
        """
        right = noise.expand(mixture.weight.shape[1], -1)
        weight = torch.cat([mixture.weight + torch.log1p(-self.rate), mixture.weight + self.rate.log()], dim=1)
        both = Mixture(weight, mixture.mean.repeat(1, 2, 1), mixture.variance.repeat(1, 2, 1))
        return both, torch.cat([right, right + self.size])

    def suspicion(self, mixture: Mixture, observed: Tensor, noise: Tensor) -> Tensor:
        """The probability that a cell is faulty, shape (items, C)."""
        both, errors = self.split(mixture, noise)
        share = both.shares(observed, errors)
        return share[:, share.shape[1] // 2 :].sum(dim=1)

    def learnt(self, mixture: Mixture, observed: Tensor, present: Tensor, noise: Tensor) -> Faults:
        """Rate and size that make cells as observed most probable, with a little belief in what was assumed.

        Args:
            mixture: Of clean cells, out of fold, shapes (items, M, C).
            observed: Cells as measured, shape (items, C).
            present: Which of them there are, shape (items, C).
            noise: Variance of the ordinary noise, shape (C,).
        """
        faults, components = self, mixture.weight.shape[1]
        count = present.sum(dim=0)
        for _ in range(ROUNDS):
            both, errors = faults.split(mixture, noise)
            share, mean, variance = both.given(observed, errors)
            wrong = torch.where(present[:, None], share[:, components:], 0.0)
            squared = variance[:, components:] + (mean[:, components:] - observed[:, None]).square()
            number, total = wrong.sum(dim=(0, 1)), (wrong * squared).sum(dim=(0, 1))
            rate = (number + BELIEVED * self.rate) / (count + BELIEVED)
            size = (total + BELIEVED * self.variance) / (number + BELIEVED * self.rate) - noise
            faults = Faults(rate.clamp_max(MOST), size.clamp_min(SMALLEST))
        return faults


def stuck(contexts: Contexts) -> Tensor:
    """Cells of a series that repeat the one before them for longer than chance lets them, shape (items, P).

    How often two neighbours are equal is that of the column itself, so that coarse rounding raises no alarm; a value
    that the column often has elsewhere, such as rain of 0, may stay as long as it likes. A table has none.
    """
    found = torch.zeros_like(contexts.present)
    if contexts.runs is None:
        return found
    starts = np.zeros(len(contexts), dtype=bool)
    starts[np.cumsum([0, *contexts.runs[:-1]])] = True
    cells, present = contexts.cells.cpu().numpy(), contexts.present.cpu().numpy()
    for column in range(cells.shape[1]):
        values, there = cells[:, column], present[:, column]
        repeats = np.zeros(len(values), dtype=bool)
        repeats[1:] = (values[1:] == values[:-1]) & there[1:] & there[:-1]
        repeats &= ~starts
        stretch = np.cumsum(~repeats) - 1
        length = np.bincount(stretch)
        chance = max(int(repeats.sum()), 1) / max(int(there.sum()), 1)
        unlikely = there.sum() * chance ** (length - 1.0) < STUCK
        for one in np.flatnonzero(unlikely & (length > 2)):
            where = stretch == one
            elsewhere = np.count_nonzero(there & ~where & (values == values[where][0]))
            if elsewhere < RESTING * there.sum():
                found[torch.from_numpy(where).to(found.device), column] = True
    return found
