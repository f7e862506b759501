"""How far to trust the model, from the noisy data alone: Stein's unbiased estimate of the risk (SURE, Stein 1981).

For Gaussian noise of variance s, the mean squared error of an estimate z(observed) is, without any clean data, the mean
of (z - observed)^2 - s + 2 s dz/dobserved; and for a posterior mean s dz/dobserved is the posterior variance. Where z
is linear in the measurement, the same holds of noise of any shape.

Which cells are surer than others is learnt through the noise too: a mean square of m errors is known to within
s sqrt(2 / m). What the claimed variances of a column differ by less than that is not believed, and they are drawn
towards their mean (James and Stein, 1961).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from denograd_engine.posterior.departures import Departures
from denograd_engine.posterior.faults import Faults
from denograd_engine.posterior.mixture import Mixture

FACTORS = (1.0, 1.2, 1.45, 1.75, 2.1, 2.5, 3.0, 4.0, 6.0, 10.0)
"""Factors of the mixture's variances that are tried."""
LESS = (0.25, 0.35, 0.5, 0.7, 0.85)
"""Those that are tried as well where tails of the noise may have passed for signal."""
TOGETHER = 8192
SPEAKING = 0.05
"""Share of the items that what is claimed of the variance of one cell is learnt from."""


@dataclass(frozen=True)
class Trust:
    """How far a model is trusted in each refined column.

    Attributes:
        departures: Of the noise from what the model takes it for.
        factor: Of the variances of its mixtures, each of shape (C,).
        off: Of its posterior variances.
        typical: Their mean, standardised.
        evened: How far each is drawn towards that, 0 to 1.
    """

    departures: Departures
    factor: Tensor
    off: Tensor
    typical: Tensor
    evened: Tensor

    def believed(self, mixture: Mixture, noise: Tensor) -> tuple[Mixture, Tensor]:
        """What is made of what the model says, and the variance of each cell's noise, shape (items, M, C)."""
        counted, errors = self.departures.believed(mixture, noise)
        return counted.widened(self.factor), errors

    def variance(self, posterior: Tensor) -> Tensor:
        """What to claim of cells with these posterior variances, shape (items, C)."""
        return self.off * torch.lerp(posterior, self.typical, self.evened)


def evened(mixture: Mixture, observed: Tensor, present: Tensor, noise: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean posterior variance, and how far that of each cell is to be drawn towards it, each of shape (C,).

    Args:
        mixture: Of the clean cells, by models that have not seen them, shapes (items, M, C).
        observed: Their measurements, shape (items, C).
        present: Which of them are there.
        noise: Mean variance of the noise of each column, shape (C,).
        errors: That of each cell, shape (items, M, C), the same for all components.
    """
    sums = torch.zeros(2, len(noise), dtype=torch.float64, device=noise.device)
    for start in range(0, len(observed), TOGETHER):
        part = slice(start, start + TOGETHER)
        _, variance = mixture.part(part).posterior(observed[part], errors[part])
        there = torch.where(present[part], variance, 0.0).double()
        sums += torch.stack([there.sum(dim=0), there.square().sum(dim=0)])
    count = present.sum(dim=0).clamp_min(1)
    mean, squares = sums / count
    chance = 2 * noise.double().square() / (SPEAKING * count)
    differ = (squares - mean.square()).clamp_min(torch.finfo(torch.float64).tiny)
    return mean.to(noise), (chance / (chance + differ)).to(noise)


def risk(mixture: Mixture, observed: Tensor, present: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Estimated mean squared error of the posterior mean, and the mean variance that it claims, each of shape (C,).

    The arguments are those of `evened`.
    """
    error, claimed = (torch.zeros_like(observed[0], dtype=torch.float64) for _ in range(2))
    for start in range(0, len(observed), TOGETHER):
        part = slice(start, start + TOGETHER)
        mean, variance = mixture.part(part).posterior(observed[part], errors[part])
        terms = (mean - observed[part]).square() - errors[part][:, 0] + 2 * variance
        error += torch.where(present[part], terms, 0.0).double().sum(dim=0)
        claimed += torch.where(present[part], variance, 0.0).double().sum(dim=0)
    count = present.sum(dim=0).clamp_min(1)
    return error / count, claimed / count


def likeliest(mixture: Mixture, observed: Tensor, present: Tensor, noise: Tensor, faults: Faults) -> Tensor:
    """The factor of each column's variances that makes what was observed most probable, shape (C,).

    For errors that are not Gaussian, of which Stein's estimate says nothing.
    """
    found = []
    for factor in FACTORS:
        both, errors = faults.split(mixture.widened(torch.full_like(noise, factor)), noise)
        found.append(torch.where(present, both.log_likelihood(observed, errors), 0.0).double().sum(dim=0))
    return torch.tensor(FACTORS, dtype=noise.dtype, device=noise.device)[torch.stack(found).argmax(dim=0)]


def calibrate(
    mixture: Mixture, observed: Tensor, present: Tensor, errors: Tensor, less: Tensor
) -> tuple[Tensor, Tensor]:
    """The factor of each column's variances with the least estimated error, and how far its variance then is off.

    The arguments are those of `evened`, and in which columns the variances may be too large, shape (C,).

    Returns:
        Two tensors of shape (C,): the factor, and the estimated error over the claimed variance, at least 1.
    """
    factors = observed.new_tensor([*LESS, *FACTORS] if bool(less.any()) else FACTORS)
    tried = [risk(mixture.widened(factor.expand(len(less))), observed, present, errors) for factor in factors]
    found = torch.stack([error for error, _ in tried])
    found[(factors < 1)[:, None] & ~less] = torch.inf
    best = found.argmin(dim=0)
    column = torch.arange(len(less), device=less.device)
    claimed = torch.stack([variance for _, variance in tried])[best, column]
    off = (found[best, column] / claimed).clamp_min(1.0).to(observed)
    return factors[best], off
