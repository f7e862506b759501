"""How far to trust the model, from the noisy data alone: Stein's unbiased estimate of the risk (SURE, Stein 1981).

For Gaussian noise of variance s, the mean squared error of an estimate z(observed) is, without any clean data, the mean
of (z - observed)^2 - s + 2 s dz/dobserved; and for a posterior mean s dz/dobserved is the posterior variance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denograd_engine.posterior.faults import Faults
from denograd_engine.posterior.mixture import Mixture

FACTORS = (1.0, 1.2, 1.45, 1.75, 2.1, 2.5, 3.0, 4.0, 6.0, 10.0)
"""Factors of the mixture's variances that are tried."""
TOGETHER = 8192


def risk(mixture: Mixture, observed: Tensor, present: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Estimated mean squared error of the posterior mean, and the mean variance that it claims, each of shape (C,)."""
    error, claimed = (torch.zeros_like(noise, dtype=torch.float64) for _ in range(2))
    for start in range(0, len(observed), TOGETHER):
        part = slice(start, start + TOGETHER)
        some = Mixture(mixture.weight[part], mixture.mean[part], mixture.variance[part])
        mean, variance = some.posterior(observed[part], noise)
        terms = (mean - observed[part]).square() - noise + 2 * variance
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


def calibrate(mixture: Mixture, observed: Tensor, present: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The factor of each column's variances with the least estimated error, and how far its variance then is off.

    Returns:
        Two tensors of shape (C,): the factor, and the estimated error over the claimed variance, at least 1.
    """
    tried = [risk(mixture.widened(torch.full_like(noise, factor)), observed, present, noise) for factor in FACTORS]
    errors = torch.stack([error for error, _ in tried])
    best = errors.argmin(dim=0)
    column = torch.arange(len(noise), device=noise.device)
    claimed = torch.stack([variance for _, variance in tried])[best, column]
    factor = torch.tensor(FACTORS, dtype=noise.dtype, device=noise.device)[best]
    off = (errors[best, column] / claimed).clamp_min(1.0).to(noise)
    return factor, off
