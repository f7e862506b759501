"""Whether the data have drifted, decided check by check, with a stated rate of false alarms.

Each alternative of each column bets: its likelihood ratios are multiplied up over the rows, from 1, and the product
starts again from 1 whenever a check ends below that, so that evidence of long ago does not count against a change of
now. While the reference holds, a product gains nothing on average. The joint test, one p-value p for every 512 rows,
bets likewise, by the factor p^-0.75 / 4 (Vovk and Wang 2021, calibrator with kappa = 1/4). The evidence is the mean of
all, each kind of change and each column with its weight.

Such a product never exceeds the sum of products that start at every check, and that sum grows by at most 1 a check on
average; nor does the mean exceed the mean of those sums, whatever the columns have to do with each other. So the mean
number of checks until the evidence first reaches A, with no change, is at least A: an e-detector (Shin, Ramdas and
Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", 2024). A = 2,880 is thirty days of
a check every 15 minutes. Averaging corrects for the number of columns as Bonferroni's method does for p-values. Rows
count one by one, so that it matters little how many come at once.

What the proof takes for granted: rows are independent of each other, given the hour where hours are told apart, and
their distribution is that of the reference up to what `alternatives` allows for. For dependent rows it is an
approximation, described there, and joint tests share the rows of the reference that they compare with.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from denograd_engine.drift.alternatives import alternatives, least_shift
from denograd_engine.drift.comparison import Seen, corrected, findings, joint_finding
from denograd_engine.drift.counting import count
from denograd_engine.drift.joint import Joint, Whole, compare_jointly, rows_compared
from denograd_engine.drift.verdict import AVERAGE_RUN, Severity, Verdict
from denograd_engine.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.drift.counting import Counted, Residuals
    from denograd_engine.drift.profile import Profile

WARNINGS = 30
"""Warnings for each drift, by chance."""
KAPPA = 0.25
"""Of the calibrator that makes a factor of a p-value."""
UNREMARKABLE = np.log(2.0)
"""Logarithm of a column's evidence below which the rows seen so far are as any other."""
LARGEST = 700.0
"""Logarithm beyond which evidence is told as this."""
SEEN = ("counts", "expected", "moments", "expected_moments")
"""What a state keeps of `Seen`."""


