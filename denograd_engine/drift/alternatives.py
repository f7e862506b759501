"""What a change would look like: for every kind of change the likelihood ratio of a cell, by its bin.

A score h is tilted: the density ratio exp(t h - psi(t)), psi the logarithm of its mean in the reference, shifts the
mean of h by about t, up or down. The share of missing cells, and of each category, is raised or lowered. Looked for are
changes of 0.12 standard deviations, of location and shares also of 0.5: a score of scale or shape is so heavy-tailed
that the larger tilt would rest on a few cells. What is allowed for is 2.5 times the error of the mean ratio in the
reference, and no less than 0.02 standard deviations: the ratio is taken to the nearest distribution within that, so
that it averages at most 1 over all of them. Both together leave a change of less than 0.08 standard deviations alone,
however many rows show it.

Where rows depend on their neighbours, the logarithm of a ratio counts 1 / V: see `dependence`. The variance of a long
sum is then what the ratio takes it to be; what a sum owes to its first and last rows alone stays bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.drift.scores import DEGREES, means_by_phase, normal_scores
from denograd_engine.drift.verdict import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_engine.drift.profile import Profile

SIZES = (0.12, 0.5)
"""Changes of location and of shares that are looked for, beyond what is allowed for, in standard deviations."""
LEAST = 0.02
"""Allowed for at least, likewise."""
ERRORS = 2.5
"""Standard errors of the reference that are allowed for."""
LEAST_SHARE = 0.01
"""Shares below it are taken for it when they rise, so that a single cell of a new kind is no alarm."""
WEIGHTS: Mapping[Kind, int] = {Kind.LOCATION: 2, Kind.SCALE: 2, Kind.CATEGORIES: 2, Kind.SHAPE: 1, Kind.MISSING: 1}
OF_DEGREE = (Kind.LOCATION, Kind.SCALE, Kind.SHAPE, Kind.SHAPE)


@dataclass(frozen=True)
class Alternatives:
    """Of one column, A in number.

    Attributes:
        ratios: Logarithms of likelihood ratios, shape (A, P, BINS).
        weights: Logarithm of the weight of each, the weights of a column adding up to 1, shape (A,).
    """

    ratios: NDArray[np.float64]
    weights: NDArray[np.float64]


def alternatives(profile: Profile, at: int) -> Alternatives:
    """What is looked for in a column."""
    column, counts, inflation = profile.columns[at], profile.counts[:, at], profile.inflation[at]
    found: dict[Kind, list[NDArray[np.float64]]] = {}
    if column.ordered:
        degrees = 2 if column.residual else DEGREES
        for degree, scores in enumerate(normal_scores(counts)[:degrees]):
            found.setdefault(OF_DEGREE[degree], []).extend(
                _tilted(scores, counts, inflation[degree], SIZES[: 2 - (degree > 0)])
            )
    else:
        found[Kind.CATEGORIES] = []
        for level in range(1, column.used):
            found[Kind.CATEGORIES] += _reweighted(counts, level, inflation[0])
    if not column.residual:
        found[Kind.MISSING] = _reweighted(counts, 0, inflation[DEGREES])
    kinds = {kind: ratios for kind, ratios in found.items() if ratios}
    weights = np.array([WEIGHTS[kind] / len(ratios) for kind, ratios in kinds.items() for _ in ratios])
    ratios = np.array([ratio for those in kinds.values() for ratio in those])
    return Alternatives(ratios, np.log(weights / weights.sum()))


def least_shift(profile: Profile, at: int) -> float:
    """Shift of a column of numbers, in std, at which the evidence of the smallest change looked for stays level."""
    _, allowed = _tilt(
        normal_scores(profile.counts[:, at])[0], profile.counts[:, at], profile.inflation[at, 0], SIZES[0]
    )
    return allowed / SIZES[0] + SIZES[0] / 2


def _tilted(
    scores: NDArray[np.float64], counts: NDArray[np.int64], inflation: float, sizes: tuple[float, ...]
) -> list[NDArray[np.float64]]:
    """A score whose mean rises or falls."""
    ratios = []
    for tilt in (sign * size for size in sizes for sign in (1, -1)) if scores.any() else ():
        ratio, allowed = _tilt(scores, counts, inflation, tilt)
        ratio[:, 1:] -= allowed
        ratios.append(ratio / inflation)
    return ratios


def _tilt(
    scores: NDArray[np.float64], counts: NDArray[np.int64], inflation: float, tilt: float
) -> tuple[NDArray[np.float64], float]:
    """Logarithm of the density ratio of one tilt, 0 for missing cells, and what is allowed for."""
    present = counts[:, 1:]
    shares, total = means_by_phase(present, present.sum(axis=1)), present.sum()
    psi = np.log((shares * np.exp(tilt * scores[:, 1:])).sum(axis=1))
    ratio = np.zeros(counts.shape)
    ratio[:, 1:] = tilt * scores[:, 1:] - psi[:, None]
    variance = float((np.square(np.expm1(ratio)) * counts).sum() / total)
    return ratio, max(LEAST * abs(tilt), ERRORS * float(np.sqrt(variance * inflation / total)))


def _reweighted(counts: NDArray[np.int64], at: int, inflation: float) -> list[NDArray[np.float64]]:
    """A bin whose share rises or falls; where it can do either, in every hour."""
    share = means_by_phase(counts, counts.sum(axis=1))[:, at]
    allowed = max(LEAST, ERRORS * np.sqrt(inflation / counts.sum()))
    ratios = []
    for sign in (1, -1):
        usual = np.clip(share, LEAST_SHARE if sign > 0 else 0.0, 1.0)
        spread = np.sqrt(usual * (1 - usual))
        nearest = usual + sign * allowed * spread
        for size in SIZES:
            other = nearest + sign * size * spread
            possible = (spread > 0) & (other > 0) & (other < 1)
            if not possible.any():
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                inside, outside = np.log(other / nearest), np.log((1 - other) / (1 - nearest))
            ratio = np.repeat(outside[:, None], counts.shape[1], axis=1)
            ratio[:, at] = inside
            ratios.append(np.where(possible[:, None], ratio, 0.0) / inflation)
    return ratios
