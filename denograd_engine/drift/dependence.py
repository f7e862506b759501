"""How much less a row says where rows resemble their neighbours.

The sum of n scores has the variance n s2 V, where s2 is that of one score, and V = 1 for independent rows. V is the sum
of all autocorrelations: 19 for an AR(1) with coefficient 0.9. It is estimated from the reference by an initial sequence
(Geyer 1992): sums of neighbouring pairs of autocorrelations are added up to the first that is not positive; here, that
is below the standard error which it has where rows are independent, so that these are found to be. Rows with the same
time stamp are added up first, so that series which move together, and series of which each is autocorrelated, are
taken into account alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST = 65_536
"""Steps at the end of the reference that are looked at."""


@dataclass(frozen=True)
class Dependence:
    """Of the scores of one column.

    Attributes:
        inflation: V, at least 1: so many rows say as much as one independent row.
        reach: Steps to which the resemblance reaches, 0 where there is none.
    """

    inflation: float
    reach: float


def dependence(scores: NDArray[np.float64], starts: NDArray[np.int64]) -> Dependence:
    """Measure it.

    Args:
        scores: Of the rows in the order of time, about zero; zero where missing. Shape (rows,).
        starts: Of each time step's first row.
    """
    sums = np.add.reduceat(scores, starts)
    size = 1 << (2 * len(sums) - 1).bit_length()
    covariance = np.fft.irfft(np.abs(np.fft.rfft(sums, size)) ** 2, size)[: len(sums)]
    own = float(np.square(scores).sum())
    if not own > 0 or not covariance[0] > 0:
        return Dependence(1.0, 0.0)
    pairs = covariance[: len(sums) // 2 * 2].reshape(-1, 2).sum(axis=1)
    ended = np.flatnonzero(pairs <= np.sqrt(2 / len(sums)) * covariance[0])
    one = float(covariance[0])
    whole = max(2 * float(pairs[: ended[0] if len(ended) else len(pairs)].sum()) - one, one)
    return Dependence(max(1.0, whole / own), whole / one - 1)
