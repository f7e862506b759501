"""Noise that evidently is not Gaussian, or not alike for all cells, and what is then believed of the model.

What a mixture makes of a measurement leans on the noise's shape: heavy tails of the noise pass for signal, and cells
with little noise for cells that are foretold well. So where the noise of a column evidently departs from that, and only
there, the estimate leans on less:

- Heavy tails: one Gaussian a cell, whose mean is linear in the measurement, with an error that depends on the noise's
  variance alone (the linear minimum mean square error estimate).
- Noise that differs from cell to cell, so that some are foretold better than noise of that size allows: the same, and
  its variance grows with a power of what the model leaves open of each cell, the least power that explains it.
- Where its size is in doubt, because it was estimated or is larger than all that is left open, the same rather says
  that there is less of it: no more than these cells show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from denograd_engine.posterior.mixture import Mixture

LOOKED_AT = 20_000
"""Items, evenly spaced, that departures are looked for in."""
TAILS = (0.3, 0.5, 0.7, 0.85, 0.95)
"""Half of the cells have (1 - c), half (1 + c) times the noise's variance, for one of these c: a kurtosis of 3 + 3 c^2.
"""
FACTORS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0)
"""Of the variance of clean cells, with which each explanation is tried."""
EVIDENT = 10.0
"""Gain in log-likelihood over Gaussian noise from which tails are evident."""
OTHERWISE = 2.0
"""Times that gain which clean cells that are no Gaussians must bring, to explain the same tails."""
BEST = 0.2
"""Share of a column's cells, those that are foretold best, in which noise that differs is seen."""
IMPOSSIBLE = -5.0
"""Standard errors by which their mean square is below the noise's variance, which it cannot be."""
LEAST_OPEN = 0.01
"""Variance that a clean cell has at least where noise differs, over that of the noise."""


class Departure(StrEnum):
    """How the noise of a column departs from Gaussian noise that is alike for all cells."""

    HEAVY = "heavy"
    UNEVEN = "uneven"


@dataclass(frozen=True)
class Departures:
    """Of each refined column. All of shape (C,).

    Attributes:
        heavy: Whether its noise has heavy tails, and is neither less nor differs from cell to cell.
        power: With which the noise's variance grows with what the model leaves open of a cell; 0 where it is alike for
            all.
        share: The noise's variance in a cell of which the model leaves nothing open but noise, over that which the
            model takes out.
        scale: What is left open of cells in fact, over what the model says.
        least: Variance of a clean cell, at least.
    """

    heavy: Tensor
    power: Tensor
    share: Tensor
    scale: Tensor
    least: Tensor

    @classmethod
    def none(cls, noise: Tensor) -> Departures:
        """Those of Gaussian noise alike for all cells, with this variance, shape (C,)."""
        zero, one = torch.zeros_like(noise), torch.ones_like(noise)
        return cls(zero.bool(), zero, one, one, zero)

    @property
    def mean(self) -> Tensor:
        """The noise's mean variance, over that which the model takes out."""
        return torch.where(self.power > 0, 1.0, self.share)

    @property
    def resized(self) -> Tensor:
        """Whether noise differs from cell to cell, or is less."""
        return (self.power > 0) | (self.share < 1)

    def kinds(self) -> list[Departure | None]:
        """Those of each column."""
        both = zip(self.heavy.tolist(), (self.power > 0).tolist(), strict=True)
        return [Departure.UNEVEN if uneven else Departure.HEAVY if heavy else None for heavy, uneven in both]

    def believed(self, mixture: Mixture, noise: Tensor) -> tuple[Mixture, Tensor]:
        """What to make of what the model says of clean cells, and the variance of each one's noise.

        Args:
            mixture: Shapes (items, M, C).
            noise: Variance of each column's, as the model takes it out, shape (C,).

        Returns:
            The mixture, and a tensor of shape (items, M, C), the same for all components.
        """
        alike = noise.expand(mixture.variance.shape)
        resized = self.resized
        if not bool((self.heavy | resized).any()):
            return mixture, alike
        counted = mixture.single(self.heavy | resized)
        open_ = counted.variance / noise + 1
        errors = torch.where(resized, noise * self.share * open_**self.power, alike)
        clean = torch.maximum(self.scale * open_ * noise - errors, self.least)
        return Mixture(counted.weight, counted.mean, torch.where(resized, clean, counted.variance)), errors


