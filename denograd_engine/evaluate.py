"""The truth protocol: how much of a known noise did a refinement remove?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Recovery:
    """RMSE(refined, clean) / RMSE(noisy, clean), columns weighted by their noise: 1 recovers nothing, 0 everything.

    Attributes:
        features: Over all feature cells; NaN if there is none.
        targets: Over all target cells.
        cells: Over all of them.
    """

    features: float
    targets: float
    cells: float


def recovery(
    clean: pd.DataFrame,
    noisy: pd.DataFrame,
    refined: pd.DataFrame,
    features: Sequence[str],
    targets: Sequence[str],
) -> Recovery:
    """Compare a refined table with the truth, each column in units of its clean standard deviation.

    Args:
        clean: The truth; missing cells are passed over.
        noisy: The truth with noise.
        refined: What became of it.
        features: Feature columns that carry noise.
        targets: Target columns that carry noise.

    >>> truth = pd.DataFrame({"x": [0.0, 2.0], "y": [0.0, 4.0]})
    >>> recovery(truth, truth + 1.0, truth + 0.5, ["x"], ["y"])
    Recovery(features=0.5, targets=0.5, cells=0.5)
    """

    def squares(table: pd.DataFrame, columns: Sequence[str]) -> float:
        total = 0.0
        for name in columns:
            truth = clean[name].to_numpy(dtype=np.float64, na_value=np.nan)
            error = table[name].to_numpy(dtype=np.float64, na_value=np.nan) - truth
            total += float(np.nansum(np.square(error / np.nanstd(truth))))
        return total

    def ratio(columns: Sequence[str]) -> float:
        noise = squares(noisy, columns)
        return float(np.sqrt(squares(refined, columns) / noise)) if noise > 0 else float("nan")

    return Recovery(ratio(features), ratio(targets), ratio([*features, *targets]))
