"""Small charts over time, as SVG in the page's own colours; what they show is also said in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

WIDTH, HEIGHT = 320, 128
TOP, BOTTOM, LEFT, RIGHT = 6, 22, 48, 6
MARKED = 60
"""Points that are drawn one by one; of more, only those that are out of bounds are."""

Words = Callable[[float | None], str]


@dataclass(frozen=True)
class Points:
    """Values over time.

    Attributes:
        times: Ascending.
        names: What each point is called.
        values: One for each; None where nothing was measured.
        low: Lower bounds, likewise.
        high: Upper bounds, likewise.
        out: Whether each is out of bounds.
    """

    times: Sequence[datetime]
    names: Sequence[str]
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    out: Sequence[bool] = ()


@dataclass(frozen=True)
class _Scale:
    """From time and value to a place in the chart."""

    first: float
    last: float
    lowest: float
    highest: float

    def x(self, time: datetime) -> float:
        span = self.last - self.first
        share = (time.timestamp() - self.first) / span if span else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.lowest) / (self.highest - self.lowest)
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)


def chart(
    title: str,
    points: Points,
    words: Words,
    before: Sequence[float | None] = (),
    spans: Sequence[tuple[datetime, datetime]] = (),
) -> str:
    """A chart as an `<svg>` element; empty where no point has a value.

    Args:
        title: What it shows.
        points: What is drawn, with bounds if there are any.
        words: A value as text.
        before: A second line, such as the residual before, drawn as what was observed is.
        spans: Stretches of time to be marked.
    """
    values = _finite([*points.values, *before])
    if not values:
        return ""
    values += _finite([*points.low, *points.high])
    scale = _scale(points.times, values)
    parts = [_span(scale, *one) for one in spans]
    for bounds, edge in ((points.high, TOP), (points.low, HEIGHT - BOTTOM)):
        parts += _bound(scale, points.times, bounds, edge)
    parts += _line(scale, points.times, before, "before")
    parts += [
        f'<circle class="was" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in _alone(scale, points.times, before)
    ]
    parts += _line(scale, points.times, points.values, "line")
    parts += _marks(scale, points, words)
    parts.append(_axis(scale, points.times, {one: words(one) for one in (max(values), min(values))}))
    label = escape(f"{title}: {_told(points, words)}")
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def sparkline(title: str, values: Sequence[float | None]) -> str:
    """A line as small as a word; empty with fewer than two values."""
    known = _finite(values)
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    step = 100 / (len(known) - 1)
    places = _places([(at * step, 20 - 18 * (one - low) / span) for at, one in enumerate(known)])
    return (
        f'<svg class="spark" viewBox="-2 0 104 22" role="img" aria-label="{escape(title)}">'
        f'<polyline class="line" points="{places}"/></svg>'
    )


def _finite(values: Sequence[float | None]) -> list[float]:
    return [one for one in values if one is not None and math.isfinite(one)]


def _scale(times: Sequence[datetime], values: Sequence[float]) -> _Scale:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or abs(high) * 0.05 or 0.5
    return _Scale(times[0].timestamp(), times[-1].timestamp(), low - margin, high + margin)


def _runs(scale: _Scale, times: Sequence[datetime], values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """Places of neighbouring values, apart where one is missing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for time, value in zip(times, values, strict=False):
        if value is None or not math.isfinite(value):
            runs.append([])
        else:
            runs[-1].append((scale.x(time), scale.y(value)))
    return [run for run in runs if run]


def _line(scale: _Scale, times: Sequence[datetime], values: Sequence[float | None], kind: str) -> list[str]:
    runs = (run for run in _runs(scale, times, values) if len(run) > 1)
    return [f'<polyline class="{kind}" points="{_places(run)}"/>' for run in runs]


def _alone(scale: _Scale, times: Sequence[datetime], values: Sequence[float | None]) -> Iterator[tuple[float, float]]:
    """Places that no line leads to."""
    return (run[0] for run in _runs(scale, times, values) if len(run) == 1)


def _bound(scale: _Scale, times: Sequence[datetime], bounds: Sequence[float | None], edge: float) -> list[str]:
    """A dashed line, and a wash over what is beyond it; of a single point, from side to side."""
    drawn = []
    for run in _runs(scale, times, bounds):
        places = run if len(run) > 1 else [(float(LEFT), run[0][1]), (float(WIDTH - RIGHT), run[0][1])]
        beyond = [*places, (places[-1][0], edge), (places[0][0], edge)]
        drawn.append(f'<polygon class="beyond" points="{_places(beyond)}"/>')
        drawn.append(f'<polyline class="bound" points="{_places(places)}"/>')
    return drawn


def _span(scale: _Scale, start: datetime, end: datetime) -> str:
    left, right = (min(max(scale.x(one), LEFT), WIDTH - RIGHT) for one in (start, end))
    width = max(right - left, 2.0)
    return f'<rect class="beyond" x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'


def _marks(scale: _Scale, points: Points, words: Words) -> list[str]:
    drawn, few = [], len(points.times) <= MARKED
    out = points.out or [False] * len(points.times)
    for time, name, value, wrong in zip(points.times, points.names, points.values, out, strict=True):
        if value is not None and math.isfinite(value) and (few or wrong):
            kind, radius = ("out", 3.5) if wrong else ("point", 2.5)
            drawn.append(
                f'<circle class="{kind}" cx="{scale.x(time):.1f}" cy="{scale.y(value):.1f}" r="{radius}">'
                f"<title>{escape(name)}: {words(value)}</title></circle>"
            )
    return drawn


def _axis(scale: _Scale, times: Sequence[datetime], ends: Mapping[float, str]) -> str:
    """The base line, the first and the last day, and what the highest and the lowest value are."""
    days = list(dict.fromkeys(f"{one:%Y-%m-%d}" for one in (times[0], times[-1])))
    dates = [f'<text x="{LEFT}" y="{HEIGHT - 6}">{days[0]}</text>']
    if len(days) > 1:
        dates.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{days[1]}</text>')
    values = [
        f'<text x="{LEFT - 6}" y="{scale.y(value) + 4:.1f}" text-anchor="end">{text}</text>'
        for value, text in ends.items()
    ]
    base = f'<path class="base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    return "".join([base, *dates, *values])


def _told(points: Points, words: Words) -> str:
    known = _finite(points.values)
    text = f"{len(known)} points, from {words(min(known))} to {words(max(known))}, the last {words(known[-1])}"
    beyond = sum(points.out)
    return text + (f"; {beyond} out of bounds" if beyond else "")


def _places(run: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
