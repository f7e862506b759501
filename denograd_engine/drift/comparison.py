"""Tests of rows against the reference, with an effect beside each p-value.

Numbers: location (van der Waerden), scale (Klotz), shape (Kolmogorov and Smirnov), share of missing cells. Categories:
chi-squared, unseen ones included, and the share of missing cells. Residuals: location and scale. Each takes the finite
reference and the dependence between rows into account. The p-values of all tests are corrected by Holm's method
(1979): it bounds the chance that any column is named wrongly whatever the columns have to do with each other, which
Benjamini and Hochberg's does not, and a person who looks into a column that is named should not do so in vain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import chi2, kstwobign, norm

from denograd_engine.drift.bins import BINS
from denograd_engine.drift.counting import count
from denograd_engine.drift.joint import Whole, compare_jointly, rows_compared
from denograd_engine.drift.scores import DEGREES, normal_scores
from denograd_engine.drift.verdict import Finding, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.drift.bins import Bins
    from denograd_engine.drift.counting import Counted, Residuals
    from denograd_engine.drift.joint import Joint
    from denograd_engine.drift.profile import Profile


@dataclass(frozen=True)
class Seen:
    """Rows that came, and what the reference lets expect at the same hours; C columns.

    Attributes:
        counts: Cells in each bin, shape (C, BINS).
        expected: Likewise.
        moments: Sums of the standardised cells and their squares, shape (C, 2).
        expected_moments: Likewise.
    """

    counts: NDArray[np.float64]
    expected: NDArray[np.float64]
    moments: NDArray[np.float64]
    expected_moments: NDArray[np.float64]

    @classmethod
    def nothing(cls, columns: int) -> Seen:
        """No row."""
        cells, sums = np.zeros((columns, BINS)), np.zeros((columns, 2))
        return cls(cells, cells, sums, sums)

    @classmethod
    def of(cls, counted: Counted, shares: NDArray[np.float64], means: NDArray[np.float64]) -> Seen:
        """These rows, beside the shares and means of a profile."""
        rows = counted.counts[:, 0].sum(axis=1)
        return cls(
            counted.counts.sum(axis=0).astype(np.float64),
            (rows @ shares.reshape(len(rows), -1)).reshape(shares.shape[1:]),
            counted.moments.sum(axis=0),
            (rows @ means.reshape(len(rows), -1)).reshape(means.shape[1:]),
        )

    def and_then(self, later: Seen) -> Seen:
        """Both together."""
        return Seen(
            self.counts + later.counts,
            self.expected + later.expected,
            self.moments + later.moments,
            self.expected_moments + later.expected_moments,
        )

    def forgetting(self, columns: NDArray[np.bool_]) -> Seen:
        """Without what was seen of these columns."""
        kept = ~columns[:, None]
        return Seen(self.counts * kept, self.expected * kept, self.moments * kept, self.expected_moments * kept)


def compare(
    profile: Profile, frame: pd.DataFrame, residuals: Residuals | None = None, seed: int = 0
) -> tuple[Finding, ...]:
    """Test one batch of rows, on its own.

    Args:
        profile: The reference.
        frame: Shape (rows, columns), with the reference's columns.
        residuals: As given for the reference.
        seed: Of the joint test, which is made on the last 512 rows, and left out if they are fewer.

    Returns:
        Every test of every column, p-values corrected for all of them.

    Raises:
        SchemaError: If a column is gone or of another kind, or if residuals do not fit the rows.
    """
    counted = count(frame, residuals or {}, profile.columns, profile.clock)
    found = findings(profile, Seen.of(counted, profile.shares, profile.means))
    size = rows_compared(profile.sample, profile.block)
    if 0 < size <= len(frame):
        rows = Whole.of(profile.columns, profile.counts).scores(counted)[-size:]
        found.append(joint_finding(compare_jointly(profile.sample, rows, profile.block, seed), size))
    return corrected(found)


def findings(profile: Profile, seen: Seen) -> list[Finding]:
    """Every test of every column of which a cell was seen, not yet corrected."""
    return [found for at in range(len(profile.columns)) for found in _of_column(profile, seen, at)]


def joint_finding(joint: Joint, rows: int) -> Finding:
    """The joint test of so many rows among the others."""
    return Finding(None, Kind.JOINT, "sliced Wasserstein distance", joint.distance, joint.p, rows)


def corrected(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same with p-values corrected by Holm's method, in the same order."""
    found = list(found)
    order = np.argsort([finding.p for finding in found], kind="stable")
    highest, result = 0.0, list(found)
    for rank, at in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(found) - rank) * found[at].p))
        result[at] = replace(found[at], p=highest)
    return tuple(result)


