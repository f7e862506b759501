"""The linear part of a blind-spot prediction: what a joint Gaussian says of each cell, given all but itself.

Any part of a context may be missing: items are grouped by what they lack, and each such pattern has its own maps, exact
for the fitted covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from denograd_engine.posterior.contexts import Contexts

TOGETHER = 4096
"""Items whose contexts are gathered at once."""
PATTERNS = 64
"""Patterns whose maps are computed at once."""
SMALLEST = 1e-4
"""Eigenvalue below which a covariance from incomplete items is lifted."""


@dataclass(frozen=True)
class Shape:
    """What is asked of the linear part.

    Attributes:
        own: Where the predicted cells are in a context, shape (P,).
        kept: Which numbers of a context are handed on, cleaned, shape (n,).
        views: Parts of the context from which each cell is predicted, shape (V, D); the first is all of it.
        noise: Noise variance of each number of a context, shape (D,).
        penalty: Added to the variance of each, in units of the ridge, shape (D,).
        ridge: With which each is predicted and cleaned, shape (D,).
    """

    own: Tensor
    kept: Tensor
    views: Tensor
    noise: Tensor
    penalty: Tensor
    ridge: Tensor


@dataclass(frozen=True)
class Blind:
    """What the linear part says of some items. None of it depends on the cell that it is about.

    Attributes:
        predicted: Of each cell, from each view, shape (items, V, P).
        cleaned: The kept part of the context as it probably was without noise, shape (items, n). It does depend on
            the item's own cells; add `(predicted - observed) * gain` to be rid of one of them.
        missing: Which of the kept numbers are missing, shape (items, n).
        gain: How the cleaned numbers follow each own cell, shape (patterns, P, n).
        pattern: Of each item, into `gain`, shape (items,).
    """

    predicted: Tensor
    cleaned: Tensor
    missing: Tensor
    gain: Tensor
    pattern: Tensor


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of contexts as observed.

    Attributes:
        mean: Shape (D,).
        covariance: Shape (D, D), the penalty not included.
    """

    mean: Tensor
    covariance: Tensor

    @classmethod
    def fit(cls, contexts: Contexts, items: Tensor) -> Gaussian:
        """Moments of these items, in double precision; each pair of numbers from the items that have both."""
        width, device = contexts.width, contexts.cells.device
        total, count = (torch.zeros(width, dtype=torch.float64, device=device) for _ in range(2))
        for part in torch.split(items, TOGETHER):
            x, present = contexts.gather(part)
            total += x.double().sum(dim=0)
            count += present.sum(dim=0)
        mean = total / count.clamp_min(1)
        products, pairs = (torch.zeros(width, width, dtype=torch.float64, device=device) for _ in range(2))
        for part in torch.split(items, TOGETHER):
            x, present = contexts.gather(part)
            centred = torch.where(present, x.double() - mean, 0.0)
            products += centred.T @ centred
            whole = present.double()
            pairs += whole.T @ whole
        covariance = products / pairs.clamp_min(1)
        if bool((pairs < len(items)).any()):
            values, vectors = torch.linalg.eigh(covariance)
            covariance = (vectors * values.clamp_min(SMALLEST)) @ vectors.T
        return cls(mean, covariance)

    def blind(self, contexts: Contexts, items: Tensor, shape: Shape, hidden: Tensor | None = None) -> Blind:
        """What it says of these items.

        Args:
            contexts: Where they are.
            items: Which ones.
            shape: What is asked.
            hidden: Numbers that each item is to do without although they are there, shape (items, D).
        """
        views, own, kept = len(shape.views), len(shape.own), len(shape.kept)
        like = contexts.cells
        patterns, pattern = self._patterns(contexts, items, hidden)
        predicted = like.new_empty(len(items), views, own)
        cleaned = like.new_empty(len(items), kept)
        gain = like.new_empty(len(patterns), own, kept)
        by_pattern = pattern.argsort(stable=True)
        ends = torch.bincount(pattern, minlength=len(patterns)).cumsum(0).tolist()
        for first in range(0, len(patterns), PATTERNS):
            chunk = patterns[first : first + PATTERNS]
            maps, offsets, gain[first : first + len(chunk)] = self._maps(chunk, shape)
            for at in range(len(chunk)):
                start = ends[first + at - 1] if first + at else 0
                for part in torch.split(by_pattern[start : ends[first + at]], TOGETHER):
                    x, _ = contexts.gather(items[part])
                    found = torch.where(chunk[at], x - self.mean.to(x), 0.0) @ maps[at].T + offsets
                    predicted[part] = found[:, : views * own].reshape(-1, views, own)
                    cleaned[part] = found[:, views * own :]
        missing = ~patterns[pattern][:, shape.kept]
        return Blind(predicted, cleaned, missing, gain, pattern)

    def _patterns(self, contexts: Contexts, items: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = []
        for start in range(0, len(items), TOGETHER):
            _, present = contexts.gather(items[start : start + TOGETHER])
            seen.append(present if hidden is None else present & ~hidden[start : start + TOGETHER])
        present = torch.cat(seen)
        if bool(present.all()):
            return present[:1], torch.zeros(len(items), dtype=torch.int64, device=items.device)
        patterns, pattern = torch.unique(present, dim=0, return_inverse=True)
        return patterns, pattern

    def _maps(self, patterns: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
        """Of each pattern: the map from a centred context to predictions and cleaned numbers, and the gain.

        Returns:
            Shapes (patterns, V P + n, D), (V P + n,), and (patterns, P, n).
        """
        views, own, kept = len(shape.views), len(shape.own), len(shape.kept)
        predictions = self.covariance.new_empty(views, len(patterns), own, len(self.covariance))
        cleaned = self.covariance.new_empty(len(patterns), kept, len(self.covariance))
        for ridge in torch.unique(shape.ridge[torch.cat([shape.own, shape.kept])]):
            covariance = self.covariance + torch.diag(ridge * shape.penalty.to(self.covariance))
            of_own, of_kept = ((shape.ridge[some] == ridge).nonzero().squeeze(1) for some in (shape.own, shape.kept))
            for number, view in enumerate(shape.views):
                seen = patterns & view
                precision = _precision(covariance, seen)
                predictions[number][:, of_own] = self._predictions(covariance, precision, seen, shape.own[of_own])
                if number == 0:
                    cleaned[:, of_kept] = self._cleaned(precision, patterns, shape.kept[of_kept], shape.noise)
        offsets = torch.cat([*[self.mean[shape.own]] * views, self.mean[shape.kept]])
        gain = cleaned[:, :, shape.own].transpose(1, 2)
        return torch.cat([*predictions, cleaned], dim=1).float(), offsets.float(), gain.float()

    def _cleaned(self, precision: Tensor, patterns: Tensor, kept: Tensor, noise: Tensor) -> Tensor:
        """Coefficients of these numbers, were they without noise, on what is present, shape (patterns, n, D)."""
        unit = torch.eye(precision.shape[1], dtype=precision.dtype, device=precision.device)[kept]
        observed = unit - noise.to(precision)[kept, None] * precision[:, kept]
        return torch.where(patterns[:, kept, None], observed, self.covariance[kept] @ precision)

    def _predictions(self, covariance: Tensor, precision: Tensor, patterns: Tensor, own: Tensor) -> Tensor:
        """Coefficients of each own cell on the others, zero on itself, shape (patterns, P, D)."""
        diagonal = precision[:, own, own]
        from_others = -precision[:, own] / torch.where(diagonal > 0, diagonal, 1.0)[:, :, None]
        from_others[:, torch.arange(len(own)), own] = 0.0
        return torch.where(patterns[:, own, None], from_others, covariance[own] @ precision)


def _precision(covariance: Tensor, patterns: Tensor) -> Tensor:
    """Inverse covariance of what is present, zero elsewhere, shape (patterns, D, D)."""
    both = patterns[:, :, None] & patterns[:, None, :]
    unit = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.where(both, covariance, unit)))
    return torch.where(both, inverse, 0.0)
