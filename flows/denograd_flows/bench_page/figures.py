"""The plots of the page: which differences are real, and recovery against fidelity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.bench.optional import library
from denograd_tasks.report_page import formats
from denograd_tasks.report_page.svg import INK, MUTED, OBSERVED, REFINED, RULE, render

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from denograd_engine.bench.ranks import Ranking


def critical_difference(name: str, ranking: Ranking, narrow: bool) -> str:
    """Average ranks on a line; a bar joins methods that Nemenyi's test does not tell apart at 5%.

    Returns:
        An `<svg>` element, or an empty string where there were too few methods or blocks to test.
    """
    if ranking.nemenyi is None:
        return ""
    average = ranking.average.rename(formats.shorten)
    nemenyi = ranking.nemenyi.rename(index=formats.shorten, columns=formats.shorten)
    height = 90 + 15 * (len(ranking.average) // (1 if narrow else 2) + 1)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        library("scikit_posthocs").critical_difference_diagram(
            average,
            nemenyi,
            ax=axes,
            left_only=narrow,
            elbow_props={"color": INK, "linewidth": 1},
            marker_props={"color": REFINED},
            crossbar_props={"color": MUTED, "linewidth": 4},
        )
        axes.spines["top"].set_visible(True)

    return render(name, "Average ranks of the methods and which of them differ", (400 if narrow else 760, height), draw)


def pareto(name: str, points: pd.DataFrame, narrow: bool) -> str:
    """Recovery against fidelity, a point for each method; the line joins those that none beats in both.

    Args:
        name: Unique name of the figure in its page.
        points: Methods by name, columns `recovery_cells` and `swd_ratio`.
        narrow: Whether the figure is for a phone.
    """
    known = points[["recovery_cells", "swd_ratio"]].dropna().sort_values("swd_ratio", kind="stable")
    if known.empty:
        return ""
    front = _front(known)
    (left, right), (bottom, top) = (_span(known[column].to_numpy(dtype=float)) for column in known.columns)
    labels = _apart(known["swd_ratio"].clip(bottom, top).to_numpy(dtype=float), (top - bottom) / (16 if narrow else 20))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(1.0, color=RULE, linewidth=1.5)
        axes.axhline(1.0, color=RULE, linewidth=1.5)
        axes.plot(front["recovery_cells"], front["swd_ratio"], color=REFINED, linewidth=1)
        for (method, x, y), height in zip(known.itertuples(), labels, strict=True):
            beyond = not (left <= x <= right and bottom <= y <= top)
            place = (min(max(x, left), right), min(max(y, bottom), top))
            color = REFINED if method in front.index else OBSERVED
            axes.plot(*place, ">" if beyond else "o", color=color, markersize=6)
            axes.plot([place[0], right], [place[1], height], color=RULE, linewidth=0.8, zorder=0)
            called = formats.shorten(str(method))
            label = f"{called} ({x:.2f}, {y:.2f})" if beyond else called
            ink = INK if method in front.index else MUTED
            axes.annotate(label, (right, height), (6, 0), textcoords="offset points", va="center", color=ink)
        margin = 0.03 * (right - left)
        axes.set_xlim(left - margin, right + margin / 4)
        axes.set_ylim(bottom, max(top, float(max(labels))) + 0.05 * (top - bottom))
        axes.grid()
        axes.set_xlabel("error left of the noise, all cells")
        axes.set_ylabel("SWD to the clean data, over noisy")

    return render(name, "Recovery against fidelity of each method", (400, 340) if narrow else (760, 420), draw)


def _front(points: pd.DataFrame) -> pd.DataFrame:
    """The methods that no other beats in both, from the best recovery on."""
    ordered = points.sort_values(["recovery_cells", "swd_ratio"], kind="stable")
    best = np.minimum.accumulate(ordered["swd_ratio"].to_numpy(dtype=float))
    first = np.concatenate([[True], best[1:] < best[:-1]])
    return ordered[first]


def _span(values: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of an axis: where most points are, 1 included; what is far off is drawn at the edge."""
    low, high = min(0.95, float(values.min())), max(1.05, float(np.quantile(values, 0.75)) * 1.2)
    return max(0.0, low - 0.1 * (high - low)), min(high, max(1.05, float(values.max()) * 1.02))


def _apart(heights: NDArray[np.float64], gap: float) -> list[float]:
    """Heights for labels, ascending like those given, that do not overlap."""
    found: list[float] = []
    for height in heights.tolist():
        found.append(max(height, found[-1] + gap) if found else height)
    return found
