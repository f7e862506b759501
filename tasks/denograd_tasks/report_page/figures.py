"""The plots of the page."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from denograd_tasks.report_page.cells import Floats
from denograd_tasks.report_page.stretch import Stretch
from denograd_tasks.report_page.svg import INK, MUTED, OBSERVED, REFINED, RULE, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def number_axis(axis: Any, ticks: int) -> None:
    """At most so many round ticks; large numbers with a letter for their thousands."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    low, high = axis.get_view_interval()
    if max(abs(low), abs(high)) >= 1e4 and high - low > 0.05 * max(abs(low), abs(high)):
        axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))


def time_axis(axes: "Axes", x: NDArray[np.generic], narrow: bool) -> Floats:
    """Where on a horizontal axis of dates or numbers these are; the axis is labelled for them."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    dated = bool(np.issubdtype(x.dtype, np.datetime64))
    place = np.asarray(date2num(x) if dated else x, dtype=np.float64)  # type: ignore[no-untyped-call]
    if place[-1] > place[0]:
        axes.set_xlim(place[0], place[-1])
    if dated:
        locator = AutoDateLocator(minticks=2, maxticks=6 if narrow else 10)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=True))  # type: ignore[no-untyped-call]
    else:
        number_axis(axes.xaxis, 5 if narrow else 10)
    return place


def _outline(axes: "Axes", heights: Floats, edges: Floats, color: str) -> None:
    axes.stairs(heights, edges, color=color, linewidth=1.6)


def _note(axes: "Axes", text: str, place: float, before: bool = False) -> None:
    """Writes beside a vertical line, at its top."""
    axes.annotate(
        text,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if before else 6, -9),
        textcoords="offset points",
        ha="right" if before else "left",
    )


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


def _lattice(observed: Floats) -> float | None:
    """The step between values that were recorded on a grid (whole numbers, tenths); None where there is no grid."""
    distinct = np.unique(observed)
    if not 2 <= distinct.size <= 2000:
        return None
    gaps = np.diff(distinct)
    step = float(np.median(gaps))
    off_grid = np.abs(gaps / step - np.round(gaps / step)) > 0.05
    return step if off_grid.mean() < 0.05 else None


def _edges(observed: Floats, refined: Floats) -> Floats:
    """Edges of equal bins; on a grid each bin holds as many of its points, so that none stands out for it."""
    left, right = _limits(np.concatenate([observed, refined]))
    wanted = int(np.clip(3 * observed.size ** (1 / 3), 10, 56))
    step = _lattice(observed)
    if step is None or (right - left) / step > 20 * wanted:
        return np.linspace(left, right, wanted + 1)
    width = step * max(1, round((right - left) / step / wanted))
    first = observed.min() - step / 2
    start, stop = np.floor((left - first) / width), np.ceil((right - first) / width)
    return np.asarray(first + width * np.arange(start, stop + 1))


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
    edges = _edges(before, after)
    shares = [np.histogram(part, edges)[0] / part.size for part in (before, after)]

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.stairs(shares[0], edges, fill=True, color=OBSERVED, alpha=0.55, linewidth=0)
        _outline(axes, shares[1], edges, REFINED)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_yticks([])
        number_axis(axes.xaxis, 5)

    return render(name, label, (330, 150), draw)


def corrections(name: str, magnitudes: Floats) -> str:
    """The distribution of signed corrections of the moved cells, in std."""
    reach = max(float(np.quantile(np.abs(magnitudes), 0.995)) * 1.1, 1e-9)
    edges = np.linspace(-reach, reach, 62)
    shares = np.histogram(magnitudes, edges)[0] / magnitudes.size
    median = float(np.median(np.abs(magnitudes)))

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.stairs(shares, edges, fill=True, color=REFINED, alpha=0.8, linewidth=0)
        for side in (-median, median):
            axes.axvline(side, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        _note(axes, "median size", median)
        axes.set_xlim(-reach, reach)
        axes.set_yticks([])
        axes.set_xlabel("correction of a cell, in standard deviations")
        number_axis(axes.xaxis, 7)

    return render(name, "Distribution of the corrections in standard deviations", (440, 250), draw)


def residuals(name: str, before: Floats, after: Floats) -> str:
    """How far rows were from the model, before and after, on a logarithmic axis; empty without such rows."""
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
        axes.stairs(shares[0], edges, fill=True, color=OBSERVED, alpha=0.55, linewidth=0)
        _outline(axes, shares[1], edges, REFINED)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_yticks([])
        wide = edges[-1] / edges[0] > 300
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=9))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(LogLocator(subs=(), numticks=9))
        axes.set_xlabel("distance from the model's prediction, in standard deviations")

    return render(name, "Residuals before and after", (440, 250), draw)


def training_curve(
    name: str, epochs: Floats, train: Floats, holdout: Floats, *, best: int | None, narrow: bool, unit: str = "epoch"
) -> str:
    """Training and held-out loss by epoch.

    Args:
        name: Unique name of the figure in its page.
        epochs: Epoch numbers.
        train: Training loss; NaN where unknown.
        holdout: Loss on rows held out from training; NaN where unknown.
        best: Position of the best epoch, or None.
        narrow: Whether the figure is for a phone.
        unit: What training is counted in.
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
            number_axis(axes.yaxis, 5)
        mark = "o" if epochs.size == 1 else None
        axes.plot(epochs, train, color=OBSERVED, linewidth=2, marker=mark)
        axes.plot(epochs, holdout, color=REFINED, linewidth=2, marker=mark)
        if best is not None:
            axes.axvline(epochs[best], color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
            axes.plot(epochs[best], holdout[best], "o", color=REFINED, markersize=7)
            late = epochs[best] > (epochs[0] + epochs[-1]) / 2
            _note(axes, f"best epoch {epochs[best]:g}", epochs[best], before=late)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10, integer=True))
        axes.set_xlabel(unit)
        axes.set_ylabel("loss")

    return render(name, "Loss in the course of training", (400, 260) if narrow else (680, 270), draw)


