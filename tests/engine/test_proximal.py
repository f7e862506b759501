"""One objective for everything: closed forms in tables, normal equations of whole series."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.backbones import build
from denograd_engine.errors import ConfigError
from denograd_engine.refinement import Refining, refine
from denograd_engine.rules import proximal, rule
from denograd_engine.schema import infer_schema
from tests.engine.problems import (
    Linear,
    encoded_by_hand,
    fitted,
    known_windows,
    mixed_series,
    mixed_table,
    plain_table,
    shown,
)

S2 = 0.3
NOISE = {"speed": 0.4, "pressure": 12.0, "y0": 0.9, "wind": 1.5, "power0": 4.0}


@pytest.fixture
def to_the_end(monkeypatch):
    """The search goes on until no cell is pushed any more."""
    monkeypatch.setattr(proximal, "SETTLED", 1e-5)


def refined(problem, s2=S2, **refining):
    given = {"rule": "proximal", "arguments": {"s2": s2}, "tau": 1e-9, "max_epochs": 5000, "device": "cpu"}
    given |= refining
    return refine(problem.frame, problem.backbone, Refining(**given))


def declared(problem, noise=NOISE, **more):
    """The same with a declared noise."""
    schema = problem.schema
    noise = {name: size for name, size in noise.items() if name in schema.cells}
    given = {"ignored": schema.names("ignored"), "series": schema.series, "noise": noise, **more}
    schema = infer_schema(problem.frame, schema.targets, **given)
    return Linear(problem.frame, schema, fitted(problem.frame, schema, problem.backbone.module), problem.runs)


def sigma_of(problem):
    columns = [problem.schema[name] for name in problem.schema.cells]
    spreads = problem.backbone.encoder.spreads
    return np.array([1.0 if c.noise is None else c.noise / s for c, s in zip(columns, spreads, strict=True)])


def standardised(problem, frame):
    centers = [scale.center for scale in problem.backbone.encoder.scales]
    return (frame[problem.schema.cells].to_numpy(dtype=float) - centers) / problem.backbone.encoder.spreads


def system(problem, refine_targets=True):
    """Residuals as A z + b over all cells of the table or series, and the standard deviation of each cell's noise."""
    cells, movable, context = encoded_by_hand(problem)
    schema, width = problem.schema, cells.shape[1]
    targets = list(range(len(schema.features), width))
    if not refine_targets:
        movable[:, targets] = False
    if schema.series is None:
        inputs = len(schema.features)
        known = np.flatnonzero(problem.frame[schema.targets].notna().all(axis=1))
        items = [((row,), (row,)) for row in known]
    else:
        inputs, items = shown(schema), known_windows(problem)
    A, b = [], []
    for covered, ahead in items:
        outputs = [(row, column) for row in ahead for column in targets]
        pieces = problem.weight.reshape(len(outputs), len(covered), -1)
        for at, (row, column) in enumerate(outputs):
            line = np.zeros_like(cells)
            for piece, one in zip(pieces[at], covered, strict=True):
                line[one, :inputs] += piece[:inputs]
            line[row, column] -= 1.0
            A.append(line.ravel())
            b.append(
                problem.bias[at] + sum(p[inputs:] @ context[one] for p, one in zip(pieces[at], covered, strict=True))
            )
    return np.array(A), np.array(b), cells, (movable * sigma_of(problem)).ravel()


def minimum(problem, s2=S2, refine_targets=True, pulling=None):
    """The cells z of least |A z + b|^2 / s2 + sum ((z - z0) / sigma)^2, by its normal equations."""
    A, b, cells, sigma = system(problem, refine_targets)
    if pulling is not None:
        A, b = A[pulling], b[pulling]
    B, r = A * sigma, A @ cells.ravel() + b
    way = -np.linalg.solve(B.T @ B / s2 + np.eye(len(sigma)), B.T @ r / s2)
    return cells + (sigma * way).reshape(cells.shape)


