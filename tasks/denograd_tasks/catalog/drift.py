"""What was watched of a data set, and when a drift held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from denograd_engine.drift.verdict import AVERAGE_RUN, MILLION
from denograd_tasks.catalog.charts import Points, chart
from denograd_tasks.catalog.entries import Entry
from denograd_tasks.catalog.reading import Holding
from denograd_tasks.report_page.formats import count
from denograd_tasks.watch.history import Past


@dataclass(frozen=True)
class Held:
    """A drift.

    Attributes:
        at: When it was found.
        version: The version that was compared with; None if that is not known any more.
        columns: What had changed, the strongest first.
        kinds: In which ways, likewise.
        until: The version that ended it; None while it holds.
    """

    at: datetime
    version: int | None
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    until: Entry | None


@dataclass(frozen=True)
class Drift:
    """What was watched.

    Attributes:
        state: In a few words.
        holds: Whether a drift holds.
        held: Every drift that is remembered, newest first.
        looks: How many looks are remembered.
        since: The first of them; None without any.
        last: The last of them, likewise.
        chart: The evidence over time; empty without any look.
    """

    state: str
    holds: bool
    held: tuple[Held, ...]
    looks: int
    since: datetime | None
    last: datetime | None
    chart: str


def drift_of(holding: Holding) -> Drift:
    """What was watched of a data set, from what its watches remember."""
    looks = holding.looks
    held = [_held(one, holding) for one in looks if one.began]
    alarm = holding.alarm
    if alarm is not None and alarm.at not in {one.at for one in held}:
        held.append(Held(alarm.at, None, tuple(alarm.columns), tuple(alarm.kinds), None))
    return Drift(
        state=_state(holding),
        holds=alarm is not None,
        held=tuple(reversed(held)),
        looks=len(looks),
        since=looks[0].at if looks else None,
        last=looks[-1].at if looks else None,
        chart=_chart(looks, held) if looks else "",
    )


def _held(look: Past, holding: Holding) -> Held:
    until = next((one.entry for one in holding.versions if one.entry.number > look.version), None)
    return Held(look.at, look.version, look.columns, look.kinds, until)


def _state(holding: Holding) -> str:
    if holding.alarm is not None:
        return f"drift since {holding.alarm.at:%Y-%m-%d %H:%M}"
    if not holding.looks:
        return "not watched"
    last = holding.looks[-1]
    if holding.newest is None or last.version != holding.newest.number:
        return "no look since this version"
    return "no drift" if last.severity == "none" else last.severity


def _chart(looks: Sequence[Past], held: Sequence[Held]) -> str:
    def orders(evidence: float) -> float:
        """On a scale of powers of ten; chance is 0."""
        return math.log10(min(max(evidence, 1.0), MILLION))

    def words(order: float | None) -> str:
        return count(round(10 ** (order or 0)))

    points = Points(
        times=[one.at for one in looks],
        names=[f"{one.at:%Y-%m-%d %H:%M}" for one in looks],
        values=[orders(one.evidence) for one in looks],
        high=[orders(AVERAGE_RUN)] * len(looks),
        out=[one.began for one in looks],
    )
    spans = [(one.at, one.until.created if one.until else looks[-1].at) for one in held]
    return chart("Evidence of drift", points, words, spans=spans)
