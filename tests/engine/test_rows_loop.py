"""Tables: the published rule against a closed form and against plain loops, and what must not depend on batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine import rows_loop
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import infer_schema
from tests.engine.problems import (
    Linear,
    assert_answers,
    fitted,
    linear,
    mixed_table,
    plain_table,
    rows_by_hand,
    width_of,
)


def refined(problem, **refining):
    return refine(problem.frame, problem.backbone, Refining(**{"device": "cpu", **refining}))


def values(result):
    return result.frame.select_dtypes("float64").to_numpy()


class TestClosedForm:
    weight, eta, tau = np.array([1.0, 2.0, -0.5]), 0.01, 0.05

    @property
    def length(self):
        return np.sqrt(self.weight @ self.weight + 1)

    @pytest.mark.parametrize("epochs", [1, 2, 3, 10, 40, 1000])
    def test_every_step_goes_straight_along_the_weights(self, epochs):
        problem = plain_table(self.weight)
        x, y = problem.frame[["x0", "x1", "x2"]].to_numpy(), problem.frame["y"].to_numpy()
        r = x @ self.weight - y
        result = refined(problem, eta=self.eta, tau=self.tau, max_epochs=epochs)
        needed = np.ceil(np.maximum(np.abs(r) - self.tau, 0) / (self.eta * self.length)).astype(int)
        steps = np.minimum(needed, epochs)
        way = steps * self.eta * np.sign(r) / self.length
        np.testing.assert_allclose(result.frame[["x0", "x1", "x2"]], x - way[:, None] * self.weight, atol=1e-9)
        np.testing.assert_allclose(result.frame["y"], y + way, atol=1e-9)
        assert result.rows["iterations"].tolist() == steps.tolist()
        np.testing.assert_allclose(result.rows["residual_before"], r, atol=1e-9)
        np.testing.assert_allclose(
            result.rows["residual_after"], r - np.sign(r) * steps * self.eta * self.length, atol=1e-9
        )
        np.testing.assert_allclose(result.rows["correction"], steps * self.eta, atol=1e-9)
        ended = np.where(needed == 0, "within_gate", np.where(needed <= epochs, "converged", "max_epochs"))
        assert result.rows["status"].tolist() == ended.tolist()
        assert result.totals.epochs == min(epochs, needed.max() + 1)

    def test_with_fixed_targets_the_weights_alone_count_in_the_norm(self):
        problem = plain_table(self.weight)
        x, y = problem.frame[["x0", "x1", "x2"]].to_numpy(), problem.frame["y"].to_numpy()
        r, length = x @ self.weight - y, np.linalg.norm(self.weight)
        result = refined(problem, eta=self.eta, tau=self.tau, max_epochs=1000, refine_targets=False)
        steps = np.ceil(np.maximum(np.abs(r) - self.tau, 0) / (self.eta * length)).astype(int)
        assert result.rows["iterations"].tolist() == steps.tolist()
        way = (steps * self.eta * np.sign(r) / length)[:, None] * self.weight
        np.testing.assert_allclose(result.frame[["x0", "x1", "x2"]], x - way, atol=1e-9)
        pd.testing.assert_series_equal(result.frame["y"], problem.frame["y"], check_exact=True)

    def test_a_step_too_long_for_the_gate_oscillates(self):
        step = 0.3 * self.length
        residual = np.concatenate([[0.4999 * step, 0.03 + step, 2.3 * step], np.full(57, 0.01)])
        problem = plain_table(self.weight, residual)
        result = refined(problem, eta=0.3, tau=0.05, max_epochs=20)
        assert step > 2 * 0.05
        assert result.rows["status"].tolist() == ["oscillating", "converged", "oscillating"] + ["within_gate"] * 57
        assert result.rows["iterations"].tolist()[:3] == [20, 1, 20]
        np.testing.assert_allclose(result.rows["residual_after"].iloc[[0, 2]], [0.4999 * step, 0.3 * step], atol=1e-9)

    def test_the_gate_is_strict(self):
        problem = plain_table([1.0, 1.0], np.concatenate([[0.5, -0.5, 0.75, 0.0], np.zeros(56)]))
        problem.frame.loc[:3, ["x0", "x1", "y"]] = [[0, 0, -0.5], [0, 0, 0.5], [0, 0, -0.75], [0, 0, 0]]
        moved = refined(problem, tau=0.5, eta=0.1, max_epochs=1).rows["correction"] > 0
        assert moved.tolist()[:4] == [False, False, True, False]


class TestPlainLoop:
    @pytest.mark.parametrize("refine_targets", [True, False])
    @pytest.mark.parametrize(
        "case",
        [
            {},
            {"targets": 3},
            {"missing": True},
            {"targets": 2, "missing": True},
            {"frozen_target": True},
            {"targets": 2, "missing": True, "frozen_target": True},
        ],
    )
    def test_same_cells_status_iterations_and_residuals(self, case, refine_targets):
        problem = mixed_table(**case)
        answer = rows_by_hand(problem, 0.1, 0.2, 15, refine_targets)
        assert len(set(answer.status)) >= 3
        result = refined(problem, eta=0.1, tau=0.2, max_epochs=15, refine_targets=refine_targets)
        assert_answers(result, problem, answer)

    def test_context_and_missing_cells_do_not_count_in_the_norm(self):
        problem = mixed_table(missing=True)
        result = refined(problem, eta=0.07, tau=0.2, max_epochs=1)
        moved = result.rows["iterations"] == 1
        assert moved.sum() > 40
        assert problem.frame.loc[moved, ["pressure", "density", "kind"]].isna().any().all()
        np.testing.assert_allclose(result.rows.loc[moved, "correction"], 0.07, atol=1e-12)

    def test_a_target_alone_moves_towards_what_its_context_says(self):
        table = mixed_table()
        frame = table.frame[["rooms", "kind", "y0"]]
        schema = infer_schema(frame, "y0")
        assert schema.refined == ["y0"]
        inputs = width_of(fitted(frame, schema, None).encoder)
        problem = Linear(frame, schema, fitted(frame, schema, linear(np.full(inputs, 0.3))))
        result = refined(problem, eta=0.05, tau=0.1, max_epochs=30)
        assert_answers(result, problem, rows_by_hand(problem, 0.05, 0.1, 30))
        moved = result.rows["iterations"].to_numpy()
        spread = problem.backbone.encoder.scales[0].spread
        np.testing.assert_allclose(np.abs(result.frame["y0"] - frame["y0"]), moved * 0.05 * spread, atol=1e-9)


class TestBatches:
    @pytest.mark.parametrize("case", [{}, {"targets": 2, "missing": True}])
    def test_the_result_does_not_depend_on_their_size(self, case):
        problem = mixed_table(**case)
        found = [refined(problem, eta=0.1, tau=0.2, max_epochs=12, batch_size=size) for size in (1, 7, 70, 10_000)]
        for other in found[1:]:
            np.testing.assert_allclose(values(other), values(found[0]), rtol=1e-12, atol=1e-12)
            assert other.rows["status"].tolist() == found[0].rows["status"].tolist()
            assert other.rows["iterations"].tolist() == found[0].rows["iterations"].tolist()
            assert other.totals.epochs == found[0].totals.epochs

    @pytest.mark.parametrize("batch_size", [7, None])
    @pytest.mark.parametrize("bounded", [False, True])
    def test_compaction_is_exact(self, monkeypatch, bounded, batch_size):
        problem = mixed_table(targets=2, missing=True)
        if bounded:
            bounds = {"speed": (-0.8, 0.8), "y0": (None, 0.0)}
            schema = infer_schema(problem.frame, ["y0", "y1"], ignored=["note"], bounds=bounds)
            problem = Linear(problem.frame, schema, fitted(problem.frame, schema, problem.backbone.module))
        found = []
        for share in (0.0, 0.1, 2.0):
            monkeypatch.setattr(rows_loop, "COMPACT_AT", share)
            found.append(refined(problem, eta=0.1, tau=0.2, max_epochs=12, batch_size=batch_size))
        for other in found[1:]:
            np.testing.assert_allclose(values(other), values(found[0]), rtol=1e-12, atol=1e-12)
            pd.testing.assert_frame_equal(other.rows, found[0].rows, rtol=1e-12, atol=1e-12)

    def test_one_row_at_a_time_is_the_same_as_that_row_alone(self):
        problem = mixed_table()
        whole = refined(problem, eta=0.1, tau=0.2, max_epochs=9)
        halves = [
            refine(part, problem.backbone, Refining(eta=0.1, tau=0.2, max_epochs=9, device="cpu"))
            for part in (problem.frame.iloc[:50], problem.frame.iloc[-50:])
        ]
        joined = pd.concat([halves[0].frame, halves[1].frame.iloc[30:]])
        np.testing.assert_allclose(joined[problem.schema.cells], whole.frame[problem.schema.cells], rtol=1e-12)


class TestGate:
    def test_rows_within_it_come_out_bit_identical(self):
        problem = mixed_table(targets=2)
        result = refined(problem, eta=0.05, tau=0.8, max_epochs=50)
        stayed = result.rows["status"] == "within_gate"
        assert 5 < stayed.sum() < 60
        for name in problem.frame.columns:
            assert result.frame.loc[stayed, name].equals(problem.frame.loc[stayed, name])
        assert (result.rows.loc[stayed, "iterations"] == 0).all()
        assert (result.rows.loc[stayed, "correction"] == 0).all()
        changed = (result.frame[problem.schema.refined] != problem.frame[problem.schema.refined]).any(axis=1)
        assert changed.equals(~stayed)

    def test_rows_that_the_backbone_explains_stay_where_they_are(self):
        problem = plain_table(residual=np.zeros(60))
        result = refined(problem, tau=1e-9)
        pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)
        assert result.totals.status == {"within_gate": 60}
        assert result.totals.moved == 0
        assert result.totals.epochs == 1

    def test_a_row_moves_while_any_of_its_targets_is_outside(self):
        problem = mixed_table(targets=3)
        result = refined(problem, eta=0.01, tau=0.2, max_epochs=1)
        assert (result.rows["correction"] > 0).tolist() == (result.rows["residual_before"].abs() > 0.2).tolist()


class TestBounds:
    @pytest.mark.parametrize("share", [0.0, 0.1, 2.0])
    def test_cells_out_of_bounds_from_the_start_are_put_on_them_before_the_gate_is_asked(self, share, monkeypatch):
        monkeypatch.setattr(rows_loop, "COMPACT_AT", share)
        plain = plain_table(residual=np.zeros(60))
        schema = infer_schema(plain.frame, "y", bounds={"x0": (-1, 1)})
        backbone = fitted(plain.frame, schema, plain.backbone.module, standardise=False)
        within = plain.frame.assign(x0=plain.frame["x0"].clip(-1, 1))
        refining = Refining(eta=0.01, tau=0.05, max_epochs=300, device="cpu")
        found, expected = (refine(frame, backbone, refining) for frame in (plain.frame, within))
        beyond = within["x0"] != plain.frame["x0"]
        assert 10 < beyond.sum() < 50
        pd.testing.assert_frame_equal(found.frame, expected.frame, rtol=1e-12)
        pd.testing.assert_series_equal(found.rows["iterations"], expected.rows["iterations"])
        assert set(found.rows.loc[beyond, "status"]) == {"within_gate", "converged"}
        assert set(found.rows.loc[~beyond, "status"]) == {"within_gate"}
        assert (found.rows["residual_before"].abs() < 1e-12).all()
        assert (found.rows["residual_after"].abs() <= 0.05).all()
        assert found.rows["correction"].gt(0).tolist() == beyond.tolist()

    def test_a_bounded_cell_stops_there_and_the_others_go_on(self):
        plain = plain_table([1.0, 2.0], residual=np.full(60, 1.0))
        low = plain.frame["x1"].min() - 0.01
        schema = infer_schema(plain.frame, "y", bounds={"x1": (low, None)})
        backbone = fitted(plain.frame, schema, plain.backbone.module, standardise=False)
        result = refine(plain.frame, backbone, Refining(eta=0.01, tau=0.05, max_epochs=1000, device="cpu"))
        assert result.frame["x1"].min() == low
        assert result.totals.status == {"converged": 60}
        at = plain.frame["x1"].idxmin()
        free = (plain.frame - result.frame).drop(index=at)
        np.testing.assert_allclose(free["x1"], 2 * free["x0"], rtol=1e-9)
        assert plain.frame.loc[at, "x0"] - result.frame.loc[at, "x0"] > 2 * free["x0"].max()


class TestStatus:
    def test_rows_without_their_target_are_skipped(self):
        problem = mixed_table(targets=2, missing=True)
        result = refined(problem, eta=0.1, tau=0.2, max_epochs=5)
        lacking = problem.frame[["y0", "y1"]].isna().any(axis=1)
        assert lacking.sum() == 5
        assert (result.rows["status"] == "skipped").tolist() == lacking.tolist()
        assert result.rows.loc[lacking, "residual_before"].isna().all()
        pd.testing.assert_frame_equal(result.frame[lacking], problem.frame[lacking], check_exact=True)

    @pytest.mark.parametrize("share", [0.0, 0.1, 2.0])
    def test_a_vanishing_gradient_stalls_its_rows_and_nobody_else(self, share, monkeypatch):
        class Plateau(nn.Module):
            def __init__(self, line):
                super().__init__()
                self.line = line

            def forward(self, x):
                return torch.where(x[:, :1] < 0, 3.0, self.line(x))

        monkeypatch.setattr(rows_loop, "COMPACT_AT", share)
        problem = plain_table()
        flat = problem.frame["x0"] < -0.2
        flat &= (problem.frame["y"] - 3).abs() > 0.1
        backbone = fitted(problem.frame, problem.schema, Plateau(problem.backbone.module), standardise=False)
        result = refine(problem.frame, backbone, Refining(eta=0.01, refine_targets=False, device="cpu"))
        assert flat.sum() > 10
        assert (result.rows.loc[flat, "status"] == "stalled").all()
        assert (result.rows.loc[flat, ["iterations", "correction"]] == 0).all(axis=None)
        np.testing.assert_allclose(result.rows.loc[flat, "residual_after"], 3 - problem.frame.loc[flat, "y"])
        alone = refined(problem, eta=0.01, refine_targets=False)
        slope = (problem.frame["x0"] > 0.4) & (alone.frame["x0"] > 0)
        assert slope.sum() > 10
        pd.testing.assert_frame_equal(result.frame[slope], alone.frame[slope], rtol=1e-12)

    def test_when_all_that_is_left_has_stalled_it_ends(self):
        problem = plain_table()
        backbone = fitted(problem.frame, problem.schema, linear([0.0, 0.0, 0.0], bias=9.0), standardise=False)
        result = refine(problem.frame, backbone, Refining(eta=0.01, refine_targets=False, device="cpu"))
        assert result.totals.status == {"stalled": 60}
        assert result.totals.epochs == 1

    @pytest.mark.parametrize("eta", [0.01, "auto"])
    @pytest.mark.parametrize("hole", [float("nan"), float("inf")])
    def test_rows_where_the_backbone_fails_poison_nobody_else(self, eta, hole):
        class Holed(nn.Module):
            def __init__(self, line):
                super().__init__()
                self.line = line

            def forward(self, x):
                return self.line(x) * torch.where(x[:, :1] > 1.2, hole, 1.0)

        problem = plain_table()
        broken = problem.frame["x0"] > 1.2
        backbone = fitted(problem.frame, problem.schema, Holed(problem.backbone.module), standardise=False)
        result = refine(problem.frame, backbone, Refining(eta=eta, tau=0.2, max_epochs=1, device="cpu"))
        assert broken.sum() > 3
        assert (result.rows.loc[broken, "status"] == "stalled").all()
        pd.testing.assert_frame_equal(result.frame[broken], problem.frame[broken], check_exact=True)
        assert result.totals.eta == pytest.approx(0.01 if eta == 0.01 else 0.2 / np.sqrt(1 + 4 + 0.25 + 1))
        alone = refined(problem, eta=result.totals.eta, tau=0.2, max_epochs=1)
        pd.testing.assert_frame_equal(result.frame[~broken], alone.frame[~broken], rtol=1e-12)
        pd.testing.assert_frame_equal(result.rows[~broken], alone.rows[~broken], rtol=1e-12)

    def test_all_of_them_are_counted_in_the_totals(self):
        problem = mixed_table(targets=2, missing=True)
        result = refined(problem, eta=0.1, tau=0.2, max_epochs=8)
        assert result.totals.status == result.rows["status"].value_counts()[lambda n: n > 0].to_dict()
        assert sum(result.totals.status.values()) == result.totals.rows == len(problem.frame)
        assert result.totals.moved == (result.rows["correction"] > 0).sum()
