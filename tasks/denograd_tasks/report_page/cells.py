"""Cells of a frame as floats, their corrections, and a sample of the rows."""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SAMPLE_ROWS = 100_000
_SEED = 42


def values(frame: pd.DataFrame, column: str) -> Floats:
    """A column as float64, NaN where it is missing or infinite."""
    array = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(array), array, np.nan)


def correction(observed: Floats, refined: Floats, scale: float) -> Floats:
    """Refined minus observed in std; NaN where either is missing."""
    return (refined - observed) / (scale if scale > 0 and math.isfinite(scale) else 1.0)


def sample_rows(rows: int, limit: int = SAMPLE_ROWS) -> NDArray[np.intp]:
    """Positions of at most `limit` rows, in order, the same for the same number of rows."""
    if rows <= limit:
        return np.arange(rows)
    return np.sort(np.random.default_rng(_SEED).choice(rows, limit, replace=False))
