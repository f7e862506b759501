"""Noise models: injecting noise of a known size, for benchmarks and demonstrations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from denograd_engine.errors import SchemaError


def add_gaussian_noise(frame: pd.DataFrame, columns: Sequence[str], std: float, seed: int) -> pd.DataFrame:
    """A copy of the table with independent Gaussian noise on every present cell of these columns.

    Args:
        frame: Shape (rows, columns).
        columns: Numeric columns. Whole-number columns become floating point.
        std: Noise standard deviation as a share of each column's own.
        seed: Of the noise.

    Raises:
        SchemaError: If a column is not numeric.

    >>> noisy = add_gaussian_noise(pd.DataFrame({"a": [1.0, 2.0, 4.0]}), ["a"], std=0.1, seed=0)
    >>> [round(value, 3) for value in noisy["a"]]
    [1.019, 1.98, 4.098]
    """
    generator = np.random.default_rng(seed)
    noisy = frame.copy()
    for name in columns:
        if not pd.api.types.is_numeric_dtype(frame[name].dtype):
            raise SchemaError(f"noise cannot be added to column {name!r}: it is not numeric")
        values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        noisy[name] = values + generator.normal(0.0, std * np.nanstd(values, ddof=1), len(values))
    return noisy
