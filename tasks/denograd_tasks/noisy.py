"""Facts about columns with noise, as records hold them, and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict


class NoisyColumn(BaseModel):
    """What a posterior model knows of a column, in the column's own unit.

    Attributes:
        noise: Standard deviation of the noise that it takes out, faults apart.
        declared: The one that was declared, None if it was estimated. What the data do not allow of it was cut off.
        bound: Standard deviation of what the other cells do not explain: the noise is not larger.
        skill: Held-out share of the variance that is explained without the cell itself.
        gain: Root mean squared error that is left, estimated without clean data, over the noise: 1 gains nothing.
        faults: Share of its cells that are faulty; None if none were looked for.
        departure: How its noise evidently departs from Gaussian noise that is alike for all cells; None where it does
            not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: float
    declared: float | None
    bound: float
    skill: float
    gain: float
    faults: float | None = None
    departure: Literal["heavy", "uneven"] | None = None


def noise_left_in_words(left: Mapping[str, float]) -> str:
    """The mean over columns, and the column with the most.

    >>> noise_left_in_words({"a": 0.5, "b": 0.7})
    '60% (most in b: 70%)'
    """
    if not left:
        return "none, since no column has noise"
    worst = max(left, key=lambda name: left[name])
    mean = f"{sum(left.values()) / len(left):.0%}"
    return mean if len(left) == 1 else f"{mean} (most in {worst}: {left[worst]:.0%})"


def faults_in_words(found: Mapping[str, float], rows: int) -> str:
    """How many cells are faulty, and the column with the most.

    >>> faults_in_words({"a": 3.0, "b": 1.0}, rows=100)
    '4 cells (2.0%, most in a: 3)'
    """
    if not any(found.values()):
        return "none"
    worst, total = max(found, key=lambda name: found[name]), sum(found.values())
    return f"{total:,.0f} cells ({total / (rows * len(found)):.1%}, most in {worst}: {found[worst]:,.0f})"


def step_in_words(length: float) -> str:
    """How far cells go towards what their context says, in the mean.

    >>> step_in_words(0.62)
    'each cell 62% of the way to what its context says, in the mean'
    """
    return f"each cell {length:.0%} of the way to what its context says, in the mean"


def furthest_from_one(pairs: Mapping[str, tuple[float, float]]) -> tuple[str | None, float]:
    """The name whose two numbers have the ratio furthest from 1, and that ratio; 1 without any.

    >>> furthest_from_one({"a": (1.0, 1.1), "b": (1.0, 0.5)})
    ('b', 2.0)
    """
    ratios = {name: _ratio(*pair) for name, pair in pairs.items()}
    if not ratios:
        return None, 1.0
    worst = max(ratios, key=lambda name: abs(math.log(ratios[name])) if ratios[name] > 0 else math.inf)
    return worst, ratios[worst]


def _ratio(found: float, expected: float) -> float:
    if expected > 0:
        return found / expected
    return 1.0 if found == 0 else math.inf
