"""Injected noise has the size asked for, and touches nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from denograd_engine.errors import ConfigError, SchemaError
from denograd_engine.noise import COARSE, FINE, KINDS, add_gaussian_noise, add_noise, estimate_noise


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


def added(kind, rows=20_000, std=0.3, seed=1):
    """The noise on a column of std 1, in units of that, and the column."""
    values = np.random.default_rng(0).standard_t(8, rows)
    frame = pd.DataFrame({"a": 7.0 * values / values.std(ddof=1)})
    return ((add_noise(frame, ["a"], std, seed, kind) - frame)["a"] / 7.0).to_numpy(), frame["a"].to_numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_size_asked_for_and_no_bias(kind):
    noise, _ = added(kind)
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    assert abs(noise.mean()) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leaves_missing_cells_and_other_columns(kind):
    frame = table()
    noisy = add_noise(frame, ["a"], std=0.3, seed=1, kind=kind)
    assert noisy["a"].isna().equals(frame["a"].isna())
    assert (noisy["a"] - frame["a"]).std() == pytest.approx(0.3 * frame["a"].std(), rel=0.15)
    pd.testing.assert_frame_equal(noisy[["b", "c"]], frame[["b", "c"]], check_exact=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_repeats_itself_with_its_seed(kind):
    (one, _), (same, _), (other, _) = (added(kind, 100, seed=seed) for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_differs_between_columns(kind):
    frame = pd.DataFrame({"a": np.arange(500.0), "b": np.arange(500.0)})
    noise = add_noise(frame, ["a", "b"], std=0.3, seed=1, kind=kind) - frame
    assert abs(np.corrcoef(noise["a"], noise["b"])[0, 1]) < 0.3


def test_gaussian_noise_is_the_usual_kind():
    pd.testing.assert_frame_equal(
        add_noise(table(), ["a", "b"], 0.3, seed=4), add_gaussian_noise(table(), ["a", "b"], 0.3, seed=4)
    )


def test_gaussian_noise_is_drawn_column_by_column_from_one_generator():
    frame = table()
    generator = np.random.default_rng(4)
    noisy = add_noise(frame, ["a", "b"], 0.3, seed=4)
    for name in ("a", "b"):
        expected = frame[name] + generator.normal(0.0, 0.3 * np.nanstd(frame[name].to_numpy(), ddof=1), len(frame))
        assert noisy[name].to_numpy().tobytes() == expected.to_numpy().tobytes()


def test_heteroscedastic_noise_is_louder_where_the_cells_are_greater():
    noise, values = added("heteroscedastic")
    low, high = np.quantile(values, [0.1, 0.9])
    assert noise[values > high].std() > 2.5 * noise[values < low].std()


def test_laplace_noise_has_heavy_tails():
    noise, _ = added("laplace")
    assert np.abs(noise).mean() == pytest.approx(0.3 / np.sqrt(2), rel=0.05)
    assert np.mean(noise**4) / np.mean(noise**2) ** 2 == pytest.approx(6.0, rel=0.3)


def test_spikes_are_few_and_large():
    noise, _ = added("spikes")
    assert np.mean(noise != 0) == pytest.approx(0.03, abs=1e-6)
    assert np.abs(noise[noise != 0]).min() > 2.5 * 0.3


def test_autocorrelated_noise_drifts_from_row_to_row_from_the_first_on():
    noise, _ = added("autocorrelated")
    assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(0.9, abs=0.02)
    first = [added("autocorrelated", 50, seed=seed)[0][0] for seed in range(300)]
    assert np.std(first) == pytest.approx(0.3, rel=0.15)


def test_another_kind_is_an_error_that_lists_them():
    with pytest.raises(ConfigError, match=r"(?s)there is no noise of kind 'pink'.*gaussian or heteroscedastic"):
        add_noise(table(), ["a"], std=0.3, seed=1, kind="pink")


class TestEstimating:
    def test_the_filters_are_the_librarys(self):
        pywt = pytest.importorskip("pywt")
        wavelet = pywt.Wavelet("db4")
        np.testing.assert_allclose(COARSE, wavelet.dec_lo, atol=1e-11)
        np.testing.assert_allclose(FINE, wavelet.dec_hi, atol=1e-11)

    @pytest.mark.parametrize("std", [0.05, 0.3, 1.0])
    def test_white_noise_on_a_slow_series_is_found(self, std):
        steps = np.arange(6000)
        noisy = np.sin(steps / 20) + np.random.default_rng(0).normal(0, std, 6000)
        assert estimate_noise(noisy, [6000]) == pytest.approx(std, rel=0.08)

    def test_a_random_walk_is_not_taken_for_noise(self):
        generator = np.random.default_rng(0)
        walk = generator.normal(size=20_000).cumsum()
        assert estimate_noise(walk, [20_000]) < 0.2
        assert estimate_noise(walk + generator.normal(0, 2, 20_000), [20_000]) == pytest.approx(2.0, rel=0.1)

    def test_a_jump_that_comes_back_every_day_is_no_random_walk(self):
        generator = np.random.default_rng(0)
        day = np.tile(generator.normal(size=24).cumsum(), 250)
        noisy = day + generator.normal(0, 0.3, len(day))
        assert estimate_noise(noisy, [len(day)]) == pytest.approx(0.3, rel=0.05)
        noisy[1000:1400] = np.nan
        apart = np.concatenate([noisy, noisy[5:] + 7.0])
        assert estimate_noise(apart, [len(noisy), len(noisy) - 5]) == pytest.approx(0.3, rel=0.05)
        slow = np.sin(np.arange(6000) / 20) + generator.normal(0, 0.3, 6000)
        assert estimate_noise(slow, [6000]) == pytest.approx(0.3, rel=0.05)

    def test_gaps_and_runs_are_no_jumps(self):
        generator = np.random.default_rng(0)
        noisy = np.sin(np.arange(3000) / 30) + generator.normal(0, 0.1, 3000)
        apart = noisy + 100.0 * (np.arange(3000) >= 1500)
        apart[500:503] = np.nan
        assert estimate_noise(apart, [1500, 1500]) == pytest.approx(0.1, rel=0.1)

    def test_too_little_says_nothing(self):
        assert estimate_noise(np.random.default_rng(0).normal(size=50), [50]) == 0.0