def assert_reached(problem, result, expected, tolerance=1e-4):
    """To a ten thousandth of the noise."""
    present = problem.frame[problem.schema.cells].notna().to_numpy()
    found = standardised(problem, result.frame)
    away = np.abs(found - expected) / sigma_of(problem)
    assert away[present].max() < tolerance
    cells, *_ = encoded_by_hand(problem)
    assert (np.abs(expected - cells) / sigma_of(problem))[present].max() > 0.3
    untouched = problem.schema.untouched
    pd.testing.assert_frame_equal(result.frame[untouched], problem.frame[untouched], check_exact=True)


@pytest.mark.usefixtures("to_the_end")
class TestTables:
    @pytest.mark.parametrize("refine_targets", [True, False])
    @pytest.mark.parametrize(
        "case", [{}, {"targets": 3}, {"targets": 2, "missing": True}, {"frozen_target": True, "missing": True}]
    )
    def test_rows_go_where_fit_and_noise_balance(self, case, refine_targets):
        problem = declared(mixed_table(**case))
        result = refined(problem, refine_targets=refine_targets)
        assert_reached(problem, result, minimum(problem, refine_targets=refine_targets))
        assert set(result.totals.status) <= {"converged", "skipped"}

    def test_one_target_in_closed_form(self):
        problem = plain_table([1.0, 2.0, -0.5])
        slope = np.array([1.0, 2.0, -0.5, -1.0])
        z0 = problem.frame[["x0", "x1", "x2", "y"]].to_numpy()
        expected = z0 - np.outer(z0 @ slope / (slope @ slope + S2), slope)
        assert_reached(problem, refined(problem), expected)

    @pytest.mark.parametrize("s2", [0.01, 5.0])
    def test_a_poorer_backbone_moves_less(self, s2):
        problem = plain_table()
        assert_reached(problem, refined(problem, s2), minimum(problem, s2), tolerance=1e-3)

    def test_s2_is_the_held_out_squared_residual_unless_told_otherwise(self):
        problem = plain_table()
        judged = replace(problem, backbone=replace(problem.backbone, residual_scale=1.7))
        result = refined(judged, arguments={})
        assert_reached(problem, result, minimum(problem, 1.7**2))

    @pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
    def test_s2_is_one_where_that_is_not_known(self, scale):
        problem = plain_table()
        result = refined(replace(problem, backbone=replace(problem.backbone, residual_scale=scale)), arguments={})
        assert_reached(problem, result, minimum(problem, 1.0))

    def test_no_other_criterion_reaches_further_down(self):
        torch.manual_seed(4)
        problem = plain_table()
        module = build("mlp", (3,), 1, {"hidden": (8,), "dropout": 0.0}).double().eval()
        for name in ("mse", "huber"):
            backbone = replace(problem.backbone, module=module, criterion=name)
            criterion, z0 = backbone.loss, torch.tensor(problem.frame.to_numpy())

            def objective(z, criterion=criterion, z0=z0):
                return criterion.loss(module(z[:, :3]), z[:, 3:]) / S2 + (z - z0).square().sum(dim=1)

            found = refined(replace(problem, backbone=backbone), eta=0.05).frame
            z = torch.tensor(found.to_numpy(), requires_grad=True)
            slope = torch.autograd.grad(objective(z).sum(), z)[0]
            assert slope.abs().max() < 1e-3
            assert (objective(z) < objective(z0) + 1e-6).all()

    def test_the_objective_falls(self):
        problem = declared(mixed_table(targets=2))
        A, b, cells, sigma = system(problem)

        def objective(z):
            return ((A @ z.ravel() + b) ** 2).sum() / S2 + (
                ((z - cells).ravel() / np.where(sigma, sigma, 1)) ** 2
            ).sum()

        reached = [objective(standardised(problem, refined(problem, max_epochs=n).frame)) for n in (3, 6, 25, 125)]
        assert objective(cells) > reached[0]
        assert reached == sorted(reached, reverse=True)
        assert reached[-1] == pytest.approx(objective(minimum(problem)), rel=0.01)


