"""From a mixture of Gaussians for a clean cell, given its context, and its measurement to the cell's posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Densities of clean cells, given everything but their own measurement. All of shape (items, M, P), standardised.

    Attributes:
        weight: Logarithm of each component's share.
        mean: Its mean.
        variance: Its variance.
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor

    def part(self, items: slice) -> Mixture:
        """That of some items."""
        return Mixture(self.weight[items], self.mean[items], self.variance[items])

    def widened(self, factor: Tensor) -> Mixture:
        """The same with each column's variances multiplied, shape (P,)."""
        return Mixture(self.weight, self.mean, self.variance * factor)

    def single(self, which: Tensor) -> Mixture:
        """The same with these columns, shape (P,), counted by their mean and variance alone.

        Each of their components is then the same Gaussian, so that the posterior mean is linear in the measurement.
        """
        share, mean = self.weight.exp(), self.expected()[:, None]
        variance = (share * (self.variance + (self.mean - mean).square())).sum(dim=1, keepdim=True)
        return Mixture(self.weight, torch.where(which, mean, self.mean), torch.where(which, variance, self.variance))

    def expected(self) -> Tensor:
        """The mean of each cell before it is looked at, shape (items, P)."""
        return (self.weight.exp() * self.mean).sum(dim=1)

    def log_likelihood(self, observed: Tensor, noise: Tensor) -> Tensor:
        """Log density of noisy cells, less a constant, shape (items, P).

        Args:
            observed: Shape (items, P).
            noise: Noise variance of each column, shape (P,), or of each component's cells, shape (M, P) or
                (items, M, P).
        """
        return torch.logsumexp(self._joint(observed, noise), dim=1)

    def posterior(self, observed: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each clean cell, given its measurement, each of shape (items, P)."""
        share, mean, variance = self.given(observed, noise)
        expected = (share * mean).sum(dim=1)
        spread = (share * (variance + (mean - expected[:, None]).square())).sum(dim=1)
        return expected, spread

    def draw(self, observed: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """One value of each clean cell, drawn from its posterior by itself, shape (items, P)."""
        share, mean, variance = self.given(observed, noise)
        level = torch.rand(observed.shape, generator=generator, device=observed.device, dtype=observed.dtype)
        chosen = (share.cumsum(dim=1) < level[:, None]).sum(dim=1, keepdim=True).clamp_max(share.shape[1] - 1)
        normal = torch.randn(observed.shape, generator=generator, device=observed.device, dtype=observed.dtype)
        return mean.gather(1, chosen).squeeze(1) + normal * variance.gather(1, chosen).squeeze(1).sqrt()

    def given(self, observed: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Share, mean and variance of each component, given the measurement, each of shape (items, M, P)."""
        total = self.variance + noise
        mean = (self.variance * observed[:, None] + noise * self.mean) / total
        return self.shares(observed, noise), mean, self.variance * noise / total

    def shares(self, observed: Tensor, noise: Tensor) -> Tensor:
        """Probability of each component, given the measurement, shape (items, M, P)."""
        return self._joint(observed, noise).softmax(dim=1)

    def _joint(self, observed: Tensor, noise: Tensor) -> Tensor:
        total = self.variance + noise
        away = observed[:, None] - self.mean
        return self.weight - 0.5 * (away.square() / total + total.log())


def side_by_side(mixtures: list[Mixture], order: Tensor) -> Mixture:
    """Mixtures of different cells of the same items as one, its cells in this order of theirs."""
    return Mixture(
        torch.cat([one.weight for one in mixtures], dim=2)[:, :, order],
        torch.cat([one.mean for one in mixtures], dim=2)[:, :, order],
        torch.cat([one.variance for one in mixtures], dim=2)[:, :, order],
    )
