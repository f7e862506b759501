"""The linear part of a blind-spot prediction: what a joint Gaussian says of each cell, given all but itself.

Its mean may depend on the levels of the frozen columns, more or less strongly for different predicted cells.
Any part of a context may be missing: items are grouped by what they lack, and each such pattern has its own maps, exact
for the fitted covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.levels import effects_of, shifts

NO_EFFECTS = (None,)
"""Pseudocounts that leave no effects of levels."""

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
        together: What each is predicted without, itself among it, shape (P, D).
        kept: Which numbers of a context are handed on, cleaned, shape (n,): none where noise hangs together, because
            they would tell of the cells that a prediction is to do without.
        views: Parts of the context from which each cell is predicted, shape (V, D); the first is all of it.
        noise: Noise variance of each number of a context, shape (D,).
        penalty: Added to the variance of each, in units of the ridge, shape (D,).
        ridge: With which each is predicted and cleaned, shape (D,).
        effects: With which of the Gaussian's effects of levels, counted from 0, shape (D,).
    """

    own: Tensor
    together: Tensor
    kept: Tensor
    views: Tensor
    noise: Tensor
    penalty: Tensor
    ridge: Tensor
    effects: Tensor


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
        effects: What each level adds to the mean of each cell, for each of E pseudocounts, shape (E, L, P).
        covariance: About those means, shape (E, D, D), the penalty not included.
    """

    mean: Tensor
    effects: Tensor
    covariance: Tensor

    @classmethod
    def fit(cls, contexts: Contexts, items: Tensor, pseudocounts: Sequence[float | None] = NO_EFFECTS) -> Gaussian:
        """Moments of these items, in double precision; each pair of numbers from the items that have both."""
        width, device = contexts.width, contexts.cells.device
        total, count = (torch.zeros(width, dtype=torch.float64, device=device) for _ in range(2))
        for part in torch.split(items, TOGETHER):
            x, present = contexts.gather(part)
            total += x.double().sum(dim=0)
            count += present.sum(dim=0)
        mean = total / count.clamp_min(1)
        effects = _effects(contexts, items, mean, pseudocounts)
        products = torch.zeros(len(effects), width, width, dtype=torch.float64, device=device)
        pairs = torch.zeros(width, width, dtype=torch.float64, device=device)
        for part in torch.split(items, TOGETHER):
            x, present = contexts.gather(part)
            whole = present.double()
            pairs += whole.T @ whole
            for number, of_levels in enumerate(effects):
                expected = mean + _shift(contexts, part, of_levels, width)
                centred = torch.where(present, x.double() - expected, 0.0)
                products[number] += centred.T @ centred
        covariance = products / pairs.clamp_min(1)
        if bool((pairs < len(items)).any()):
            values, vectors = torch.linalg.eigh(covariance)
            covariance = (vectors * values.clamp_min(SMALLEST)[:, None]) @ vectors.mT
        return cls(mean, effects, covariance)

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
            maps, gain[first : first + len(chunk)] = self._maps(chunk, shape)
            for at in range(len(chunk)):
                start = ends[first + at - 1] if first + at else 0
                for part in torch.split(by_pattern[start : ends[first + at]], TOGETHER):
                    found = self._told(contexts, items[part], chunk[at], maps[at], shape)
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

    def _maps(self, patterns: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
        """Of each pattern: the map from a centred context to predictions and cleaned numbers, and the gain.

        Returns:
            Shapes (patterns, V P + n, D) and (patterns, P, n).
        """
        views, own, kept, width = len(shape.views), len(shape.own), len(shape.kept), len(self.mean)
        predictions = self.covariance.new_zeros(views, len(patterns), own, width)
        cleaned = self.covariance.new_empty(len(patterns), kept, width)
        how = torch.stack([shape.effects.to(shape.ridge), shape.ridge], dim=1)
        for one in torch.unique(how[torch.cat([shape.own, shape.kept])], dim=0):
            covariance = self.covariance[int(one[0])] + torch.diag(one[1] * shape.penalty.to(self.covariance))
            of_own, of_kept = ((how[some] == one).all(dim=1).nonzero().squeeze(1) for some in (shape.own, shape.kept))
            for number, view in enumerate(shape.views):
                inside, place = view.nonzero().squeeze(1), view.cumsum(0) - 1
                seen, which = torch.unique(patterns[:, inside], dim=0, return_inverse=True)
                within = covariance[inside][:, inside]
                precision = _precision(within, seen)
                own_at, together = place[shape.own[of_own]], shape.together[of_own][:, inside]
                found = _predictions(within, precision, seen, own_at, together)
                predictions[number][:, of_own[:, None], inside] = found[which]
                if number == 0:
                    cleaned[:, of_kept] = _cleaned(within, precision, seen, shape.kept[of_kept], shape.noise)[which]
        gain = cleaned[:, :, shape.own].transpose(1, 2)
        return torch.cat([*predictions, cleaned], dim=1).float(), gain.float()

    def _told(self, contexts: Contexts, items: Tensor, seen: Tensor, maps: Tensor, shape: Shape) -> Tensor:
        """Predictions and cleaned numbers of items of one pattern, shape (items, V P + n)."""
        x, _ = contexts.gather(items)
        where = torch.cat([shape.own.repeat(len(shape.views)), shape.kept])
        effects, found = shape.effects[where], x.new_empty(len(x), len(where))
        for number in torch.unique(effects).tolist():
            rows = (effects == number).nonzero().squeeze(1)
            expected = self.mean.to(x) + _shift(contexts, items, self.effects[number].to(x), x.shape[1])
            expected = expected.expand_as(x)
            found[:, rows] = torch.where(seen, x - expected, 0.0) @ maps[rows].T + expected[:, where[rows]]
        return found


def _effects(contexts: Contexts, items: Tensor, mean: Tensor, pseudocounts: Sequence[float | None]) -> Tensor:
    columns = contexts.cells.shape[1]
    if contexts.levels is None:
        return mean.new_zeros(len(pseudocounts), 0, columns)
    centred = torch.where(contexts.present[items], contexts.cells[items] - mean[:columns], 0.0)
    return torch.stack(effects_of(contexts.levels, contexts.level_count, items, centred, pseudocounts))


def _shift(contexts: Contexts, items: Tensor, effects: Tensor, width: int) -> Tensor:
    """What levels add to the mean of the contexts of these items, shape (items, D) or that of one number."""
    if contexts.levels is None or not len(effects):
        return effects.new_zeros(())
    return functional.pad(shifts(contexts.levels[items], effects), (0, width - effects.shape[1]))


def _cleaned(covariance: Tensor, precision: Tensor, patterns: Tensor, kept: Tensor, noise: Tensor) -> Tensor:
    """Coefficients of these numbers, were they without noise, on what is present, shape (patterns, n, D)."""
    unit = torch.eye(precision.shape[1], dtype=precision.dtype, device=precision.device)[kept]
    observed = unit - noise.to(precision)[kept, None] * precision[:, kept]
    return torch.where(patterns[:, kept, None], observed, covariance[kept] @ precision)


def _predictions(covariance: Tensor, precision: Tensor, patterns: Tensor, own: Tensor, together: Tensor) -> Tensor:
    """Coefficients of each own cell on the others, zero on what goes together with it, shape (patterns, P, D)."""
    found = _from_others(covariance, precision, patterns, own)
    for at in (together.sum(dim=1) > 1).nonzero().squeeze(1).tolist():
        found[:, at] = _without(together[at].nonzero().squeeze(1), found[:, at], precision, patterns)
    return found


def _from_others(covariance: Tensor, precision: Tensor, patterns: Tensor, own: Tensor) -> Tensor:
    """Coefficients of each own cell on all others, zero on itself, shape (patterns, P, D)."""
    diagonal = precision[:, own, own]
    from_others = -precision[:, own] / torch.where(diagonal > 0, diagonal, 1.0)[:, :, None]
    from_others[:, torch.arange(len(own)), own] = 0.0
    return torch.where(patterns[:, own, None], from_others, covariance[own] @ precision)


def _without(block: Tensor, found: Tensor, precision: Tensor, patterns: Tensor) -> Tensor:
    """These coefficients, shape (patterns, D), with those of a block of numbers handed on to what foretells it."""
    absent = torch.diag_embed((~patterns[:, block]).to(precision))
    foretold = -torch.linalg.solve(precision[:, block][:, :, block] + absent, precision[:, block])
    foretold[:, :, block] = 0.0
    handed_on: Tensor = found + (found[:, None, block] @ foretold)[:, 0]
    return handed_on.index_fill(1, block, 0.0)


def _precision(covariance: Tensor, patterns: Tensor) -> Tensor:
    """Inverse covariance of what is present, zero elsewhere, shape (patterns, D, D)."""
    there = patterns.to(covariance)
    present = (covariance * there[:, :, None]).mul_(there[:, None, :])
    present.diagonal(dim1=1, dim2=2).add_(1 - there)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(present))
    inverse.diagonal(dim1=1, dim2=2).mul_(there)
    return inverse
