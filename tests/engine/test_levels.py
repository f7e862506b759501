"""What the frozen columns of a table say by themselves: their levels, which act together, and their effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from denograd_engine import add_gaussian_noise, infer_schema, recovery
from denograd_engine.posterior.levels import (
    DISTINCT,
    MOST_LEVELS,
    PSEUDOCOUNTS,
    QUANTILES,
    Levels,
    effects_of,
    shifts,
)
from denograd_engine.posterior.model import fit_posterior
from denograd_engine.posterior.refining import clean
from denograd_engine.posterior.task import Fit

QUICK = Fit(folds=3, hidden=16, fewest_steps=40, most_steps=40)


def levels_of(*columns, cells=None, widths=None):
    frozen = torch.tensor(np.column_stack(columns), dtype=torch.float32)
    cells = torch.zeros(len(frozen), 1) if cells is None else torch.as_tensor(cells, dtype=torch.float32)
    found = Levels.fit(frozen, widths or [1] * frozen.shape[1], cells)
    return found, found.of(frozen)


class TestLevels:
    def test_each_value_of_a_number_with_few_is_a_level_and_a_new_one_has_that_of_its_neighbour(self):
        values = np.tile([3.0, 1.0, 10.0], 20)
        found, level = levels_of(values)
        assert found.sizes == (3,)
        assert level[:3, 0].tolist() == [1, 0, 2]
        assert found.of(torch.tensor([[1.4], [9.0], [1e9]]))[:, 0].tolist() == [0, 2, 2]

    def test_a_number_with_many_values_has_a_level_for_each_octile(self):
        found, level = levels_of(np.random.default_rng(0).permutation(800))
        assert found.sizes == (QUANTILES,)
        assert level[:, 0].bincount().tolist() == [800 // QUANTILES] * QUANTILES

    def test_a_category_has_a_level_for_each_indicator_and_one_for_all_else(self):
        indicators = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]])
        found, level = levels_of(indicators, np.zeros(4), widths=[3, 1])
        assert found.sizes == (4, 1)
        assert level.tolist() == [[0, 4], [2, 4], [3, 4], [1, 4]]

    def test_there_are_never_more_than_the_effects_can_be_solved_for(self):
        columns = [np.arange(5000) % (DISTINCT - at) for at in range(20)]
        found, _ = levels_of(*columns)
        assert 0 < found.count <= MOST_LEVELS
        many = Levels.fit(torch.rand(100, MOST_LEVELS), [1] * MOST_LEVELS, torch.zeros(100, 1))
        assert many.count == 0
        assert many.of(torch.rand(5, MOST_LEVELS)).shape == (5, 0)

    def test_columns_that_act_together_are_found_and_no_others(self):
        generator = np.random.default_rng(0)
        machine, shift, room = (generator.integers(0, 4, 1000) for _ in range(3))
        together = np.where(machine == shift, 1.0, -0.3) + generator.normal(0, 0.5, 1000)
        found, level = levels_of(machine, shift, room, cells=together[:, None])
        assert found.pairs == ((0, 1),)
        assert level.shape == (1000, 4)
        assert torch.equal(level[:, 3] - level[:, 3].min(), torch.tensor(machine * 4 + shift))
        added = machine + shift + generator.normal(0, 0.5, 1000)
        assert levels_of(machine, shift, room, cells=added[:, None])[0].pairs == ()


class TestEffects:
    def test_an_effect_is_the_mean_of_its_rows_drawn_towards_zero(self):
        level = torch.tensor([[0], [0], [0], [1]])
        cells = torch.tensor([[2.0], [4.0], [6.0], [5.0]])
        none, one, ten, _ = effects_of(level, 2, torch.arange(4), cells, PSEUDOCOUNTS)
        assert none.tolist() == [[0.0], [0.0]]
        torch.testing.assert_close(one, torch.tensor([[12 / 4], [5 / 2]]))
        torch.testing.assert_close(ten, torch.tensor([[12 / 13], [5 / 11]]))
        torch.testing.assert_close(shifts(level, one)[:, 0], torch.tensor([3.0, 3.0, 3.0, 2.5]))

    def test_effects_add_up(self):
        generator = np.random.default_rng(0)
        a, b = generator.integers(0, 5, 2000), generator.integers(0, 3, 2000)
        of_a, of_b = generator.normal(size=5), generator.normal(size=3)
        cells = torch.tensor((of_a[a] + of_b[b])[:, None])
        found, level = levels_of(a, b)
        [effects] = effects_of(level, found.count, torch.arange(2000), cells - cells.mean(), [0.01])
        torch.testing.assert_close(shifts(level, effects), cells - cells.mean(), atol=1e-3, rtol=0)

    def test_many_rows_are_thinned_out(self, monkeypatch):
        level, cells = torch.arange(600)[:, None] % 3, torch.arange(600.0)[:, None] % 3 - 1
        whole = effects_of(level, 3, torch.arange(600), cells, [1.0])
        monkeypatch.setattr("denograd_engine.posterior.levels.LEARNT_FROM", 300)
        torch.testing.assert_close(effects_of(level, 3, torch.arange(600), cells, [1.0]), whole)


def places(rows=1500, seed=0):
    """Three measurements that jump from one of sixty places to the next, where no number leads smoothly."""
    generator = np.random.default_rng(seed)
    place = generator.integers(0, 60, rows)
    of_place = generator.normal(size=(60, 3))
    frame = pd.DataFrame(of_place[place] + 0.2 * generator.normal(size=(rows, 3)), columns=["a", "b", "y"])
    return frame.assign(place=place)


@pytest.fixture(scope="module")
def fitted():
    """Clean, noisy, schema, model."""
    truth = places()
    noisy = add_gaussian_noise(truth, ["a", "b", "y"], 0.5, seed=0)
    noise = {name: 0.5 * float(truth[name].std()) for name in ("a", "b", "y")}
    schema = infer_schema(truth, target="y", frozen=["place"], noise=noise)
    return truth, noisy, schema, fit_posterior(noisy, schema, QUICK, "cpu")


class TestWithinTheRule:
    def test_what_a_place_says_is_used_where_it_says_something(self, fitted, monkeypatch):
        truth, noisy, schema, model = fitted
        assert all(model.columns[name].pseudocount in PSEUDOCOUNTS[1:] for name in ("a", "b", "y"))
        monkeypatch.setattr("denograd_engine.posterior.model.PSEUDOCOUNTS", PSEUDOCOUNTS[:1])
        without = fit_posterior(noisy, schema, QUICK, "cpu")
        assert {column.pseudocount for column in without.columns.values()} == {None}
        left, more = (
            recovery(truth, noisy, clean(noisy, one, "cpu").frame, ["a", "b"], ["y"]).cells for one in (model, without)
        )
        assert left < 0.65
        assert left < 0.75 * more

    def test_rows_that_were_never_seen_have_it_too(self, fitted):
        _, _, _, model = fitted
        truth = places(seed=0)
        fresh = add_gaussian_noise(truth.iloc[::-1].reset_index(drop=True), ["a", "b", "y"], 0.5, seed=9)
        result = clean(fresh, model, "cpu").frame
        assert recovery(truth.iloc[::-1].reset_index(drop=True), fresh, result, ["a", "b"], ["y"]).cells < 0.65

    def test_a_level_that_says_nothing_has_no_effect(self):
        truth = places()
        truth["place"] = np.random.default_rng(5).permutation(truth["place"])
        noisy = add_gaussian_noise(truth, ["a", "b", "y"], 0.5, seed=0)
        noise = {name: 0.5 * float(truth[name].std()) for name in ("a", "b", "y")}
        schema = infer_schema(truth, target="y", frozen=["place"], noise=noise)
        model = fit_posterior(noisy, schema, QUICK, "cpu")
        assert {column.pseudocount for column in model.columns.values()} <= {None, PSEUDOCOUNTS[-1]}
