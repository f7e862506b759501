"""Which methods are better than which: average ranks over measurements, Friedman's test and Nemenyi's after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.bench.optional import library

if TYPE_CHECKING:
    import pandas as pd

FEWEST_METHODS = 3
FEWEST_BLOCKS = 2


@dataclass(frozen=True)
class Ranking:
    """How methods compare over blocks (data set, noise and seed) that all of them finished.

    Attributes:
        average: Average rank of each method, 1 is best, best first; of equals, the one with the smaller mean.
        blocks: How many blocks there are.
        left_out: Methods that are in no block, or not in every data set.
        p_value: Of Friedman's test: that all methods are alike; None with fewer than 3 methods or 2 blocks, or if no
            block tells them apart.
        nemenyi: p-value of each pair of methods; None likewise.
    """

    average: pd.Series[float]
    blocks: int
    left_out: tuple[str, ...]
    p_value: float | None = None
    nemenyi: pd.DataFrame | None = None


def rank(figures: pd.DataFrame) -> Ranking:
    """Rank methods; less is better.

    Source: Demšar 2006. Blocks of one data set (its seeds) are not independent, so that p-values are too small where
    there are few data sets.

    Args:
        figures: One row for each block, one column for each method; NaN where a method failed.

    >>> import pandas as pd
    >>> found = rank(pd.DataFrame({"a": [0.2, 0.3], "b": [0.5, 0.1], "c": [0.9, 0.8]}))
    >>> found.average.to_dict(), found.blocks
    ({'a': 1.5, 'b': 1.5, 'c': 3.0}, 2)
    """
    usable = figures.dropna(axis=1, how="all")
    left_out = tuple(str(name) for name in figures.columns if name not in usable.columns)
    blocks = usable.dropna()
    ranked = blocks.rank(axis=1).mean().rename("rank").to_frame().assign(mean=blocks.mean())
    average = ranked.sort_values(["rank", "mean"], kind="stable")["rank"].rename(None)
    told_apart = bool((blocks.nunique(axis=1) > 1).any())
    if blocks.shape[1] < FEWEST_METHODS or len(blocks) < FEWEST_BLOCKS or not told_apart:
        return Ranking(average, len(blocks), left_out)
    columns = [blocks[name].to_numpy(dtype=np.float64) for name in blocks.columns]
    p_value = float(library("scipy.stats").friedmanchisquare(*columns).pvalue)
    nemenyi = library("scikit_posthocs").posthoc_nemenyi_friedman(blocks.reset_index(drop=True))
    nemenyi.index = nemenyi.columns = list(blocks.columns)
    return Ranking(average, len(blocks), left_out, p_value, nemenyi)
