"""Options of a series: several horizons, targets that are not shown, windows as one row of numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from denograd_engine.errors import ConfigError, TooFewRowsError
from denograd_engine.problem import pose
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import Series, infer_schema
from denograd_engine.training import Training, train
from tests.engine.problems import encoded_by_hand, fitted, known_windows, linear, mixed_series, mixed_table, shown

CPU = torch.device("cpu")
CASES = [
    {"future": (1, 3)},
    {"future": (5, 2), "targets": 2, "stride": 2, "steps": 110},
    {"future": (1, 2, 4), "targets": 2, "entities": 2, "gap": True, "missing": True, "window": 3},
    {"targets_as_inputs": False, "missing": True},
    {"targets_as_inputs": False, "flatten": True, "future": (1, 3), "entities": 2, "gap": True},
]


def posed(problem):
    return pose(problem.frame, problem.backbone.encoder, CPU, torch.float64, fewest=1)


def refined(problem, **refining):
    given = {"device": "cpu", "eta": 0.3, "tau": 0.3, "max_epochs": 8, **refining}
    return refine(problem.frame, problem.backbone, Refining(**given))


class TestWhatAWindowIs:
    @pytest.mark.parametrize("case", CASES)
    def test_inputs_and_targets_cell_by_cell(self, case):
        problem = mixed_series(**case)
        cells, movable, context = encoded_by_hand(problem)
        inputs, features = shown(problem.schema), len(problem.schema.features)
        tensors, windows = posed(problem), known_windows(problem)
        x, y = tensors.gather(tensors.known)
        weight_x, weight_y = tensors.weigh(tensors.known, torch.ones(cells.shape[1], dtype=torch.float64))
        assert len(x) == len(windows) == len(tensors.known)
        assert x.shape[1:] == tensors.input_shape
        for at, (covered, ahead) in enumerate(windows):
            expected = [np.concatenate([cells[row, :inputs], context[row]]) for row in covered]
            np.testing.assert_allclose(x[at].reshape(len(covered), -1), expected, atol=1e-12)
            np.testing.assert_allclose(y[at], np.concatenate([cells[row, features:] for row in ahead]), atol=1e-12)
            moves = [np.concatenate([movable[row, :inputs], 0 * context[row]]) for row in covered]
            assert weight_x[at].reshape(len(covered), -1).tolist() == np.array(moves, dtype=float).tolist()
            assert weight_y[at].tolist() == np.concatenate([movable[row, features:] for row in ahead]).tolist()

    @pytest.mark.parametrize("case", CASES)
    def test_scattering_is_the_transpose_of_gathering(self, case):
        tensors = posed(mixed_series(**case))
        items = tensors.known[::2]
        x, y = tensors.gather(items)
        back_x, back_y = torch.randn_like(x), torch.randn_like(y)
        into, direction = torch.zeros_like(tensors.cells), torch.randn_like(tensors.cells)
        tensors.scatter_(into, items, back_x, back_y)
        ahead_x, ahead_y = tensors.at(tensors.cells + direction).gather(items)
        expected = ((ahead_x - x) * back_x).sum() + ((ahead_y - y) * back_y).sum()
        torch.testing.assert_close((into * direction).sum(), expected)

    @pytest.mark.parametrize("case", CASES)
    def test_a_cell_is_visited_by_the_windows_that_show_or_predict_it(self, case):
        problem = mixed_series(**case)
        tensors = posed(problem)
        expected = np.zeros(tensors.cells.shape, dtype=int)
        inputs, features = shown(problem.schema), len(problem.schema.features)
        for covered, ahead in known_windows(problem):
            expected[list(covered), :inputs] += 1
            expected[list(ahead), features:] += 1
        found = np.empty_like(expected)
        found[tensors.order] = tensors.visits(tensors.known).numpy()
        assert found.tolist() == expected.tolist()

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(
        st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True).map(tuple),
        st.integers(1, 5),
        st.integers(1, 3),
        st.booleans(),
        st.sampled_from([0.1, 0.3, 0.5]),
    )
    def test_nothing_that_is_held_out_is_predicted_in_training(self, future, window, stride, entities, share):
        problem = mixed_series(future=future, window=window, stride=stride, entities=1 + entities, gap=True, steps=60)
        tensors = posed(problem)
        fit, held_out = tensors.split(share, 0)
        times = tensors.clock[tensors.windows.ahead(tensors.windows.starts)]
        assert len(held_out) > 0
        if len(fit):
            assert times[fit].max() < times[held_out].min()
        assert not set(fit.tolist()) & set(held_out.tolist())
        between = set(tensors.known.tolist()) - set(fit.tolist()) - set(held_out.tolist())
        cut = times[held_out].min()
        assert all(times[one, 0] < cut <= times[one, -1] for one in between)
        assert not between or len(future) > 1


class TestHorizons:
    def test_skill_is_told_for_each_target_at_each_horizon(self):
        problem = mixed_series(targets=2, steps=300)
        schema = infer_schema(
            problem.frame,
            problem.schema.targets,
            ignored=["site"],
            series=replace(problem.schema.series, future=(6, 1)),
        )
        backbone = train(problem.frame, schema, training=Training(epochs=1, device="cpu"))
        assert list(backbone.skill) == ["power0+1", "power1+1", "power0+6", "power1+6"]
        assert backbone.module(torch.zeros(3, 4, 4)).shape == (3, 4)

    def test_a_single_one_in_a_list_is_that_one(self):
        one, listed = mixed_series(future=3), mixed_series(future=(3,))
        assert listed.schema.outputs == one.schema.outputs == ["power0"]
        pd.testing.assert_frame_equal(refined(listed).frame, refined(one).frame, check_exact=True)

    def test_their_order_does_not_matter(self):
        one, other = mixed_series(future=(1, 3)), mixed_series(future=(3, 1))
        pd.testing.assert_frame_equal(refined(one).frame, refined(other).frame, check_exact=True)

    def test_a_row_stands_for_the_window_that_predicts_it_first(self):
        problem = mixed_series(future=(2, 5), window=4)
        result = refined(problem)
        skipped = np.flatnonzero(result.rows["status"] == "skipped").tolist()
        assert skipped == [0, 1, 2, 3, 4, 67, 68, 69]

    @pytest.mark.parametrize("future", [(), (1, 0), (2, 2), (3, -1)])
    def test_impossible_ones(self, future):
        with pytest.raises(ConfigError, match=r"series.future must be at least 1, each once") as caught:
            Series("t", future=future)
        assert caught.value.found == str(future)


class TestTargetsThatAreNotShown:
    def test_move_for_the_windows_that_predict_them_alone(self):
        problem = mixed_series(targets_as_inputs=False)
        result = refined(problem, max_epochs=1)
        moved = (result.frame["power0"] - problem.frame["power0"]).to_numpy() / problem.backbone.encoder.spreads[1]
        asked = result.rows["iterations"] == 1
        assert (moved != 0).tolist() == asked.tolist()
        norms = np.sqrt((problem.weight.reshape(4, -1)[:, :1] ** 2).sum() + 1)
        np.testing.assert_allclose(np.abs(moved[asked]), 0.3 / norms, rtol=1e-9)

    def test_leave_no_trace_in_the_inputs(self):
        problem, tensors = mixed_series(targets_as_inputs=False), None
        for shift in (0.0, 5.0):
            frame = problem.frame.assign(power0=problem.frame["power0"] + shift)
            x, _ = pose(frame, problem.backbone.encoder, CPU, torch.float64).gather(torch.arange(20))
            assert tensors is None or torch.equal(tensors, x)
            tensors = x


class TestFlat:
    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
    @pytest.mark.parametrize(
        "case", [{}, {"targets": 2, "entities": 2, "gap": True, "missing": True, "future": (1, 3)}]
    )
    def test_windows_for_a_network_of_rows_come_to_the_same(self, case, rule):
        problem, flat = mixed_series(**case), mixed_series(**case, flatten=True)
        layer = flat.backbone.module[1]
        assert isinstance(layer, nn.Linear)
        backbone = replace(flat.backbone, module=layer)
        refining = Refining(rule=rule, tau=0.3, max_epochs=8, device="cpu")
        expected, found = refine(problem.frame, problem.backbone, refining), refine(flat.frame, backbone, refining)
        pd.testing.assert_frame_equal(found.frame, expected.frame, check_exact=True)
        pd.testing.assert_frame_equal(found.rows, expected.rows, check_exact=True)
        assert found.totals.moved > 20

    def test_a_network_for_rows_learns_from_them(self):
        problem = mixed_series(flatten=True, steps=200)
        backbone = train(problem.frame, problem.schema, "mlp", training=Training(epochs=1, device="cpu"))
        assert backbone.module(torch.zeros(3, 12)).shape == (3, 1)

    def test_a_network_for_windows_is_refused(self):
        problem = mixed_series(flatten=True, steps=200)
        with pytest.raises(ConfigError, match="reads series"):
            train(problem.frame, problem.schema, "lstm", training=Training(epochs=1, device="cpu"))


@pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
@pytest.mark.parametrize(("problem", "things"), [(mixed_series(targets=2), "windows"), (mixed_table(2), "rows")])
def test_data_whose_targets_are_all_missing_are_refused(problem, things, rule):
    frame = problem.frame.assign(**{problem.schema.targets[1]: np.nan})
    with pytest.raises(TooFewRowsError, match=f"too few {things} to refine") as caught:
        refine(frame, problem.backbone, Refining(rule=rule, device="cpu"))
    assert caught.value.found == "0"


@pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
def test_a_series_in_which_one_window_is_known_is_refined(rule):
    problem = mixed_series()
    frame = problem.frame.assign(power0=problem.frame["power0"].where(problem.frame.index == 30))
    backbone = fitted(problem.frame, problem.schema, linear(3 * np.ones((1, problem.weight.size))))
    result = refine(frame, backbone, Refining(rule=rule, tau=0.01, max_epochs=5, device="cpu"))
    changed = (result.frame != frame)["wind"]
    assert np.flatnonzero(changed).tolist() == [26, 27, 28, 29]
