"""Injected noise has the size asked for, and touches nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from denograd_engine.errors import SchemaError
from denograd_engine.noise import add_gaussian_noise


def table():
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"a": random.normal(0.0, 5.0, 4000), "b": np.arange(4000), "c": ["x", "y"] * 2000})
    frame.loc[::7, "a"] = np.nan
    return frame


def test_its_size_is_a_share_of_the_columns_own_spread():
    frame = table()
    noisy = add_gaussian_noise(frame, ["a", "b"], std=0.3, seed=1)
    for name in ("a", "b"):
        noise = (noisy[name] - frame[name]).dropna()
        assert noise.std() == pytest.approx(0.3 * frame[name].std(), rel=0.05)
        assert abs(noise.mean()) < 0.02 * frame[name].std()


def test_missing_cells_and_other_columns_stay_and_so_does_the_table():
    frame = table()
    kept = frame.copy(deep=True)
    noisy = add_gaussian_noise(frame, ["a"], std=0.3, seed=1)
    pd.testing.assert_frame_equal(frame, kept, check_exact=True)
    assert noisy["a"].isna().equals(frame["a"].isna())
    pd.testing.assert_frame_equal(noisy[["b", "c"]], frame[["b", "c"]], check_exact=True)


def test_the_same_seed_gives_the_same_noise():
    one, same, other = (add_gaussian_noise(table(), ["a"], std=0.3, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same, check_exact=True)
    assert not one.equals(other)


def test_text_cannot_be_noisy():
    with pytest.raises(SchemaError, match="noise cannot be added to column 'c'"):
        add_gaussian_noise(table(), ["a", "c"], std=0.3, seed=1)
