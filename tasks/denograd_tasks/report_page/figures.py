"""Plots as inline SVG: the page's own fonts and colours, so that they follow its light and dark mode."""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from denograd_tasks.report_page.summary import Floats, Stretch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each stand-in is a colour that nothing else uses, and becomes a CSS variable in the finished SVG.
_OBSERVED, _REFINED, _INK, _MUTED, _RULE = "#010a01", "#010a02", "#010a03", "#010a04", "#010a05"
_VARIABLES = {
    _OBSERVED: "var(--observed)",
    _REFINED: "var(--refined)",
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _RULE,
    "axes.linewidth": 1,
    "axes.labelcolor": _MUTED,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "axes.formatter.limits": (-4, 6),
}
_GLOBAL_STYLE = Lock()


def _render(name: str, label: str, size: tuple[int, int], draw: Callable[["Figure"], None]) -> str:
    """Draws a figure of `size` pixels and returns it as an `<svg>` element that scales to its container."""
    import matplotlib
    from matplotlib.figure import Figure

    raw = io.StringIO()
    with _GLOBAL_STYLE, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)  # type: ignore[union-attr]
        draw(figure)
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(raw, format="svg", metadata=empty, transparent=True)
    return _inline(raw.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    view = re.search(r'viewBox="([^"]+)"', svg)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], count=1, flags=re.S)
    body = body[body.index(">") + 1 :]
    used = set(re.findall(r"#([\w.-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), body)
    body = re.sub(r"\s+", " ", body).replace("> <", "><")
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    box = view[1] if view else ""
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{body}'


def _number_axis(axis: Any, ticks: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))


def _outline(axes: "Axes", heights: Floats, edges: Floats, color: str) -> None:
    axes.stairs(heights, edges, color=color, linewidth=1.6)


def _limits(pooled: Floats) -> tuple[float, float]:
    """A range that shows the bulk: the extremes where they are near, else the outer permilles."""
    low, inner_low, inner_high, high = np.quantile(pooled, [0, 0.002, 0.998, 1])
    reach = 0.25 * (inner_high - inner_low)
    left = low if low >= inner_low - reach else inner_low
    right = high if high <= inner_high + reach else inner_high
    if left == right:
        margin = abs(left) * 0.05 or 0.5
        return float(left - margin), float(right + margin)
    return float(left), float(right)


def _edges(pooled: Floats) -> Floats:
    left, right = _limits(pooled)
    distinct = np.unique(pooled[: 50_000])
    if right - left <= 60 and distinct.size <= 120 and np.all(distinct == np.round(distinct)):
        return np.arange(np.floor(left) - 0.5, np.ceil(right) + 1.0)
    return np.linspace(left, right, int(np.clip(2.5 * pooled.size ** (1 / 3), 10, 56)) + 1)


def marginal(name: str, label: str, observed: Floats, refined: Floats) -> str:
    """The distribution of one column before (filled) and after (outlined).

    Args:
        name: Unique name of the figure in its page.
        label: What it shows, for readers who do not see it.
        observed: Values before; missing ones are left out.
        refined: Values after.

    Returns:
        An `<svg>` element, or an empty string where no value is present.
    """
    before, after = observed[np.isfinite(observed)], refined[np.isfinite(refined)]
    if not before.size or not after.size:
        return ""
    edges = _edges(np.concatenate([before, after]))
    shares = [np.histogram(part, edges)[0] / part.size for part in (before, after)]

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.stairs(shares[0], edges, fill=True, color=_OBSERVED, alpha=0.55, linewidth=0)
        _outline(axes, shares[1], edges, _REFINED)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_yticks([])
        _number_axis(axes.xaxis, 5)

    return _render(name, label, (330, 150), draw)


def corrections(name: str, magnitudes: Floats) -> str:
    """The distribution of signed corrections of the moved cells, in std."""
    reach = max(float(np.quantile(np.abs(magnitudes), 0.995)) * 1.1, 1e-9)
    edges = np.linspace(-reach, reach, 62)
    shares = np.histogram(magnitudes, edges)[0] / magnitudes.size
    median = float(np.median(np.abs(magnitudes)))

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.stairs(shares, edges, fill=True, color=_REFINED, alpha=0.8, linewidth=0)
        for side in (-median, median):
            axes.axvline(side, color=_INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            "median size", (median, 1), xycoords=("data", "axes fraction"), xytext=(5, -9), textcoords="offset points"
        )
        axes.set_xlim(-reach, reach)
        axes.set_yticks([])
        axes.set_xlabel("correction of a cell, in standard deviations")
        _number_axis(axes.xaxis, 7)

    return _render(name, "Distribution of the corrections in standard deviations", (440, 250), draw)


def residuals(name: str, before: Floats, after: Floats) -> str:
    """How far rows were from what the model expects, before and after, on a logarithmic axis; empty without rows."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    sizes = [np.abs(part[np.isfinite(part)]) for part in (before, after)]
    positive = np.concatenate(sizes)
    positive = positive[positive > 0]
    if not sizes[0].size or not sizes[1].size or positive.size < 2:
        return ""
    low, high = np.quantile(positive, [0.005, 0.998])
    low, high = max(low, high * 1e-4), high * 1.15
    edges = np.geomspace(low * 0.9, high, 45)
    shares = [np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0] / part.size for part in sizes]

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.stairs(shares[0], edges, fill=True, color=_OBSERVED, alpha=0.55, linewidth=0)
        _outline(axes, shares[1], edges, _REFINED)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_yticks([])
        wide = edges[-1] / edges[0] > 300
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=9))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(LogLocator(subs=(), numticks=9))
        axes.set_xlabel("distance from the model's prediction, in standard deviations")

    return _render(name, "Residuals before and after", (440, 250), draw)


def training_curve(name: str, epochs: Floats, train: Floats, holdout: Floats, best: int | None, narrow: bool) -> str:
    """Training and held-out loss by epoch.

    Args:
        name: Unique name of the figure in its page.
        epochs: Epoch numbers.
        train: Training loss; NaN where unknown.
        holdout: Loss on rows held out from training; NaN where unknown.
        best: Position of the best epoch, or None.
        narrow: Whether the figure is for a phone.
    """
    known = np.concatenate([train[np.isfinite(train)], holdout[np.isfinite(holdout)]])

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

        axes = figure.add_subplot()
        if known.min() > 0 and known.max() / known.min() > 20:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=7))
            axes.yaxis.set_minor_locator(LogLocator(subs=(), numticks=7))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        else:
            _number_axis(axes.yaxis, 5)
        mark = "o" if epochs.size == 1 else None
        axes.plot(epochs, train, color=_OBSERVED, linewidth=2, marker=mark)
        axes.plot(epochs, holdout, color=_REFINED, linewidth=2, marker=mark)
        if best is not None:
            axes.axvline(epochs[best], color=_MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
            axes.plot(epochs[best], holdout[best], "o", color=_REFINED, markersize=7)
            late = epochs[best] > (epochs[0] + epochs[-1]) / 2
            axes.annotate(
                f"best epoch {epochs[best]:g}",
                (epochs[best], 1),
                xycoords=("data", "axes fraction"),
                xytext=(-6 if late else 6, -8),
                textcoords="offset points",
                ha="right" if late else "left",
            )
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10, integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")

    return _render(name, "Loss by epoch in training and held out", (400, 260) if narrow else (680, 270), draw)


def overlay(name: str, stretch: Stretch, narrow: bool) -> str:
    """Observed and refined values over one stretch of a series, and below them the correction in std."""
    x: NDArray[np.generic] = stretch.time
    dated = bool(np.issubdtype(x.dtype, np.datetime64))

    def draw(figure: "Figure") -> None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

        place = np.asarray(date2num(x) if dated else x, dtype=np.float64)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot(place, stretch.observed, color=_OBSERVED, linewidth=1.2, marker="o", markersize=2.6)
        top.plot(place, stretch.refined, color=_REFINED, linewidth=2)
        top.grid(axis="y")
        _number_axis(top.yaxis, 5)
        top.tick_params(bottom=False)
        top.spines.bottom.set_visible(False)
        bottom.fill_between(place, stretch.correction, 0, color=_REFINED, alpha=0.8, linewidth=0, step="mid")
        bottom.axhline(0, color=_RULE, linewidth=1)
        bottom.set_ylabel("std")
        _number_axis(bottom.yaxis, 3)
        if place[-1] > place[0]:
            bottom.set_xlim(place[0], place[-1])
        if dated:
            locator = AutoDateLocator(minticks=3, maxticks=5 if narrow else 10)
            bottom.xaxis.set_major_locator(locator)
            bottom.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=True))
        else:
            _number_axis(bottom.xaxis, 5 if narrow else 10)
        figure.align_ylabels([top, bottom])

    return _render(name, "Observed and refined values over time", (400, 320) if narrow else (1040, 340), draw)


def profile(name: str, heights: Sequence[float] | Floats, span: tuple[float, float], narrow: bool) -> str:
    """The mean size of corrections along the whole time axis, with the stretch of the overlay marked."""
    size = np.asarray(heights, dtype=np.float64)
    edges = np.linspace(0, 1, size.size + 1)

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.stairs(size, edges, fill=True, color=_REFINED, alpha=0.45, linewidth=0)
        middle = (span[0] + span[1]) / 2
        half = max((span[1] - span[0]) / 2, 0.004)
        axes.axvspan(middle - half, middle + half, color=_INK, alpha=0.16, linewidth=0)
        axes.set_xlim(0, 1)
        axes.set_ylim(0)
        axes.set_xticks([0, 1], ["start", "end"])
        for text, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            text.set_horizontalalignment(side)
        axes.set_yticks([])

    return _render(name, "Size of the corrections along time", (400, 80) if narrow else (1040, 84), draw)
