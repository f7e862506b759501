"""The most corrected stretch of a series, and when its column was corrected."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from denograd_tasks.report_page.cells import Floats, correction, values


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of one column within one entity.

    Attributes:
        column: The column.
        time: Its time stamps, or step numbers where the time axis is neither dates nor numbers, or has gaps.
        observed: Values before, in the column's unit.
        refined: Values after.
        correction: Refined minus observed, in std.
        profile: Mean absolute correction of the column along the whole time axis, in std, in equal shares of rows.
        span: Where the stretch lies on that axis, as two shares of its length.
        rows: Positions of its steps in the data.
    """

    column: str
    time: NDArray[np.generic]
    observed: Floats
    refined: Floats
    correction: Floats
    profile: Floats
    span: tuple[float, float]
    rows: NDArray[np.intp]


def most_corrected_stretch(
    observed: pd.DataFrame,
    refined: pd.DataFrame,
    column: str,
    scale: float,
    *,
    time: str | None,
    entity: Iterable[str],
    steps: int = 150,
    bins: int = 240,
) -> Stretch | None:
    """Finds the window of one column with the largest mean absolute correction, within one entity.

    Args:
        observed: Data before.
        refined: Data after.
        column: The column to look at.
        scale: Its standard deviation, in its unit.
        time: Column (or index level) to order by; None keeps the order of rows.
        entity: Columns that tell one series from another.
        steps: Length of the window; the longest entity's where all are shorter.
        bins: Points of the profile along the whole time axis.

    Returns:
        The stretch, or None where there are fewer than two rows.
    """
    if len(observed) < 2:
        return None
    axis = _time_axis(observed, time)
    keys = list(entity)
    group = observed.groupby(keys, sort=False, dropna=False).ngroup().to_numpy() if keys else np.zeros(len(axis))
    rank = pd.factorize(pd.Series(axis), sort=True)[0]
    order = np.lexsort((rank, group))
    before, after = values(observed, column)[order], values(refined, column)[order]
    delta = correction(before, after, scale)
    size = np.nan_to_num(np.abs(delta))
    group, axis = group[order], axis[order]

    width = int(min(steps, np.unique(group, return_counts=True)[1].max()))
    total = np.concatenate([[0.0], np.cumsum(size)])
    windows = total[width:] - total[:-width]
    windows[group[: len(windows)] != group[width - 1 :]] = -1.0
    start = int(np.argmax(windows))
    part = slice(start, start + width)

    along = np.argsort(rank, kind="stable")
    in_time = np.nan_to_num(np.abs(correction(values(observed, column), values(refined, column), scale)))[along]
    profile = np.array([chunk.mean() for chunk in np.array_split(in_time, min(bins, len(in_time)))])
    place = np.searchsorted(rank[along], rank[order][[start, start + width - 1]]) / len(in_time)
    span = (float(place[0]), float(place[1]))
    return Stretch(column, axis[part], before[part], after[part], delta[part], profile, span, order[part])


def _time_axis(frame: pd.DataFrame, time: str | None) -> NDArray[np.generic]:
    if time is None:
        return np.arange(len(frame))
    held = frame[time] if time in frame.columns else frame.index.get_level_values(time).to_series()
    if isinstance(held.dtype, pd.DatetimeTZDtype):
        held = held.dt.tz_convert("UTC").dt.tz_localize(None)
    plotted = pd.api.types.is_datetime64_any_dtype(held) or pd.api.types.is_numeric_dtype(held)
    if plotted and not held.isna().any():
        return np.asarray(held.to_numpy())
    return np.asarray(pd.factorize(held, sort=True)[0])