def _of_column(profile: Profile, seen: Seen, at: int) -> list[Finding]:
    column, counts, inflation = profile.columns[at], profile.counts[:, at], profile.inflation[at]
    rows = float(seen.counts[at].sum())
    present = float(seen.counts[at, 1:].sum())
    found = []
    if present and column.ordered:
        found = _of_numbers(column, counts, inflation, seen, at, present)
    elif present:
        expected = seen.expected[at] * rows / seen.expected[at].sum()
        found = [_of_categories(column, counts, inflation[0], seen.counts[at], expected)]
    if rows and not column.residual:
        usual, share = float(seen.expected[at, 0] / seen.expected[at].sum()), float(seen.counts[at, 0] / rows)
        pooled = (seen.counts[at, 0] + counts[:, 0].sum()) / (rows + counts.sum())
        variance = float(pooled * (1 - pooled)) * inflation[DEGREES] * (1 / rows + 1 / counts.sum())
        p = float(2 * norm.sf(abs(share - usual) / np.sqrt(variance))) if variance > 0 else 1.0
        found.append(Finding(column.label, Kind.MISSING, "change of the share", share - usual, p, int(rows)))
    return found


def _of_numbers(
    column: Bins, counts: NDArray[np.int64], inflation: NDArray[np.float64], seen: Seen, at: int, rows: float
) -> list[Finding]:
    reference = float(counts[:, 1:].sum())
    expected = seen.expected[at, 1:] * rows / seen.expected[at, 1:].sum()
    away = seen.counts[at, 1:] - expected
    chance = inflation[:DEGREES] * (1 / rows + 1 / reference)
    scores = normal_scores(counts)
    spread = np.square(scores) * counts
    variance = spread.sum(axis=(1, 2)) / reference * chance
    z = np.divide(scores[:, 0, 1:] @ away / rows, np.sqrt(variance), out=np.zeros(DEGREES), where=variance > 0)
    p = 2 * norm.sf(np.abs(z))
    mean, square = seen.moments[at] / rows
    usual_mean, usual_square = seen.expected_moments[at] / seen.expected[at, 1:].sum()
    shift = mean - usual_mean
    ratio = np.sqrt(max(square - mean**2, 0.0) / max(usual_square - usual_mean**2, 1e-12))
    distance = float(np.abs(np.cumsum(away)).max() / rows)
    if column.residual:
        tests = [
            (Kind.RELATION, "shift of the residual in std", shift, p[0]),
            (Kind.RELATION, "ratio of the residual's std", ratio, p[1]),
        ]
    else:
        tests = [
            (Kind.LOCATION, "shift in std", shift, p[0]),
            (Kind.SCALE, "ratio of std", ratio, p[1]),
            (Kind.SHAPE, "KS distance", distance, kstwobign.sf(distance / np.sqrt(chance[0]))),
        ]
    return [
        Finding(column.label, kind, measure, float(effect), float(chances), int(rows))
        for kind, measure, effect, chances in tests
    ]


def _of_categories(
    column: Bins,
    counts: NDArray[np.int64],
    inflation: float,
    came: NDArray[np.float64],
    expected: NDArray[np.float64],
) -> Finding:
    rows, reference = float(came.sum()), float(counts.sum())
    pooled = (came + counts.sum(axis=0)) / (rows + reference)
    used = pooled > 0
    away = np.square(came - expected)[used] / rows**2
    statistic = float((away / pooled[used]).sum() / (inflation * (1 / rows + 1 / reference)))
    p = float(chi2.sf(statistic, used.sum() - 1)) if used.sum() > 1 else 1.0
    alike = (came + expected)[used] / rows
    effect = float(np.sqrt((away / alike).sum() / 2))
    return Finding(column.label, Kind.CATEGORIES, "Cramer's V", effect, p, int(rows))
