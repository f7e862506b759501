"""What the denoisers share: runs, gaps within them, and putting results back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Smoother = Callable[[NDArray[np.float64], int], NDArray[np.float64]]


def spans(rows: int, runs: tuple[int, ...] | None) -> list[slice]:
    """Where each run lies; a table is taken for one run in the order of its rows.

    >>> spans(5, (2, 3))
    [slice(0, 2, None), slice(2, 5, None)]
    """
    edges = np.cumsum([0, *((rows,) if runs is None else runs)]).tolist()
    return [slice(start, end) for start, end in pairwise(edges) if end > start]


def pieces(
    cells: NDArray[np.float64], column: int, runs: tuple[int, ...] | None, longest: int | None = None
) -> list[NDArray[np.float64]]:
    """One column, run by run, without the runs in which it is missing altogether.

    Args:
        cells: Shape (rows, P).
        column: Which one.
        runs: Lengths of the runs, or None.
        longest: Stop once this many steps are there, the longest runs first; None takes all.
    """
    found = [cells[span, column] for span in spans(len(cells), runs)]
    found = [run for run in found if not np.isnan(run).all()]
    if longest is None:
        return found
    found.sort(key=len, reverse=True)
    before = np.cumsum([0, *map(len, found)])[:-1]
    return [run[: longest - start] for run, start in zip(found, before.tolist(), strict=True) if start < longest]


def bridged(run: NDArray[np.float64]) -> NDArray[np.float64]:
    """One column of one run with its missing cells interpolated, held constant before the first and after the last.

    >>> bridged(np.array([np.nan, 1.0, np.nan, 2.0])).tolist()
    [1.0, 1.0, 1.5, 2.0]
    """
    present = ~np.isnan(run)
    if present.all() or not present.any():
        return run
    at = np.arange(len(run))
    return np.interp(at, at[present], run[present])


def column_by_column(
    cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None, smooth: Smoother
) -> NDArray[np.float64]:
    """Smooth each run of each noisy column by itself.

    Args:
        cells: Shape (rows, P).
        noise: Shape (P,), see `Baseline.fit`.
        runs: Lengths of the runs, or None.
        smooth: Given one column of one run, shape (steps,), with missing cells, and the column's number: the same,
            denoised.
    """
    denoised = cells.copy()
    for column in np.flatnonzero(noise != 0).tolist():
        for span in spans(len(cells), runs):
            run = cells[span, column]
            if not np.isnan(run).all():
                denoised[span, column] = smooth(run, column)
    return kept(cells, noise, denoised)


def kept(cells: NDArray[np.float64], noise: NDArray[np.float64], denoised: NDArray[np.float64]) -> NDArray[np.float64]:
    """The denoised cells, with those that carry no noise, and the missing ones, as they were."""
    return np.where((noise == 0) | np.isnan(cells), cells, denoised)