@pytest.mark.usefixtures("to_the_end")
class TestSeries:
    @pytest.mark.parametrize(
        "case",
        [
            {},
            {"targets": 2},
            {"missing": True},
            {"entities": 2, "gap": True, "stride": 2, "steps": 90},
            {"future": (1, 3), "targets": 2, "missing": True},
            {"targets_as_inputs": False, "future": 2},
        ],
    )
    def test_the_whole_series_goes_to_the_minimum_of_its_quadratic(self, case):
        problem = declared(mixed_series(**case))
        assert_reached(problem, refined(problem), minimum(problem))

    def test_targets_that_stay_do_so_in_both_roles(self):
        problem = declared(mixed_series(targets=2))
        result = refined(problem, refine_targets=False)
        assert_reached(problem, result, minimum(problem, refine_targets=False))
        targets = problem.schema.targets
        pd.testing.assert_frame_equal(result.frame[targets], problem.frame[targets], check_exact=True)

    def test_batches_do_not_matter(self):
        problem = mixed_series(targets=2, entities=2, gap=True, missing=True)
        found = [refined(problem, max_epochs=20, batch_size=size).frame[problem.schema.cells] for size in (1, 7, 1000)]
        np.testing.assert_allclose(found[0], found[1], atol=1e-9)
        np.testing.assert_allclose(found[0], found[2], atol=1e-9)


@pytest.mark.usefixtures("to_the_end")
class TestGate:
    def test_items_within_it_at_the_start_exert_no_pull(self):
        problem, tau = mixed_series(targets=2), 1.0
        A, b, cells, _ = system(problem)
        r = (A @ cells.ravel() + b).reshape(-1, 2)
        outside = np.abs(r).max(axis=1) > tau
        assert 10 < outside.sum() < len(outside) - 10
        result = refined(problem, tau=tau)
        assert_reached(problem, result, minimum(problem, pulling=np.repeat(outside, 2)))
        ended = ["skipped"] * 4 + np.where(outside, "converged", "within_gate").tolist()
        assert result.rows["status"].tolist() == ended
        assert (result.rows["iterations"][4:] > 0).tolist() == outside.tolist()

    def test_rows_within_it_are_bit_identical(self):
        problem = mixed_table()
        result = refined(problem, tau=0.5)
        stayed = result.rows["status"] == "within_gate"
        assert 5 < stayed.sum() < 60
        pd.testing.assert_frame_equal(result.frame[stayed], problem.frame[stayed], check_exact=True)
        assert (result.rows.loc[~stayed, "correction"] > 0).all()

    def test_where_all_are_within_it_nothing_is_done(self):
        problem = plain_table(residual=np.zeros(60))
        result = refined(problem)
        assert (result.totals.epochs, result.totals.status) == (0, {"within_gate": 60})
        pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)


@pytest.mark.usefixtures("to_the_end")
class TestBounds:
    @pytest.mark.parametrize("problem", [plain_table(), mixed_series()], ids=["table", "series"])
    def test_are_held_and_the_free_cells_make_the_best_of_it(self, problem):
        name = problem.schema.features[0]
        low, high = np.quantile(problem.frame[name], [0.2, 0.8])
        bounded = declared(problem, bounds={name: (low, high)})
        result = refined(bounded)
        assert result.frame[name].min() == low
        assert result.frame[name].max() == high
        A, b, cells, sigma = system(bounded)
        z = standardised(bounded, result.frame)
        slope = sigma * (2 * A.T @ (A @ z.ravel() + b) / S2) + 2 * ((z - cells).ravel() / sigma)
        slope = slope.reshape(z.shape)
        at_low, at_high = np.isclose(result.frame[name], low), np.isclose(result.frame[name], high)
        held = at_low | at_high
        assert 5 < held.sum() < len(held) - 5
        assert np.abs(slope[:, 1:]).max() < 0.05
        assert np.abs(slope[~held, 0]).max() < 0.05
        assert slope[at_low, 0].min() > -0.05
        assert slope[at_high, 0].max() < 0.05