def overlay(name: str, stretch: Stretch, narrow: bool) -> str:
    """Observed and refined values over one stretch of a series, and below them the correction in std."""

    def draw(figure: "Figure") -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        place = time_axis(bottom, stretch.time, narrow)
        top.plot(place, stretch.observed, color=OBSERVED, linewidth=1.2, marker="o", markersize=2.6)
        top.plot(place, stretch.refined, color=REFINED, linewidth=2)
        top.grid(axis="y")
        number_axis(top.yaxis, 5)
        top.tick_params(bottom=False)
        top.spines.bottom.set_visible(False)
        bottom.fill_between(place, stretch.correction, 0, color=REFINED, alpha=0.8, linewidth=0, step="mid")
        bottom.axhline(0, color=RULE, linewidth=1)
        bottom.set_ylabel("std")
        number_axis(bottom.yaxis, 3)
        figure.align_ylabels([top, bottom])

    return render(name, "Observed and refined values over time", (400, 320) if narrow else (1040, 340), draw)


def profile(name: str, stretch: Stretch, narrow: bool) -> str:
    """The mean size of corrections along the whole time axis, with the stretch of the overlay marked."""
    size, span = stretch.profile, stretch.span
    edges = np.linspace(0, 1, size.size + 1)

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.stairs(size, edges, fill=True, color=REFINED, alpha=0.45, linewidth=0)
        middle = (span[0] + span[1]) / 2
        half = max((span[1] - span[0]) / 2, 0.004)
        axes.axvspan(middle - half, middle + half, color=INK, alpha=0.16, linewidth=0)
        axes.set_xlim(0, 1)
        axes.set_ylim(0)
        axes.set_xticks([0, 1], ["start", "end"])
        first, last = axes.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
        axes.set_yticks([])

    return render(name, "Size of the corrections along time", (400, 80) if narrow else (1040, 84), draw)
