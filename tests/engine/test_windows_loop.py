"""Series: the published consensus against plain loops, sleeping windows, and what must not depend on batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine import windows_loop
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import Series, infer_schema
from tests.engine.problems import (
    Linear,
    assert_answers,
    encoded_by_hand,
    fitted,
    linear,
    mixed_series,
    windows_by_hand,
    windows_of,
)

CASES = [
    {},
    {"targets": 3},
    {"stride": 3, "steps": 170},
    {"stride": 5, "window": 3, "steps": 260},
    {"future": 4},
    {"window": 1},
    {"entities": 3, "steps": 40},
    {"gap": True},
    {"entities": 2, "gap": True, "stride": 2, "future": 2, "steps": 90},
    {"missing": True},
    {"targets": 2, "entities": 2, "gap": True, "missing": True, "window": 3, "future": 3},
    {"future": (1, 3)},
    {"future": (4, 2), "targets": 2, "stride": 2, "steps": 110},
    {"future": (1, 2, 5), "targets": 2, "entities": 2, "gap": True, "missing": True, "window": 3},
    {"targets_as_inputs": False},
    {"targets_as_inputs": False, "future": (1, 3), "targets": 2, "entities": 2, "gap": True, "missing": True},
]


def refined(problem, **refining):
    return refine(problem.frame, problem.backbone, Refining(**{"device": "cpu", **refining}))


class TestPlainLoop:
    @pytest.mark.parametrize("case", CASES)
    def test_same_cells_status_iterations_and_residuals(self, case):
        problem = mixed_series(**case)
        answer = windows_by_hand(problem, 0.3, 0.3, 12)
        assert len(set(answer.status)) >= 3
        assert_answers(refined(problem, eta=0.3, tau=0.3, max_epochs=12), problem, answer)

    @pytest.mark.parametrize("case", [{"targets": 2}, {"missing": True, "entities": 2}, {"future": (1, 3)}])
    def test_fixed_targets_keep_their_cells_in_both_roles(self, case):
        problem = mixed_series(**case)
        result = refined(problem, eta=0.3, tau=0.3, max_epochs=8, refine_targets=False)
        assert_answers(result, problem, windows_by_hand(problem, 0.3, 0.3, 8, refine_targets=False))
        targets = problem.schema.targets
        pd.testing.assert_frame_equal(result.frame[targets], problem.frame[targets], check_exact=True)

    def test_a_target_of_codes_is_predicted_and_read_but_stays(self):
        problem = mixed_series()
        frame = problem.frame.drop(columns="power0").assign(level=np.arange(70) % 4)
        schema = infer_schema(frame, "level", ignored=["site"], series=Series("time", window=3))
        problem = Linear(frame, schema, fitted(frame, schema, linear(np.linspace(-1, 1, 3 * 3))), problem.runs)
        assert schema.refined == ["wind"]
        result = refined(problem, eta=0.3, tau=0.3, max_epochs=8)
        assert_answers(result, problem, windows_by_hand(problem, 0.3, 0.3, 8))
        assert (result.frame["wind"] != frame["wind"]).any()

    def test_a_window_whose_target_is_missing_does_not_count(self):
        problem = mixed_series(missing=True)
        windows = windows_of(problem.runs, problem.schema.series)
        lacking = [predicted for _, (predicted,) in windows if pd.isna(problem.frame["power0"].iloc[predicted])]
        result = refined(problem, eta=0.3, tau=0.3, max_epochs=1)
        assert len(lacking) > 3
        assert (result.rows["status"].iloc[lacking] == "skipped").all()
        steps = np.zeros((70, 2))
        visits = np.zeros((70, 2))
        cells, movable, context = encoded_by_hand(problem)
        for covered, (predicted,) in windows:
            if predicted in lacking:
                continue
            x = np.concatenate([np.concatenate([cells[row], context[row]]) for row in covered])
            r = (problem.weight @ x + problem.bias)[0] - cells[predicted, 1]
            visits[list(covered)] += 1
            visits[predicted, 1] += 1
            g = np.zeros((70, 2))
            g[list(covered)] = r * problem.weight.reshape(len(covered), -1)[:, :2]
            g[predicted, 1] -= r
            g *= movable
            steps += (abs(r) > 0.3) * g / np.sqrt((g * g).sum())
        moved = (0.3 * steps / np.maximum(visits, 1)) * [scale.spread for scale in problem.backbone.encoder.scales]
        expected = problem.frame[["wind", "power0"]].to_numpy() - moved
        np.testing.assert_allclose(result.frame[["wind", "power0"]], expected, atol=1e-9)

    def test_the_order_of_interleaved_sites_does_not_matter(self):
        problem = mixed_series(entities=3, steps=40)
        apart = problem.frame.sort_values("site", kind="stable")
        together = refined(problem, eta=0.3, tau=0.3, max_epochs=10)
        separate = refine(apart, problem.backbone, Refining(eta=0.3, tau=0.3, max_epochs=10, device="cpu"))
        assert not apart.index.equals(problem.frame.index)
        pd.testing.assert_frame_equal(separate.frame.sort_index(), together.frame, rtol=1e-12)
        pd.testing.assert_frame_equal(separate.rows.sort_index(), together.rows, rtol=1e-12, atol=1e-12)


class TestOneSpike:
    """y_t = x_{t-1} exactly, but for one step: only the two cells of the one window outside the gate may move."""

    @pytest.fixture
    def problem(self):
        x = np.random.default_rng(5).normal(size=70)
        frame = pd.DataFrame({"t": np.arange(70.0), "x": x, "y": np.concatenate([[0.0], x[:-1]])})
        frame.loc[40, "y"] -= 1.0
        schema = infer_schema(frame, "y", series=Series("t", window=1))
        module = linear([1.0, 0.0])
        return Linear(frame, schema, fitted(frame, schema, module, standardise=False), (tuple(range(70)),))

    def test_the_spike_is_shared_between_the_two_cells_and_the_rest_is_bit_identical(self, problem):
        result = refined(problem, eta=0.01, tau=0.05, max_epochs=1000)
        changed = problem.frame.ne(result.frame)
        assert changed.to_numpy().sum() == 2
        # one window covers x_39; of the two that cover or predict y_40 one is content, so that y_40 takes half the step
        step = 0.01 / np.sqrt(2)
        count = int(np.ceil((1.0 - 0.05) / (1.5 * step)))
        assert result.rows["iterations"].tolist() == [count if at == 40 else 0 for at in range(70)]
        np.testing.assert_allclose(result.frame.loc[39, "x"], problem.frame.loc[39, "x"] - count * step, atol=1e-9)
        np.testing.assert_allclose(result.frame.loc[40, "y"], problem.frame.loc[40, "y"] + count * step / 2, atol=1e-9)
        assert result.totals.status == {"within_gate": 68, "converged": 1, "skipped": 1}
        assert result.totals.epochs == count + 1

    def test_windows_that_nothing_touches_are_not_asked_again(self, problem):
        asked = []
        problem.backbone.module.register_forward_hook(lambda module, given, output: asked.append(len(output)))
        refined(problem, eta=0.01, tau=0.05, max_epochs=20, batch_size=100)
        before, *epochs, after = asked
        assert before == after == 69
        # the outlying window, the one that covers the moved target, and the one that predicts the moved input
        assert set(epochs) == {3}
        assert len(epochs) == 19


class TestBatches:
    @pytest.mark.parametrize("gathered", [1, 2**20])
    @pytest.mark.parametrize("case", [{}, {"targets": 2, "entities": 2, "gap": True, "missing": True}])
    def test_the_result_does_not_depend_on_their_size(self, monkeypatch, case, gathered):
        monkeypatch.setattr(windows_loop, "GATHERED", gathered)
        problem = mixed_series(**case)
        found = [refined(problem, eta=0.3, tau=0.3, max_epochs=10, batch_size=size) for size in (1, 7, 10_000)]
        for other in found[1:]:
            cells = problem.schema.cells
            np.testing.assert_allclose(other.frame[cells], found[0].frame[cells], rtol=1e-12, atol=1e-12)
            pd.testing.assert_frame_equal(other.rows, found[0].rows, rtol=1e-12, atol=1e-12)


class TestBounds:
    def test_cells_out_of_bounds_from_the_start_wake_the_windows_that_see_them(self):
        plain = mixed_series(seed=4)
        bounds = {"wind": (3.0, 7.0)}
        schema = infer_schema(plain.frame, "power0", ignored=["site"], series=plain.schema.series, bounds=bounds)
        problem = Linear(plain.frame, schema, fitted(plain.frame, schema, plain.backbone.module), plain.runs)
        result = refined(problem, eta=0.05, tau=0.5, max_epochs=200)
        assert result.frame["wind"].between(3.0, 7.0).all()
        within = plain.frame.assign(wind=plain.frame["wind"].clip(3.0, 7.0))
        fixed = replace(problem, frame=within)
        expected = refined(fixed, eta=0.05, tau=0.5, max_epochs=200)
        cells = schema.cells
        np.testing.assert_allclose(result.frame[cells], expected.frame[cells], rtol=1e-9)
        assert result.rows["iterations"].tolist() == expected.rows["iterations"].tolist()
        np.testing.assert_allclose(result.rows["residual_after"], expected.rows["residual_after"], atol=1e-9)
        observed = refined(plain, eta=0.05, tau=0.5, max_epochs=1)
        np.testing.assert_allclose(result.rows["residual_before"], observed.rows["residual_before"], atol=1e-9)


class TestStatus:
    def test_steps_that_no_window_predicts_are_skipped(self):
        problem = mixed_series(window=4, future=3, entities=2, gap=True, steps=60)
        result = refined(problem, eta=0.3, tau=0.3, max_epochs=5)
        first = sorted(row for run in problem.runs for row in run[:6])
        assert np.flatnonzero(result.rows["status"] == "skipped").tolist() == first
        assert result.rows["residual_before"].iloc[first].isna().all()
        assert (result.rows["correction"].iloc[first] > 0).any()

    def test_when_all_that_is_left_has_stalled_it_ends(self):
        problem = mixed_series()
        flat = linear(np.zeros_like(problem.weight), bias=9.0)
        result = refine(
            problem.frame,
            fitted(problem.frame, problem.schema, flat),
            Refining(eta=0.3, refine_targets=False, device="cpu"),
        )
        assert result.totals.status == {"stalled": 66, "skipped": 4}
        assert result.totals.epochs == 1
        pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)

    def test_a_window_where_the_backbone_fails_poisons_nobody_else(self):
        class Holed(nn.Module):
            def __init__(self, line):
                super().__init__()
                self.line = line

            def forward(self, x):
                return torch.where(x[:, 0, :1] > 1.7, torch.nan, self.line(x))

        problem = mixed_series(steps=90)
        cells, _, _ = encoded_by_hand(problem)
        windows = windows_of(problem.runs, problem.schema.series)
        broken = [predicted for covered, (predicted,) in windows if cells[covered[0], 0] > 1.7]
        backbone = fitted(problem.frame, problem.schema, Holed(problem.backbone.module))
        for eta in (0.01, "auto"):
            result = refine(problem.frame, backbone, Refining(eta=eta, tau=0.3, max_epochs=3, device="cpu"))
            assert 1 < len(broken) < 10
            assert np.isfinite(result.totals.eta)
            assert (result.rows["status"].iloc[broken] == "stalled").all()
            assert (result.rows["iterations"].iloc[broken] == 0).all()
            assert np.isfinite(result.frame[problem.schema.cells].to_numpy()).all()
            others = result.rows.drop(index=broken)
            assert others["residual_after"].isna().sum() == 4
            assert others["iterations"].sum() > 0


class TestInterruption:
    def test_a_deadline_that_has_passed_changes_nothing(self):
        problem = mixed_series()
        result = refined(problem, eta=0.3, tau=0.3, deadline=0.0)
        pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)
        assert result.totals.interrupted
        before = result.rows["residual_before"].dropna()
        assert before.equals(result.rows["residual_after"].dropna().rename("residual_before"))
        np.testing.assert_allclose(before, windows_by_hand(problem, 0.3, 0.3, 1).before[before.index], atol=1e-9)
        labels = np.where(before.abs() <= 0.3, "within_gate", "interrupted").tolist()
        assert result.rows["status"].tolist() == ["skipped"] * 4 + labels

    @pytest.mark.parametrize(("batches", "epochs"), [(2, 0), (7, 1), (16, 2)])
    def test_an_epoch_that_was_cut_short_changes_nothing(self, monkeypatch, batches, epochs):
        monkeypatch.setattr(windows_loop, "GATHERED", 1)
        problem = mixed_series()
        turns, seen = iter(range(1000)), []
        result = refine(
            problem.frame,
            problem.backbone,
            Refining(eta=0.001, tau=0.001, batch_size=10, device="cpu"),
            on_progress=seen.append,
            cancelled=lambda: next(turns) >= batches,
        )
        assert result.totals.epochs == epochs == len(seen)
        if epochs == 0:
            pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)
        else:
            whole = refined(problem, eta=0.001, tau=0.001, max_epochs=epochs)
            cells = problem.schema.cells
            np.testing.assert_allclose(result.frame[cells], whole.frame[cells], rtol=1e-12)
            assert result.rows["iterations"].tolist() == whole.rows["iterations"].tolist()
            np.testing.assert_allclose(result.rows["residual_after"], whole.rows["residual_after"], atol=1e-12)
            np.testing.assert_allclose(result.rows["residual_before"], whole.rows["residual_before"], atol=1e-12)
        assert "interrupted" in set(result.rows["status"])


def test_progress_is_reported_after_every_epoch():
    problem, seen = mixed_series(), []
    result = refine(
        problem.frame,
        problem.backbone,
        Refining(eta=0.3, tau=0.3, max_epochs=7, device="cpu"),
        on_progress=seen.append,
    )
    np.testing.assert_allclose([one.share for one in seen], np.arange(1, result.totals.epochs + 1) / 7)
    assert {one.items for one in seen} == {66}
    assert seen[0].active == (result.rows["residual_before"].abs() > 0.3).sum()
