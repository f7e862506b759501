"""What a cell says about a change, by its bin.

A number is turned into its normal score z, the standard normal quantile of its rank in the reference, and this into the
normalised Hermite polynomials of degree 1 to 4: the components of Neyman's smooth test (1937; Rayner and Best 1989) on
the normal scale. The first is van der Waerden's test of location, the second Klotz's (1962) of scale, for normal data
as powerful as the t and the F test; the third sees skewness, the fourth tails and gaps. All are bounded, whatever the
data. In the reference each has mean 0, in every hour where hours are told apart, and variance 1 or, with hours, less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEGREES = 4
TAIL = 0.0005
"""Least rank, as a share: scores of normal data lie within 3.3 standard deviations."""
BORROWED = 10
"""Rows of the whole day that are counted with those of an hour."""


def means_by_phase(sums: NDArray[np.float64] | NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over the rows of an hour as means, drawn towards the mean of the day where the hour has few rows.

    Args:
        sums: Shape (P, ...).
        rows: Of each hour, shape (P,).
    """
    borrowed = BORROWED if len(rows) > 1 else 0
    whole = sums.sum(axis=0) / max(1, int(rows.sum()))
    each = rows.reshape(-1, *[1] * (sums.ndim - 1))
    mixed: NDArray[np.float64] = (sums + borrowed * whole) / np.maximum(each + borrowed, 1)
    return mixed


def normal_scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hermite scores of each bin of a column of numbers, 0 for missing cells.

    Args:
        counts: Of the reference, missing cells first, shape (P, BINS).

    Returns:
        Shape (4, P, BINS); a score that does not vary, as ties can have it, is 0.
    """
    present = counts[:, 1:]
    whole = present.sum(axis=0) / present.sum()
    z = ndtri(np.clip(np.cumsum(whole) - whole / 2, TAIL, 1 - TAIL))
    raw = np.stack([z, (z**2 - 1) / np.sqrt(2), (z**3 - 3 * z) / np.sqrt(6), (z**4 - 6 * z**2 + 3) / np.sqrt(24)])
    raw -= (raw @ whole)[:, None]
    spread = np.sqrt(np.square(raw) @ whole)[:, None]
    raw = np.divide(raw, spread, out=np.zeros_like(raw), where=spread > 1e-6)
    means = raw @ means_by_phase(present, present.sum(axis=1)).T
    scores = np.zeros((DEGREES, *counts.shape))
    scores[:, :, 1:] = raw[:, None, :] - means[:, :, None]
    return scores


def indicator(counts: NDArray[np.int64], at: int) -> NDArray[np.float64]:
    """1 in one bin and 0 elsewhere, less its share in the hour; shape (P, BINS)."""
    scores = np.zeros(counts.shape)
    scores[:, at] = 1.0
    return scores - means_by_phase(counts, counts.sum(axis=1))[:, at : at + 1]