def departures(mixture: Mixture, observed: Tensor, present: Tensor, noise: Tensor, doubted: Tensor) -> Departures:
    """What departs.

    Args:
        mixture: Of the clean cells, by models that have not seen them, shapes (items, M, C).
        observed: Their measurements, shape (items, C).
        present: Which of them are there.
        noise: Variance of the noise of each column, shape (C,).
        doubted: Whether that may be too large, shape (C,).
    """
    some = slice(None, None, math.ceil(max(1, len(observed)) / LOOKED_AT))
    mixture, observed, present = mixture.part(some), observed[some], present[some]
    single = mixture.single(torch.ones_like(noise, dtype=torch.bool))
    heavy = _heavy(mixture, single, observed, present, noise)
    found = Departures(heavy, *_resized(single, observed, present, noise, doubted))
    return replace(found, heavy=heavy & ~found.resized)


def _heavy(mixture: Mixture, single: Mixture, observed: Tensor, present: Tensor, noise: Tensor) -> Tensor:
    """Whether heavy tails explain what Gaussian cells with Gaussian noise do not, and cells that are no Gaussians do
    not explain it far better.
    """
    mean, variance = (part[:, :1].expand(-1, 2, -1) for part in (single.mean, single.variance))
    twice = Mixture(torch.full_like(mean, math.log(0.5)), mean, variance)
    shapes = [torch.stack([(1 - tail) * noise, (1 + tail) * noise]) for tail in TAILS]
    plain = _log_likelihood(single, observed, present, noise)
    by_tails = torch.stack([_log_likelihood(twice, observed, present, shape) for shape in shapes]).amax(dim=0) - plain
    by_signal = _log_likelihood(mixture, observed, present, noise) - plain
    return (by_tails > EVIDENT) & (by_signal < OTHERWISE * by_tails)


def _log_likelihood(mixture: Mixture, observed: Tensor, present: Tensor, noise: Tensor) -> Tensor:
    """Of each column, with the factor of its variances that suits it best, shape (C,)."""
    found = []
    for factor in FACTORS:
        each = mixture.widened(torch.full_like(observed[0], factor)).log_likelihood(observed, noise)
        found.append(torch.where(present, each, 0.0).double().sum(dim=0))
    return torch.stack(found).amax(dim=0)


def _resized(single: Mixture, observed: Tensor, present: Tensor, noise: Tensor, doubted: Tensor) -> tuple[Tensor, ...]:
    """Power, share, scale and least of each column."""
    open_ = torch.where(present, single.variance[:, 0] / noise + 1, torch.nan)
    squares = torch.where(present, (observed - single.mean[:, 0]).square() / noise, torch.nan).double()
    best = open_ <= open_.nanquantile(BEST, dim=0)
    count, all_ = best.sum(dim=0), present.sum(dim=0)
    lowest, mean = torch.where(best, squares, 0.0).sum(dim=0) / count.clamp_min(1), squares.nanmean(dim=0)
    differs = (lowest - 1) * (count / 2).sqrt() < IMPOSSIBLE
    lowest = lowest.clamp(1e-6, 1.0)
    power = torch.where(mean > lowest, lowest.log() / (lowest / mean).log(), 1.0).clamp(0.0, 1.0)
    power = torch.where(doubted, 0.0, power)
    share = torch.where(doubted, lowest, 1 / (open_.double() ** power).nanmean(dim=0))
    scale = mean / open_.double().nanmean(dim=0)
    chance = ((squares - mean).square().nanmean(dim=0) / all_.clamp_min(1)).sqrt()
    least = noise * chance.clamp_min(LEAST_OPEN)
    one, zero = torch.ones_like(power), torch.zeros_like(power)
    chosen = [(power, zero), (share, one), (scale, one), (least, zero)]
    return tuple(torch.where(differs, found, otherwise).to(noise) for found, otherwise in chosen)
