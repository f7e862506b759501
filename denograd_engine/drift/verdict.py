"""What a check says: whether the data have drifted, which columns, in what way, and how far."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NOTABLE = 0.01
"""Corrected p-value below which a finding is told."""

AVERAGE_RUN = 2880
"""Checks between false alarms: thirty days of one every 15 minutes."""

MILLION = 1e6
"""Checks beyond which nobody wants to know more exactly."""


class Kind(StrEnum):
    """In what way a column can change."""

    LOCATION = "location"
    SCALE = "scale"
    SHAPE = "shape"
    MISSING = "missing"
    CATEGORIES = "categories"
    JOINT = "joint"
    RELATION = "relation"


class Severity(StrEnum):
    """What a check amounts to."""

    NONE = "none"
    WARNING = "warning"
    DRIFT = "drift"


@dataclass(frozen=True)
class Finding:
    """One test of one column.

    Attributes:
        column: Its name; None for all columns jointly.
        kind: What would have changed.
        measure: What the effect is: "shift in std", "ratio of std", "KS distance", "change of the share",
            "Cramer's V", "sliced Wasserstein distance", or of a relation "shift of the residual in std" or "ratio of
            the residual's std".
        effect: How far it has changed.
        p: Probability that chance brings as much in any of the tests (Holm 1979).
        rows: That were looked at.
    """

    column: str | None
    kind: Kind
    measure: str
    effect: float
    p: float
    rows: int

    def __str__(self) -> str:
        name = "all columns together" if self.column is None else self.column
        return f"{name}: {self.kind} ({self.measure} {self.effect:.3g}, p {self.p:.1g}, {self.rows:,} rows)"


@dataclass(frozen=True)
class Verdict:
    """Of one check.

    Attributes:
        severity: A drift by chance comes once in `average_run` checks on average at most, a warning thirty times as
            often.
        evidence: Chance alone brings as much once in so many checks on average at most.
        columns: Where the evidence comes from, the strongest first, with the evidence of each; None stands for all
            columns jointly. Empty if nothing is amiss.
        findings: Every test of those columns since they began to differ.
        rows: Since the watch began.
        checks: Likewise.
    """

    severity: Severity
    evidence: float
    columns: dict[str | None, float]
    findings: tuple[Finding, ...]
    rows: int
    checks: int

    @property
    def holds(self) -> bool:
        """Whether the reference still describes the data."""
        return self.severity is not Severity.DRIFT

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """In what way the data changed, the strongest change first."""
        return tuple(dict.fromkeys(finding.kind for finding in self.notable))

    @property
    def notable(self) -> tuple[Finding, ...]:
        """What is told: for each column the findings below p = 0.01, or its strongest."""
        told: list[Finding] = []
        for name in self.columns:
            own = sorted((finding for finding in self.findings if finding.column == name), key=lambda one: one.p)
            told += [finding for finding in own if finding.p < NOTABLE] or own[:1]
        return tuple(told)

    def lines(self) -> list[str]:
        """For a person."""
        seen = f"{self.rows:,} rows in {self.checks:,} checks"
        if self.severity is Severity.NONE:
            return [f"no drift in {seen}"]
        rare = f"{self.evidence:,.0f}" if self.evidence < MILLION else "a million"
        odds = f"chance alone brings as much once in {rare} checks at most"
        return [f"{self.severity} after {seen}: {odds}", *(f"  {finding}" for finding in self.notable)]
