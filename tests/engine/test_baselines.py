"""The classical denoisers lower the error of data that suit them, and leave alone what is not theirs to change."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from denograd_engine.baselines import REGISTRY, baseline
from denograd_engine.baselines.cells import bridged, spans
from denograd_engine.baselines.filling import Filling
from denograd_engine.baselines.fitting import Fitting
from denograd_engine.baselines.patches import Patches
from denograd_engine.errors import ConfigError

NETWORKS = ("autoencoder", "dn_resnet")
STD = 0.4


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """Networks train for an instant: long enough to do something."""
    train_for(monkeypatch, steps=20)


def train_for(monkeypatch, steps):
    for name in NETWORKS:
        baseline(name)
        monkeypatch.setattr(f"denograd_engine.baselines.{name}.FITTING", Fitting(steps=steps, batch_size=32))


def smooth_series(steps=600, seed=0):
    """Three smooth columns with a common rhythm, and the same with noise."""
    time = np.arange(steps)
    clean = np.stack([np.sin(time / 15), np.cos(time / 15 + 0.4), np.sin(time / 40)], axis=1) * np.sqrt(2)
    return clean, clean + np.random.default_rng(seed).normal(0.0, STD, clean.shape)


def low_rank_table(rows=500, columns=8, seed=0):
    """Columns of std 1 that two numbers determine, and the same with noise."""
    random = np.random.default_rng(seed)
    clean = random.normal(size=(rows, 2)) @ random.normal(size=(2, columns))
    clean /= clean.std(axis=0)
    return clean, clean + random.normal(0.0, STD, clean.shape)


def recovery(denoised, noisy, clean):
    return np.sqrt(np.mean(np.square(denoised - clean)) / np.mean(np.square(noisy - clean)))


def fitted(name, noisy, noise, runs, seed=0):
    chosen = baseline(name, seed)
    chosen.fit(noisy, np.broadcast_to(np.asarray(noise, dtype=float), noisy.shape[1]), runs)
    return chosen


def gappy(cells, seed=5):
    gaps = cells.copy()
    gaps[np.random.default_rng(seed).random(cells.shape) < 0.15] = np.nan
    return gaps


SERIES = {
    "pca": 0.5,
    "wavelet": 0.5,
    "emd": 0.6,
    "kalman": 0.5,
    "moving_average": 0.55,
    "autoencoder": 0.65,
    "dn_resnet": 0.75,
    "knn": 0.65,
}


@pytest.mark.parametrize("noise", [STD, np.nan], ids=["known", "unknown"])
@pytest.mark.parametrize("name", REGISTRY)
def test_it_lowers_the_error_of_a_smooth_series(monkeypatch, name, noise):
    train_for(monkeypatch, steps=300)
    clean, noisy = smooth_series()
    denoised = fitted(name, noisy, noise, (600,)).denoise(noisy, (600,))
    assert recovery(denoised, noisy, clean) < SERIES[name]


TABLES = {"pca": 0.6, "autoencoder": 0.8, "dn_resnet": 0.9, "knn": 0.85}


@pytest.mark.parametrize("noise", [STD, np.nan], ids=["known", "unknown"])
@pytest.mark.parametrize("name", TABLES)
def test_it_lowers_the_error_of_a_low_rank_table(monkeypatch, name, noise):
    train_for(monkeypatch, steps=300)
    clean, noisy = low_rank_table()
    denoised = fitted(name, noisy, noise, None).denoise(noisy, None)
    assert recovery(denoised, noisy, clean) < TABLES[name]


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - set(TABLES)))
def test_a_method_of_time_that_knows_the_noise_does_little_harm_to_a_table_without_order(name):
    clean, noisy = low_rank_table()
    denoised = fitted(name, noisy, STD, None).denoise(noisy, None)
    assert recovery(denoised, noisy, clean) < 1.05


@pytest.mark.parametrize("name", ["pca", "wavelet", "emd", "kalman", "moving_average", "knn"])
def test_rows_that_it_was_not_fitted_on_gain_too(name):
    clean, noisy = smooth_series()
    chosen = fitted(name, noisy[:400], STD, (400,))
    denoised = chosen.denoise(noisy[400:], (200,))
    assert recovery(denoised, noisy[400:], clean[400:]) < 0.75


@pytest.mark.parametrize("runs", [None, (1, 2, 30, 67)], ids=["table", "series"])
@pytest.mark.parametrize("name", REGISTRY)
def test_missing_cells_stay_missing_and_noiseless_columns_as_they_were(name, runs):
    noisy = gappy(smooth_series(100)[1])
    chosen = fitted(name, noisy, [STD, 0.0, np.nan], runs)
    without_target = noisy.copy()
    without_target[:, 2] = np.nan
    for cells in (noisy, without_target):
        denoised = chosen.denoise(cells, runs)
        np.testing.assert_array_equal(np.isnan(denoised), np.isnan(cells))
        assert denoised[:, 1].tobytes() == cells[:, 1].tobytes()


@pytest.mark.parametrize("name", REGISTRY)
def test_a_column_without_any_cell_spoils_nothing(name):
    noisy = smooth_series(120)[1]
    noisy[:, 0] = np.nan
    denoised = fitted(name, noisy, STD, (120,)).denoise(noisy, (120,))
    assert np.isnan(denoised[:, 0]).all()
    assert np.isfinite(denoised[:, 1:]).all()


@pytest.mark.parametrize("name", REGISTRY)
def test_runs_never_mix(name):
    noisy = smooth_series(200)[1]
    runs = (80, 10, 110)
    chosen = fitted(name, noisy, STD, runs)
    before = chosen.denoise(noisy, runs)
    changed = noisy.copy()
    changed[80:90] += 5.0
    after = chosen.denoise(changed, runs)
    assert after[:80].tobytes() == before[:80].tobytes()
    assert after[90:].tobytes() == before[90:].tobytes()
    assert after[80:90].tobytes() != before[80:90].tobytes()


@pytest.mark.parametrize("runs", [None, (90, 60)], ids=["table", "series"])
@pytest.mark.parametrize("name", REGISTRY)
def test_the_same_seed_gives_the_same_bytes_and_no_global_state_is_touched(name, runs):
    noisy = gappy(smooth_series(150)[1])
    kept = noisy.copy()
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()
    one, same = (fitted(name, noisy, STD, runs, seed=3).denoise(noisy, runs) for _ in range(2))
    assert one.tobytes() == same.tobytes()
    assert noisy.tobytes() == kept.tobytes()
    assert torch.equal(torch.get_rng_state(), torch_before)
    numpy_after = np.random.get_state()
    assert numpy_after[2] == numpy_before[2]
    np.testing.assert_array_equal(numpy_after[1], numpy_before[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_another_seed_is_another(name):
    noisy = smooth_series(100)[1]
    one, other = (fitted(name, noisy, STD, (100,), seed).denoise(noisy, (100,)) for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", REGISTRY)
def test_noise_known_to_be_nil_changes_nothing(name):
    noisy = smooth_series(60)[1]
    assert fitted(name, noisy, 0.0, (60,)).denoise(noisy, (60,)).tobytes() == noisy.tobytes()


@pytest.mark.parametrize("name", REGISTRY)
def test_constant_columns_are_no_trouble(name):
    flat = np.ones((40, 3))
    for noise in (STD, np.nan):
        assert np.isfinite(fitted(name, flat, noise, (40,)).denoise(flat, (40,))).all()


def test_every_name_gives_its_class():
    for name, path in REGISTRY.items():
        assert f"{type(baseline(name)).__module__}:{type(baseline(name)).__name__}" == path


def test_another_name_is_an_error_that_lists_them():
    with pytest.raises(ConfigError, match=r"(?s)there is no baseline 'median'.*pca or wavelet"):
        baseline("median")


@pytest.mark.parametrize(
    ("name", "library"), [("wavelet", "pywt"), ("emd", "PyEMD"), ("kalman", "statsmodels"), ("knn", "sklearn")]
)
def test_a_missing_library_is_named_with_the_remedy(monkeypatch, name, library):
    monkeypatch.delitem(sys.modules, REGISTRY[name].split(":")[0], raising=False)
    for loaded in [module for module in sys.modules if module.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"(?s){library}.*\[bench\]"):
        baseline(name)


def test_the_average_adapts_to_the_column():
    random = np.random.default_rng(0)
    noisy = np.stack([np.zeros(500), random.normal(size=500)], axis=1) + random.normal(0.0, STD, (500, 2))
    assert fitted("moving_average", noisy, STD, (500,)).reach == [48, 0]


def test_the_smoother_of_a_random_walk_finds_its_variances():
    random = np.random.default_rng(0)
    noisy = (random.normal(0.0, 0.2, 3000).cumsum() + random.normal(0.0, STD, 3000))[:, None]
    observation, level, slope = fitted("kalman", noisy, np.nan, (2000, 1000)).variances[0]
    assert observation == pytest.approx(STD**2, rel=0.15)
    assert level == pytest.approx(0.2**2, rel=0.3)
    assert slope < 1e-4


def test_principal_components_keep_as_many_as_there_are():
    _, noisy = low_rank_table()
    for noise in (STD, np.nan):
        assert len(fitted("pca", noisy, noise, None).components) == 2


def test_rows_of_a_table_are_predicted_from_what_is_there():
    clean, noisy = low_rank_table()
    cells = noisy.copy()
    cells[:, 3] = np.nan
    filled = Filling.fit(noisy, None).fill(cells, None)
    assert recovery(filled[:, 3], np.zeros(500), clean[:, 3]) < 0.4
    np.testing.assert_array_equal(np.delete(filled, 3, axis=1), np.delete(noisy, 3, axis=1))


def test_gaps_leave_the_joint_distribution_unbiased():
    _, noisy = low_rank_table(rows=4000)
    whole, some = Filling.fit(noisy, None), Filling.fit(gappy(noisy), None)
    np.testing.assert_allclose(some.covariance, whole.covariance, atol=0.06)


def test_gaps_are_bridged_within_a_run():
    assert bridged(np.array([np.nan, 1.0, np.nan, 3.0, np.nan])).tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_windows_fold_back_to_what_they_were_cut_from():
    values = np.random.default_rng(0).normal(size=(70, 2))
    for runs in (None, (70,), (3, 1, 40, 26)):
        patches = Patches.of(70, runs)
        np.testing.assert_allclose(patches.fold(patches.cut(values)), values, rtol=1e-12)


def test_no_window_spans_two_runs():
    runs = (30, 5, 40)
    number = np.concatenate([np.full(span.stop - span.start, at) for at, span in enumerate(spans(75, runs))])
    shown = Patches.of(75, runs).cut(number[:, None].astype(float))
    assert (shown.min(axis=2) == shown.max(axis=2)).all()
