"""What is left of each column's noise, and how sure the model is of single cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from denograd_tasks.report_page.cells import Floats, values
from denograd_tasks.report_page.figures import number_axis, time_axis
from denograd_tasks.report_page.stretch import most_corrected_stretch
from denograd_tasks.report_page.svg import OBSERVED, REFINED, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NINETY = 1.645
"""Standard deviations on either side of a mean that hold 90% of a Gaussian."""
STEPS = 72
ROWS = 48


@dataclass(frozen=True)
class ColumnUncertainty:
    """One refined column, in its own unit.

    Attributes:
        name: The column.
        noise: Standard deviation of the errors that were taken out.
        declared: The one that was declared; None if it was estimated.
        std: Root mean square of the posterior standard deviations of its cells.
        left: Share of the noise that is left, estimated without clean data.
        correction: Root mean square of its corrections.
        expected: The one that noise and posterior imply.
        faults: Number of its cells that are probably faulty.
        departure: How its noise evidently departs from Gaussian noise that is alike for all cells; None where it does
            not.
    """

    name: str
    noise: float
    declared: float | None
    std: float
    left: float
    correction: float
    expected: float
    faults: float = 0
    departure: str | None = None

    @property
    def cut_off(self) -> bool:
        """Whether less noise was taken out than was declared."""
        return self.declared is not None and self.noise < self.declared

    @property
    def as_expected(self) -> float | None:
        """Correction over the expected one; None where none was expected."""
        return self.correction / self.expected if self.expected > 0 else None


@dataclass(frozen=True)
class Uncertainty:
    """What a posterior model says of its own corrections.

    Attributes:
        columns: The refined columns, in the data's order.
        std: Posterior standard deviation of each of their cells, in the column's unit, rows as in the data.
        left: Share of the noise that is left, of each column with noise: also of those that gained nothing.
        drawn: Whether cells are draws from their posteriors instead of means.
        bounds: The most that the noise of columns can be whose noise is not known, in their own units.
    """

    columns: list[ColumnUncertainty]
    std: pd.DataFrame
    left: dict[str, float]
    drawn: bool = False
    bounds: Mapping[str, float] = field(default_factory=dict)

    @property
    def as_they_were(self) -> list[str]:
        """Columns with noise that would have gained nothing by being refined."""
        return [name for name in self.left if name not in {column.name for column in self.columns}]


@dataclass(frozen=True)
class Band:
    """Cells of one column, each with what the model is 90% sure of.

    Attributes:
        column: The column.
        place: Where each cell is drawn: its time stamp, or its rank.
        observed: Values before, in the column's unit.
        refined: Values after.
        reach: Half the width of the interval.
        joined: Whether neighbouring cells are neighbours in time.
    """

    column: str
    place: NDArray[np.generic]
    observed: Floats
    refined: Floats
    reach: Floats
    joined: bool

    def draw(self, name: str, narrow: bool) -> str:
        """The cells as an `<svg>` element."""

        def draw(figure: Figure) -> None:
            axes = figure.add_subplot()
            place = time_axis(axes, self.place, narrow) if self.joined else np.arange(len(self.place), dtype=float)
            low, high = self.refined - self.reach, self.refined + self.reach
            if self.joined:
                axes.fill_between(place, low, high, color=REFINED, alpha=0.22, linewidth=0)
                axes.plot(place, self.refined, color=REFINED, linewidth=2)
            else:
                axes.vlines(place, low, high, color=REFINED, alpha=0.3, linewidth=5)
                axes.plot(place, self.refined, "_", color=REFINED, markersize=7, markeredgewidth=2)
                axes.set_xticks([])
            axes.plot(place, self.observed, "o", color=OBSERVED, markersize=3.4, clip_on=False)
            axes.grid(axis="y")
            number_axis(axes.yaxis, 5)
            axes.margins(x=0.01)

        label = f"Observed and refined values of {self.column}, with intervals of 90%"
        return render(name, label, (400, 280) if narrow else (1040, 300), draw)


def band_of(
    observed: pd.DataFrame,
    refined: pd.DataFrame,
    std: pd.DataFrame,
    column: str,
    scales: Mapping[str, float],
    *,
    series: bool,
    time: str | None,
    entity: Iterable[str],
) -> Band | None:
    """Some cells of a column: of a series the stretch with the largest corrections, of a table those about the median.

    Args:
        observed: Data before.
        refined: Data after.
        std: Posterior standard deviations, in the column's unit.
        column: The column to look at.
        scales: Standard deviation of each refined column, in its unit.
        series: Whether the rows form series.
        time: Column to order a series by.
        entity: Columns that tell one series from another.

    Returns:
        The cells, or None where fewer than two are there.
    """
    before, after, spread = values(observed, column), values(refined, column), values(std, column)
    if series:
        stretch = most_corrected_stretch(
            observed, refined, column, scales.get(column, 1.0), time=time, entity=entity, steps=STEPS
        )
        if stretch is None:
            return None
        rows, place = stretch.rows, stretch.time
    else:
        present = np.flatnonzero(np.isfinite(spread))
        if len(present) < 2:
            return None
        ordered = present[np.argsort(after[present], kind="stable")]
        rows = ordered[max(0, (len(ordered) - ROWS) // 2) :][:ROWS]
        place = np.arange(len(rows))
    return Band(column, place, before[rows], after[rows], NINETY * spread[rows], joined=series)