@dataclass(frozen=True)
class State:
    """What a watch remembers between checks.

    Attributes:
        evidence: Logarithm of the product of each alternative.
        seen: The rows of each column since it last was as any other.
        joint: Logarithm of the product of the joint test.
        last: Its last result.
        waiting: Rows that wait for the next joint test, as scores.
        tests: Joint tests made.
        rows: Seen since the watch began.
        checks: Made since then.
    """

    evidence: NDArray[np.float64]
    seen: Seen
    joint: float
    last: Joint
    waiting: NDArray[np.int8]
    tests: int = 0
    rows: int = 0
    checks: int = 0

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON; `Watch.state` reads them back."""
        seen = {name: getattr(self.seen, name).tolist() for name in SEEN}
        return {
            "evidence": self.evidence.tolist(),
            "seen": seen,
            "joint": self.joint,
            "last": [self.last.distance, self.last.p],
            "waiting": base64.b64encode(self.waiting.tobytes()).decode(),
            "tests": self.tests,
            "rows": self.rows,
            "checks": self.checks,
        }


@dataclass(frozen=True)
class Checked:
    """What a check found, and the state that the next one goes on from."""

    verdict: Verdict
    state: State


class Watch:
    """Compares later rows with a reference, check by check.

    Args:
        profile: The reference.
        average_run: Checks between false alarms without any change, on average at least.

    Raises:
        ConfigError: If the average run is below 30.
    """

    def __init__(self, profile: Profile, average_run: float = AVERAGE_RUN) -> None:
        if not average_run >= WARNINGS:
            raise ConfigError(
                "false alarms cannot come so often",
                expected=f"at least {WARNINGS} checks between them, on average",
                found=f"{average_run:g}",
            )
        self.profile, self.average_run = profile, average_run
        each = [alternatives(profile, at) for at in range(len(profile.columns))]
        self._ratios = [one.ratios for one in each]
        self._weights = np.concatenate([one.weights for one in each])
        self._sizes = np.array([len(one.weights) for one in each])
        self._first = np.cumsum(self._sizes) - self._sizes
        self._shares, self._means = profile.shares, profile.means
        self._whole = Whole.of(profile.columns, profile.counts)
        self._compared = rows_compared(profile.sample, profile.block)
        self._parts = len(each) + (self._compared > 0)

    @property
    def least_shift(self) -> dict[str, float]:
        """Of each column of numbers, the shift in std that is just too small ever to be found.

        Where it is large, the reference has few rows, or rows that depend so much on each other that few count.
        """
        columns = enumerate(self.profile.columns)
        return {column.label: least_shift(self.profile, at) for at, column in columns if column.ordered}

    def fresh(self) -> State:
        """The state before the first check, and after a drift that was dealt with."""
        return State(
            np.zeros(len(self._weights)),
            Seen.nothing(len(self.profile.columns)),
            0.0,
            Joint(0.0, 1.0),
            np.empty((0, len(self._whole.columns)), dtype=np.int8),
        )

    def state(self, plain: Mapping[str, Any]) -> State:
        """Read what `State.to_plain` wrote. Executes nothing that the data name.

        Raises:
            ConfigError: If it is damaged, or the state of a watch on another reference.
        """
        fresh = self.fresh()
        try:
            waiting = np.frombuffer(base64.b64decode(plain["waiting"]), dtype=np.int8)
            read = State(
                np.array(plain["evidence"], dtype=np.float64),
                Seen(**{name: np.array(plain["seen"][name], dtype=np.float64) for name in SEEN}),
                float(plain["joint"]),
                Joint(*plain["last"]),
                waiting.reshape(-1, fresh.waiting.shape[1]) if len(waiting) else fresh.waiting,
                int(plain["tests"]),
                int(plain["rows"]),
                int(plain["checks"]),
            )
            fits = read.evidence.shape == fresh.evidence.shape and all(
                getattr(read.seen, name).shape == getattr(fresh.seen, name).shape for name in SEEN
            )
            found = None if fits else "the state of another reference"
        except (KeyError, TypeError, ValueError) as error:
            found = type(error).__name__
        if found is not None:
            raise ConfigError(
                "the stored state does not fit the reference", found=found, remedy="begin with a fresh state"
            )
        return read

    def check(self, state: State, frame: pd.DataFrame, residuals: Residuals | None = None) -> Checked:
        """Take in the rows that came since the last check, none included.

        Args:
            state: After the last check.
            frame: With the reference's columns; others are not looked at.
            residuals: As given for the reference, by the model that its residuals are of.

        Raises:
            SchemaError: If a column is gone or of another kind, or if residuals do not fit the rows.
        """
        counted = count(frame, residuals or {}, self.profile.columns, self.profile.clock)
        present = np.flatnonzero(counted.counts[:, 0].any(axis=1))
        steps = [
            ratios[:, present].reshape(len(ratios), -1) @ counted.counts[present, at].ravel()
            for at, ratios in enumerate(self._ratios)
        ]
        evidence = np.maximum(state.evidence, 0.0) + np.concatenate(steps)
        of_column = self._of_columns(evidence)
        seen = state.seen.and_then(Seen.of(counted, self._shares, self._means))
        seen = seen.forgetting(of_column < UNREMARKABLE)
        joint, last, waiting, tests = self._jointly(state, counted)
        after = State(evidence, seen, joint, last, waiting, tests, state.rows + len(frame), state.checks + 1)
        return Checked(self._verdict(after, of_column), after)

    def _of_columns(self, evidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithm of the weighted mean of each column's products, shape (C,)."""
        weighted = evidence + self._weights
        highest = np.maximum.reduceat(weighted, self._first)
        sums = np.add.reduceat(np.exp(weighted - np.repeat(highest, self._sizes)), self._first)
        means: NDArray[np.float64] = highest + np.log(sums)
        return means

    def _jointly(self, state: State, counted: Counted) -> tuple[float, Joint, NDArray[np.int8], int]:
        if not self._compared:
            return 0.0, state.last, state.waiting, 0
        waiting = np.concatenate([state.waiting, self._whole.scores(counted)])
        if len(waiting) < self._compared:
            return state.joint, state.last, waiting, state.tests
        sample, block = self.profile.sample, self.profile.block
        last = compare_jointly(sample, waiting[-self._compared :], block, state.tests)
        grown = max(state.joint, 0.0) + np.log(KAPPA) + (KAPPA - 1) * np.log(last.p)
        return float(grown), last, waiting[:0], state.tests + 1

    def _verdict(self, state: State, of_column: NDArray[np.float64]) -> Verdict:
        parts: dict[str | None, float] = {
            column.label: float(value) - float(np.log(self._parts))
            for column, value in zip(self.profile.columns, of_column, strict=True)
        }
        if self._compared:
            parts[None] = state.joint - float(np.log(self._parts))
        total = float(np.logaddexp.reduce(list(parts.values())))
        drift, warning = np.log(self.average_run), np.log(self.average_run / WARNINGS)
        if total < warning:
            return Verdict(Severity.NONE, _told(total), {}, (), state.rows, state.checks)
        strongest = sorted(parts, key=lambda name: -parts[name])
        named = strongest[:1] + [name for name in strongest[1:] if parts[name] >= warning]
        found = findings(self.profile, state.seen)
        if self._compared:
            found.append(joint_finding(state.last, self._compared))
        return Verdict(
            Severity.DRIFT if total >= drift else Severity.WARNING,
            _told(total),
            {name: _told(parts[name]) for name in named},
            tuple(finding for finding in corrected(found) if finding.column in named),
            state.rows,
            state.checks,
        )


def _told(evidence: float) -> float:
    return float(np.exp(min(evidence, LARGEST)))
