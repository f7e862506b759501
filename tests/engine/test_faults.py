"""Cells that are wrong altogether are found and repaired; the others stay nearly as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from denograd_engine import Series, infer_schema
from denograd_engine.noise import add_noise
from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.faults import Faults, stuck
from denograd_engine.posterior.mixture import Mixture
from denograd_engine.posterior.model import fit_posterior
from denograd_engine.posterior.refining import clean
from denograd_engine.posterior.saving import from_plain, to_plain
from denograd_engine.posterior.task import Fit

QUICK = Fit(folds=3, hidden=64, fewest_steps=70, most_steps=200, faults=True)
SMALL = replace(QUICK, hidden=16, fewest_steps=20, most_steps=60)
NAMES = ["a", "b", "c", "d"]


def factors(rows=800, seed=0):
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(rows, 1)) * [1, -1, 1, 1]
    mixed = hidden + 0.2 * generator.normal(size=(rows, 4))
    return pd.DataFrame(mixed, columns=NAMES) * [1, 10, 0.1, 100] + 3


@pytest.fixture(scope="module")
def struck():
    """Truth, data with spikes, which cells they fell on, the model and the result."""
    truth = factors()
    noisy = add_noise(truth, NAMES, 0.3, seed=1, kind="spikes")
    model = fit_posterior(noisy, infer_schema(noisy, target="d"), QUICK, "cpu")
    return truth, noisy, (noisy != truth).to_numpy(), model, clean(noisy, model, "cpu")


class TestSpikes:
    def test_they_are_found(self, struck):
        _, _, where, _, result = struck
        called = result.faults.to_numpy()
        assert (called & where).sum() / called.sum() > 0.8
        assert (called & where).sum() / where.sum() > 0.5

    def test_they_are_repaired_and_the_others_left_nearly_alone(self, struck):
        truth, noisy, where, _, result = struck
        spread = truth.std().to_numpy()
        before, after = ((frame - truth).to_numpy() / spread for frame in (noisy, result.frame[NAMES]))
        assert np.sqrt(np.square(after[where]).mean() / np.square(before[where]).mean()) < 0.6
        assert np.median(np.abs(after[~where])) < 0.02

    def test_no_noise_need_be_declared(self, struck):
        model = struck[3]
        assert [model.columns[name].noise for name in NAMES] == [0.0] * 4
        assert all(0.01 < model.columns[name].faults < 0.08 for name in NAMES)

    def test_the_correction_is_as_large_as_faults_and_posterior_imply(self, struck):
        columns = struck[4].columns
        assert (columns["correction"] / columns["expected"]).between(0.7, 1.4).all()
        assert columns["faults"].to_list() == struck[4].faults.sum().to_list()

    def test_the_model_comes_back_with_what_it_knows_of_faults(self, struck):
        _, noisy, _, model, result = struck
        plain, tensors = to_plain(model)
        again = clean(noisy, from_plain(plain, tensors, model.encoder), "cpu")
        pd.testing.assert_frame_equal(again.faults, result.faults)
        pd.testing.assert_frame_equal(again.frame, result.frame)

    def test_declared_noise_is_taken_out_as_well(self):
        truth = factors()
        std = {name: 0.3 * float(truth[name].std()) for name in NAMES}
        noisy = add_noise(add_noise(truth, NAMES, 0.3, seed=2), NAMES, 0.4, seed=1, kind="spikes")
        result = clean(noisy, fit_posterior(noisy, infer_schema(noisy, target="d", noise=std), QUICK, "cpu"), "cpu")
        ordinary = ~result.faults.to_numpy()
        after, before = ((frame[NAMES] - truth[NAMES]).to_numpy()[ordinary] for frame in (result.frame, noisy))
        assert np.sqrt(np.square(after).mean() / np.square(before).mean()) < 0.85


class TestStuckSensors:
    @staticmethod
    def waves(steps=900):
        time, generator = np.arange(steps), np.random.default_rng(0)
        frame = pd.DataFrame({"a": np.sin(time / 20), "b": np.cos(time / 20), "y": np.sin(time / 20 + 1)})
        frame += 0.05 * generator.normal(size=frame.shape)
        return frame.assign(time=pd.date_range("2024-01-01", periods=steps, freq="h"))

    @staticmethod
    def found(values, runs=None):
        cells = torch.tensor(values, dtype=torch.float32)[:, None]
        none = torch.zeros(len(cells), 0)
        runs = (len(cells),) if runs is None else runs
        contexts = Contexts(
            cells, torch.ones_like(cells, dtype=torch.bool), none, none.bool(), runs, (0,), np.arange(len(cells))
        )
        return stuck(contexts)[:, 0].nonzero().squeeze(1).tolist()

    def test_a_value_that_stays_is_found(self):
        values = np.random.default_rng(0).normal(size=300)
        values[100:110] = values[100]
        assert self.found(values) == list(range(100, 110))

    def test_two_runs_that_end_and_begin_alike_are_two(self):
        values = np.random.default_rng(0).normal(size=300)
        values[146:154] = 0.5
        assert self.found(values) == list(range(146, 154))
        assert self.found(values, runs=(150, 150)) == []

    def test_coarse_rounding_is_no_fault(self):
        assert self.found(np.random.default_rng(0).normal(size=2000).round(0)) == []

    def test_a_value_that_the_column_rests_at_is_none(self):
        rain = np.maximum(np.random.default_rng(0).normal(size=2000), 0.0)
        rain[500:560] = 0.0
        assert self.found(rain) == []

    def test_a_table_has_none(self):
        frame = pd.DataFrame({"a": [1.0] * 50 + [2.0] * 50, "y": np.arange(100.0)})
        model = fit_posterior(
            pd.concat([frame] * 3, ignore_index=True), infer_schema(frame, target="y"), SMALL, device="cpu"
        )
        assert not clean(frame, model, "cpu").faults.to_numpy().any()

    def test_it_is_replaced_by_what_the_other_channels_say(self):
        truth = self.waves()
        broken = truth.copy()
        broken.loc[400:430, "a"] = broken.loc[400, "a"]
        schema = infer_schema(broken, target="y", series=Series(time="time"))
        result = clean(broken, fit_posterior(broken, schema, SMALL, "cpu"), "cpu")
        assert result.faults.loc[401:430, "a"].all()
        error = (result.frame.loc[401:430, "a"] - truth.loc[401:430, "a"]).abs().mean()
        assert error < 0.3 * (broken.loc[401:430, "a"] - truth.loc[401:430, "a"]).abs().mean()
        assert result.std.loc[401:430, "a"].mean() > 2 * result.std.loc[:399, "a"].mean()


class TestContamination:
    def test_rate_and_size_are_learnt(self):
        generator = torch.Generator().manual_seed(0)
        count = 20_000
        mixture = Mixture(torch.zeros(count, 1, 1), torch.zeros(count, 1, 1), torch.full((count, 1, 1), 0.5))
        observed = torch.randn(count, 1, generator=generator) * 0.75**0.5
        wrong = torch.rand(count, 1, generator=generator) < 0.05
        observed = observed + wrong * torch.randn(count, 1, generator=generator) * 3
        noise = torch.tensor([0.25])
        found = Faults.assumed(noise).learnt(mixture, observed, torch.ones_like(wrong), noise)
        assert abs(float(found.rate) - 0.05) < 0.01
        assert abs(float(found.size) - 9.0) < 1.5

    def test_suspicion_rises_with_the_distance(self):
        mixture = Mixture(torch.zeros(5, 1, 1), torch.zeros(5, 1, 1), torch.full((5, 1, 1), 0.5))
        noise = torch.tensor([0.25])
        found = Faults.assumed(noise).suspicion(mixture, torch.tensor([[0.0], [1.0], [2.0], [3.0], [5.0]]), noise)
        assert found.squeeze(1).diff().gt(0).all()
        assert found[0] < 0.01
        assert found[4] > 0.99
