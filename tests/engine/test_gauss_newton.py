"""The nearest consistent point, against numpy's projection onto the plane that a linear backbone describes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.backbones import build
from denograd_engine.criteria import criterion
from denograd_engine.local import Cells, Local
from denograd_engine.refinement import Refining, refine
from denograd_engine.rules import gauss_newton, rule
from denograd_engine.schema import infer_schema
from tests.engine.problems import (
    Linear,
    encoded_by_hand,
    fitted,
    known_windows,
    linear,
    mixed_series,
    mixed_table,
    plain_table,
)


@pytest.fixture(autouse=True)
def however_far(request, monkeypatch):
    """Random planes pass far from random rows: the closed forms hold for them too."""
    if "noise_explains" not in request.node.name:
        monkeypatch.setattr(gauss_newton, "FURTHEST", float("inf"))


def refined(problem, arguments=None, **refining):
    given = {"rule": "gauss_newton", "device": "cpu", "tau": 1e-6, **refining}
    return refine(problem.frame, problem.backbone, Refining(arguments=arguments or {}, **given))


def declared(problem, noise):
    """The same with a declared noise."""
    targets, ignored = problem.schema.targets, problem.schema.names("ignored")
    schema = infer_schema(problem.frame, targets, ignored=ignored, series=problem.schema.series, noise=noise)
    return Linear(problem.frame, schema, fitted(problem.frame, schema, problem.backbone.module), problem.runs)


def nearest(problem, noise, refine_targets=True):
    """Row by row, standardised: the point of the backbone's plane with the least (z - z0)' S^-1 (z - z0)."""
    cells, movable, context = encoded_by_hand(problem)
    schema, spreads = problem.schema, problem.backbone.encoder.spreads
    sigma = np.array([noise.get(name, spread) for name, spread in zip(schema.cells, spreads, strict=True)]) / spreads
    features, found = len(schema.features), cells.copy()
    if not refine_targets:
        movable[:, features:] = False
    for row in np.flatnonzero(problem.frame[schema.targets].notna().all(axis=1)):
        free = movable[row]
        jacobian = np.concatenate([problem.weight[:, :features], -np.eye(len(problem.weight))], axis=1)[:, free]
        r = (
            problem.weight @ np.concatenate([cells[row, :features], context[row]])
            + problem.bias
            - cells[row, features:]
        )
        in_noise, *_ = np.linalg.lstsq(jacobian * sigma[free], -r, rcond=1e-12)
        found[row, free] += sigma[free] * in_noise
    return cells, found


def standardised(problem, frame):
    centers = [scale.center for scale in problem.backbone.encoder.scales]
    return (frame[problem.schema.cells].to_numpy(dtype=float) - centers) / problem.backbone.encoder.spreads


NOISE = {"speed": 0.2, "pressure": 12.0, "y0": 0.7}


class TestNearestPoint:
    @pytest.mark.parametrize("refine_targets", [True, False])
    @pytest.mark.parametrize("noise", [{}, NOISE], ids=["alike", "declared"])
    @pytest.mark.parametrize("case", [{}, {"targets": 3}, {"targets": 2, "missing": True}, {"frozen_target": True}])
    def test_is_reached_in_one_whole_step(self, case, noise, refine_targets):
        problem = declared(mixed_table(**case), noise)
        result = refined(problem, eta=1.0, max_epochs=2, refine_targets=refine_targets)
        cells, expected = nearest(problem, noise, refine_targets)
        present = problem.frame[problem.schema.cells].notna().to_numpy()
        found = standardised(problem, result.frame)
        np.testing.assert_allclose(found[present], expected[present], atol=1e-9)
        assert (np.abs(expected - cells).max(axis=1) > 0.01).mean() > 0.8
        ended = result.rows["status"].value_counts()
        assert ended["converged"] + ended["skipped"] == len(problem.frame)
        assert result.rows["iterations"].max() == 1
        untouched = problem.schema.untouched
        pd.testing.assert_frame_equal(result.frame[untouched], problem.frame[untouched], check_exact=True)

    @pytest.mark.parametrize("eta", [0.3, 0.5])
    def test_is_approached_by_a_fraction_of_the_way_at_each_step(self, eta):
        problem = declared(mixed_table(targets=2), NOISE)
        cells, expected = nearest(problem, NOISE)
        for epochs in (1, 4):
            found = standardised(problem, refined(problem, eta=eta, max_epochs=epochs).frame)
            np.testing.assert_allclose(found, expected + (1 - eta) ** epochs * (cells - expected), atol=1e-9)

    def test_a_step_is_half_of_the_way_unless_told_otherwise(self):
        problem = mixed_table()
        assert refined(problem, max_epochs=1).totals.eta == 0.5

    def test_does_not_go_beyond_the_gate(self):
        problem = plain_table([1.0, 2.0], residual=np.concatenate([np.full(30, 0.2), np.full(30, 1.0)]))
        result = refined(problem, tau=0.3, eta=0.5)
        assert result.rows["status"].tolist() == ["within_gate"] * 30 + ["converged"] * 30
        pd.testing.assert_frame_equal(result.frame[:30], problem.frame[:30], check_exact=True)
        assert result.rows["iterations"].tolist() == [0] * 30 + [2] * 30
        np.testing.assert_allclose(result.rows["residual_after"][30:], 0.25)

    def test_contradictory_targets_end_at_the_least_sum_of_squares(self):
        random = np.random.default_rng(4)
        frame = pd.DataFrame(random.normal(size=(60, 3)), columns=["x", "y0", "y1"])
        schema = infer_schema(frame, ["y0", "y1"])
        backbone = fitted(frame, schema, linear([[1.0], [2.0]]), standardise=False)
        problem = Linear(frame, schema, backbone)
        result = refined(problem, eta=1.0, max_epochs=3, refine_targets=False)
        best = (frame["y0"] + 2 * frame["y1"]) / 5
        np.testing.assert_allclose(result.frame["x"], best, atol=1e-9)
        pd.testing.assert_frame_equal(result.frame[["y0", "y1"]], frame[["y0", "y1"]], check_exact=True)
        assert set(result.rows["status"]) == {"max_epochs"}

    def test_two_targets_that_say_the_same_count_once(self):
        frame = plain_table().frame
        frame = frame.assign(y1=frame["y"])
        schema = infer_schema(frame, ["y", "y1"])
        twice = Linear(frame, schema, fitted(frame, schema, linear([[1.0, 2.0, -0.5]] * 2), standardise=False))
        once = plain_table()
        found = refined(twice, eta=1.0, refine_targets=False).frame
        expected = refined(once, eta=1.0, refine_targets=False).frame
        np.testing.assert_allclose(found[["x0", "x1", "x2"]], expected[["x0", "x1", "x2"]], atol=1e-9)

    @pytest.mark.parametrize("anchored", [True, False])
    def test_bounded_cells_stop_at_their_bound(self, anchored):
        plain = plain_table([1.0, 2.0], residual=np.full(60, 1.0))
        low = plain.frame["x1"].median()
        schema = infer_schema(plain.frame, "y", bounds={"x1": (low, None)})
        problem = Linear(plain.frame, schema, fitted(plain.frame, schema, plain.backbone.module, standardise=False))
        result = refined(problem, {"anchored": anchored}, tau=1e-3, max_epochs=200)
        assert result.frame["x1"].min() == low
        free = plain.frame["x1"] > low + 0.5
        assert 10 < free.sum() < 30
        _, expected = nearest(problem, {})
        np.testing.assert_allclose(result.frame[free], expected[free], atol=1e-3)
        assert (result.rows.loc[free, "status"] == "converged").all()
        if not anchored:
            assert result.totals.status == {"converged": 60}


class TestUnanchored:
    def test_each_step_goes_along_the_slope_where_the_row_is(self):
        torch.manual_seed(2)
        module = build("mlp", (3,), 2, {"hidden": (8,), "dropout": 0.0}).double().eval()
        x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
        weight_x, weight_y = torch.rand(5, 3).double(), torch.rand(5, 2).double()
        gone_x, gone_y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
        for anchored in (True, False):
            chosen = rule("gauss_newton", 0.4, {"anchored": anchored})
            cells = Cells(x, y, weight_x, weight_y, *((gone_x, gone_y) if anchored else (None, None)))
            step = chosen.step(Local(module, criterion("mse"), cells, 0.0))
            for at in range(5):
                by_x = torch.autograd.functional.jacobian(lambda one: module(one[None])[0], x[at]).numpy()
                jacobian = np.concatenate([by_x, -np.eye(2)], axis=1)
                back = np.concatenate([gone_x[at], gone_y[at]]) * anchored
                covariance = np.diag(np.concatenate([weight_x[at], weight_y[at]]))
                r = (module(x[at : at + 1])[0] - y[at]).detach().numpy()
                force = np.linalg.pinv(jacobian @ covariance @ jacobian.T) @ (r + jacobian @ back)
                expected = 0.4 * (back - covariance @ jacobian.T @ force)
                np.testing.assert_allclose(np.concatenate([step.x[at], step.y[at]]), expected, atol=1e-12)

    def test_for_a_linear_backbone_it_ends_where_the_anchored_one_does(self):
        problem = declared(mixed_table(targets=2), NOISE)
        found = [refined(problem, {"anchored": anchored}, tau=1e-9).frame for anchored in (True, False)]
        np.testing.assert_allclose(standardised(problem, found[0]), standardised(problem, found[1]), atol=1e-7)

    def test_for_a_curved_one_the_anchored_one_stays_nearer(self):
        class Bent(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

            def forward(self, x):
                return self.scale * (x[:, :1] ** 2 + x[:, 1:] ** 2)

        frame = plain_table([1.0, 2.0]).frame
        schema = infer_schema(frame, "y")
        problem = Linear(frame, schema, fitted(frame, schema, Bent(), standardise=False))
        found = {a: refined(problem, {"anchored": a}, tau=1e-7, max_epochs=500, eta=0.2) for a in (True, False)}
        converged = (found[True].rows["status"] == "converged") & (found[False].rows["status"] == "converged")
        assert converged.sum() > 50
        anchored, unanchored = (found[a].rows.loc[converged, "correction"] for a in (True, False))
        assert (anchored <= unanchored + 1e-6).all()
        assert (anchored < unanchored - 1e-4).any()


class TestStalled:
    @pytest.mark.parametrize("anchored", [True, False])
    def test_where_the_nearest_point_is_further_than_noise_explains(self, anchored):
        residual = np.concatenate([np.full(30, 9.9), np.full(30, 10.1)])
        plain = plain_table([1.0, 0.0], residual=residual)
        schema = infer_schema(plain.frame, "y", features=["x0", "x1"], noise={"x0": 1.0})
        backbone = fitted(plain.frame, schema, plain.backbone.module, standardise=False)
        problem = Linear(plain.frame, schema, backbone)
        result = refined(problem, {"anchored": anchored}, eta=1.0, max_epochs=2, refine_targets=False)
        assert result.rows["status"].tolist() == ["converged"] * 30 + ["stalled"] * 30
        pd.testing.assert_frame_equal(result.frame[30:], plain.frame[30:], check_exact=True)

    def test_where_no_cell_that_may_move_changes_the_prediction(self):
        problem = plain_table()
        backbone = fitted(problem.frame, problem.schema, linear([0.0, 0.0, 0.0], bias=9.0), standardise=False)
        result = refined(Linear(problem.frame, problem.schema, backbone), refine_targets=False)
        assert result.totals.status == {"stalled": 60}
        pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)

    @pytest.mark.parametrize("hole", [float("nan"), float("inf")])
    def test_where_the_backbone_fails_and_nobody_else(self, hole):
        class Holed(nn.Module):
            def __init__(self, line):
                super().__init__()
                self.line = line

            def forward(self, x):
                return self.line(x) * torch.where(x[:, :1] > 1.2, hole, 1.0)

        problem = plain_table()
        broken = problem.frame["x0"] > 1.2
        backbone = fitted(problem.frame, problem.schema, Holed(problem.backbone.module), standardise=False)
        result = refined(Linear(problem.frame, problem.schema, backbone), tau=0.1, max_epochs=1)
        assert broken.sum() > 3
        assert (result.rows.loc[broken, "status"] == "stalled").all()
        pd.testing.assert_frame_equal(result.frame[broken], problem.frame[broken], check_exact=True)
        alone = refined(problem, tau=0.1, max_epochs=1)
        pd.testing.assert_frame_equal(result.frame[~broken], alone.frame[~broken], rtol=1e-12)


class TestSeries:
    @pytest.mark.parametrize("anchored", [None, False, True])
    @pytest.mark.parametrize(
        "case", [{}, {"targets": 2, "entities": 2, "gap": True}, {"missing": True}, {"future": (1, 3)}]
    )
    def test_a_cell_moves_by_the_mean_over_the_windows_that_ask_it_to(self, case, anchored):
        noise = {"wind": 0.5, "power0": 2.0}
        problem = declared(mixed_series(**case), noise)
        tau, eta, epochs = 0.4, 0.5, 4
        result = refined(
            problem, {} if anchored is None else {"anchored": anchored}, tau=tau, eta=eta, max_epochs=epochs
        )
        cells, movable, context = encoded_by_hand(problem)
        spreads = problem.backbone.encoder.spreads
        sigma = np.array([noise.get(name, 0.0) for name in problem.schema.cells]) / spreads
        sigma[sigma == 0] = 1.0
        covariance = movable * sigma**2
        width, targets = cells.shape[1], [problem.schema.cells.index(name) for name in problem.schema.targets]
        moved = cells.copy()
        for _ in range(epochs):
            asked, visits = np.zeros_like(cells), np.zeros_like(cells)
            for covered, ahead in known_windows(problem):
                # every place in x and y is a cell of its own, as in the window that the backbone reads
                at = [(row, column) for row in covered for column in range(width)]
                at += [(row, column) for row in ahead for column in targets]
                rows, columns = map(np.array, zip(*at, strict=True))
                by_x = problem.weight.reshape(len(problem.weight), len(covered), -1)
                jacobian = np.concatenate([by_x[:, :, :width].reshape(len(by_x), -1), -np.eye(len(by_x))], axis=1)
                x = np.concatenate([np.concatenate([moved[row], context[row]]) for row in covered])
                r = problem.weight @ x + problem.bias - moved[np.ix_(ahead, targets)].ravel()
                if np.abs(r).max() <= tau:
                    continue
                back = (cells - moved)[rows, columns] * bool(anchored)
                S = covariance[rows, columns]
                force = np.linalg.pinv((jacobian * S) @ jacobian.T) @ (r + jacobian @ back)
                np.add.at(asked, (rows, columns), eta * (back - S * (jacobian.T @ force)))
                np.add.at(visits, (rows, columns), 1)
            moved += asked / np.maximum(visits, 1)
        present = problem.frame[problem.schema.cells].notna().to_numpy()
        np.testing.assert_allclose(standardised(problem, result.frame)[present], moved[present], atol=1e-9)
        assert np.abs(moved - cells).max() > 0.1