class TestInterruption:
    def test_a_deadline_that_has_passed_changes_nothing(self):
        problem = mixed_series()
        result = refined(problem, deadline=0.0)
        pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)
        assert result.totals.interrupted
        assert set(result.rows["status"]) == {"skipped", "interrupted"}

    @pytest.mark.parametrize(("asked", "epochs"), [(6, 0), (7, 1), (20, 2)])
    def test_an_epoch_that_was_cut_short_changes_nothing(self, asked, epochs):
        problem, turns, seen = mixed_series(), iter(range(1000)), []
        refining = Refining(rule="proximal", arguments={"s2": S2}, tau=1e-9, batch_size=10, max_epochs=10, device="cpu")
        result = refine(problem.frame, problem.backbone, refining, seen.append, cancelled=lambda: next(turns) >= asked)
        assert result.totals.epochs == epochs == len(seen)
        assert [one.share for one in seen] == [0.1, 0.2][:epochs]
        expected = refined(problem, max_epochs=max(1, epochs)).frame if epochs else problem.frame
        cells = problem.schema.cells
        np.testing.assert_allclose(result.frame[cells], expected[cells], rtol=1e-12)
        assert set(result.rows["status"]) == {"skipped", "interrupted"}

    def test_progress_ends_at_one_when_it_has_settled(self):
        problem, seen = plain_table(), []
        refining = Refining(rule="proximal", arguments={"s2": S2}, max_epochs=3000, device="cpu")
        result = refine(problem.frame, problem.backbone, refining, seen.append)
        assert result.totals.epochs == len(seen) < 3000
        shares = [one.share for one in seen]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert shares[-2] < 0.9


class TestBrokenItems:
    def test_a_row_where_the_backbone_fails_stays_and_poisons_nobody(self):
        class Holed(nn.Module):
            def __init__(self, line):
                super().__init__()
                self.line = line

            def forward(self, x):
                return self.line(x) * torch.where(x[:, :1] > 1.2, torch.nan, 1.0)

        problem = plain_table([1e-3, 2.0, -0.5])
        broken = problem.frame["x0"] > 1.2
        backbone = fitted(problem.frame, problem.schema, Holed(problem.backbone.module), standardise=False)
        result = refined(replace(problem, backbone=backbone), max_epochs=50)
        assert broken.sum() > 3
        assert (result.rows["status"] == "stalled").tolist() == broken.tolist()
        pd.testing.assert_frame_equal(result.frame[broken], problem.frame[broken], check_exact=True)
        alone = refined(problem, max_epochs=50)
        pd.testing.assert_frame_equal(result.frame[~broken], alone.frame[~broken], rtol=1e-9)


@pytest.mark.parametrize("s2", [0.0, -1.0, float("nan")])
def test_s2_must_be_positive(s2):
    with pytest.raises(ConfigError, match="s2 must be positive") as caught:
        rule("proximal", arguments={"s2": s2})
    assert caught.value.where == "refine.arguments.s2"


def test_the_first_epoch_only_looks():
    problem = plain_table()
    result = refined(problem, max_epochs=1)
    assert result.totals.eta == 1.0
    pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)
    assert refined(problem, max_epochs=2).totals.moved == 60


@pytest.mark.parametrize("problem", [mixed_table(targets=3), mixed_series(targets=2)], ids=["table", "series"])
def test_it_settles_at_a_hundredth_of_the_noise(problem):
    result = refined(problem)
    assert result.totals.epochs < 300
    assert "converged" in result.totals.status
    assert_reached(problem, result, minimum(problem), tolerance=1e-2)
