"""Networks that read a whole series at once come to what they would come to window by window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine import windows_loop
from denograd_engine.backbones import build
from denograd_engine.problem import pose
from denograd_engine.refinement import Refining, refine
from denograd_engine.rules import proximal
from denograd_engine.scan import ConstantGradient
from denograd_engine.schema import infer_schema
from tests.engine.problems import fitted, mixed_series, shown

CPU = torch.device("cpu")


class Plain(nn.Module):
    """The same network without what it offers beside `forward`."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


class Counted(nn.Module):
    """Offers the same, and counts what it is asked."""

    def __init__(self, network):
        super().__init__()
        self.network, self.linear = network, getattr(network, "linear", False)
        self.scanned = self.windows = 0

    def forward(self, x):
        if torch.is_grad_enabled() and x.requires_grad:
            self.windows += len(x)
        return self.network(x)

    def scan(self, steps, starts):
        self.scanned += len(starts)
        return self.network.scan(steps, starts)


def read_by(kind, arguments=None, without_context=False, **case):
    """A series and a network of this kind that reads it, untrained, in double precision."""
    problem = mixed_series(**case)
    if without_context:
        frame = problem.frame.drop(columns=["mode", "site"])
        schema = infer_schema(frame, problem.schema.targets, series=problem.schema.series)
        encoder = type(problem.backbone.encoder).fit(frame, schema)
        problem = replace(problem, frame=frame, schema=schema, backbone=replace(problem.backbone, encoder=encoder))
    width = shown(problem.schema) + problem.backbone.encoder.context_width
    torch.manual_seed(7)
    network = build(kind, (problem.schema.series.window, width), len(problem.schema.outputs), arguments).double()
    for weight in network.parameters():
        weight.data.mul_(3.0)
    return replace(problem, backbone=replace(problem.backbone, module=network))


def both(problem, **refining):
    """Refined as it offers itself, and window by window."""
    given = Refining(**{"device": "cpu", "tau": 0.3, "max_epochs": 10, **refining})
    plain = replace(problem.backbone, module=Plain(problem.backbone.module))
    counted = replace(problem.backbone, module=Counted(problem.backbone.module))
    return refine(problem.frame, counted, given), refine(problem.frame, plain, given), counted.module


def assert_same(found, expected, problem, fewest=30, atol=1e-9):
    cells = problem.schema.cells
    np.testing.assert_allclose(found.frame[cells], expected.frame[cells], rtol=0, atol=atol)
    assert found.rows["status"].tolist() == expected.rows["status"].tolist()
    assert found.rows["iterations"].tolist() == expected.rows["iterations"].tolist()
    np.testing.assert_allclose(found.rows["residual_before"], expected.rows["residual_before"], atol=atol)
    np.testing.assert_allclose(found.rows["residual_after"], expected.rows["residual_after"], atol=atol)
    assert found.totals.eta == pytest.approx(expected.totals.eta)
    assert found.totals.epochs == expected.totals.epochs
    assert found.totals.moved > fewest


CASES = [
    {},
    {"without_context": True},
    {"targets": 3},
    {"future": (1, 3), "targets": 2},
    {"targets_as_inputs": False},
    {"stride": 2, "steps": 130},
    {"entities": 3, "gap": True, "targets": 2},
]


class TestConstantGradient:
    @pytest.mark.parametrize("refine_targets", [True, False])
    @pytest.mark.parametrize("eta", ["auto", 0.3])
    @pytest.mark.parametrize("case", CASES)
    def test_comes_to_the_same_as_window_by_window(self, case, eta, refine_targets):
        problem = read_by("dlinear", window=6, **case)
        found, expected, network = both(problem, eta=eta, refine_targets=refine_targets)
        assert_same(found, expected, problem)
        assert len(set(expected.rows["status"])) >= 3 or eta == "auto"
        assert network.scanned > 100

    @pytest.mark.parametrize("criterion", ["l1", "huber"])
    def test_for_every_criterion(self, criterion):
        problem = read_by("dlinear", window=6, targets=2)
        problem = replace(problem, backbone=replace(problem.backbone, criterion=criterion))
        found, expected, network = both(problem, eta=0.3)
        assert_same(found, expected, problem)
        assert network.scanned > 100

    def test_where_one_of_the_targets_stays(self):
        problem = mixed_series(targets=2, window=6, future=(1, 3))
        frame = problem.frame.assign(power0=problem.frame["power0"].round(-1))
        schema = infer_schema(frame, ["power0", "power1"], ignored=["site"], series=problem.schema.series)
        assert schema.refined == ["wind", "power1"]
        module = read_by("dlinear", targets=2, window=6, future=(1, 3)).backbone.module
        problem = replace(problem, frame=frame, schema=schema, backbone=fitted(frame, schema, module))
        found, expected, network = both(problem, eta=0.3)
        assert_same(found, expected, problem)
        assert network.scanned > 100
        pd.testing.assert_series_equal(found.frame["power0"], frame["power0"], check_exact=True)

    def test_most_windows_may_sleep(self):
        problem = read_by("dlinear", window=6)
        before = refine(problem.frame, problem.backbone, Refining(max_epochs=1, device="cpu")).rows["residual_before"]
        tau = float(before.abs().quantile(0.95))
        found, expected, _ = both(problem, eta=0.3, tau=tau, max_epochs=30)
        assert_same(found, expected, problem, fewest=3)
        assert found.totals.moved < 70
        assert expected.totals.status["within_gate"] > 40

    @pytest.mark.parametrize("batch_size", [1, 7])
    def test_does_not_depend_on_how_many_windows_go_into_a_pass(self, monkeypatch, batch_size):
        problem = read_by("dlinear", window=6, targets=2, entities=2, gap=True)
        found = both(problem, eta=0.3)[0]
        monkeypatch.setattr(windows_loop, "SCANNED_LINEAR", batch_size)
        assert_same(both(problem, eta=0.3, batch_size=batch_size)[0], found, problem)

    def test_with_bounds(self):
        problem = read_by("dlinear", window=6)
        schema = infer_schema(
            problem.frame,
            "power0",
            ignored=["site"],
            series=problem.schema.series,
            bounds={"wind": (3.0, 7.0), "power0": (None, 25.0)},
        )
        backbone = replace(problem.backbone, encoder=replace(problem.backbone.encoder, schema=schema))
        problem = replace(problem, schema=schema, backbone=backbone)
        found, expected, _ = both(problem, eta=0.3)
        assert_same(found, expected, problem)
        assert found.frame["wind"].between(3.0, 7.0).all()

    def test_single_missing_cells_are_asked_window_by_window(self):
        problem = read_by("dlinear", window=6, missing=True, targets=2)
        found, expected, network = both(problem, eta=0.3)
        assert_same(found, expected, problem)
        assert network.scanned == 0
        tensors = pose(problem.frame, problem.backbone.encoder, CPU, torch.float64)
        assert ConstantGradient.of(problem.backbone.module, tensors) is None

    def test_so_are_windows_as_one_row_of_numbers_and_other_rules(self):
        problem = read_by("dlinear", window=6)
        tensors = pose(problem.frame, problem.backbone.encoder, CPU, torch.float64)
        assert ConstantGradient.of(problem.backbone.module, tensors) is not None
        assert ConstantGradient.of(problem.backbone.module, replace(tensors, flatten=True)) is None
        assert ConstantGradient.of(Plain(problem.backbone.module), tensors) is None
        found, expected, network = both(problem, rule="gauss_newton")
        assert_same(found, expected, problem)
        assert network.scanned == 0

    def test_targets_that_nothing_explains_stall(self):
        problem = read_by("dlinear", window=6, without_context=True)
        for weight in problem.backbone.module.parameters():
            weight.data.zero_()
        found, expected, _ = both(problem, eta=0.3, refine_targets=False)
        assert found.rows["status"].tolist() == expected.rows["status"].tolist()
        assert set(found.rows["status"]) == {"stalled", "skipped", "within_gate"}
        pd.testing.assert_frame_equal(found.frame, problem.frame, check_exact=True)


class TestProximal:
    @pytest.mark.parametrize("kind", ["cnn", "cnn_lstm", "dlinear"])
    @pytest.mark.parametrize(
        "case", [{}, {"missing": True, "targets": 2}, {"entities": 2, "gap": True, "future": (1, 3)}]
    )
    def test_comes_to_the_same_as_window_by_window(self, kind, case):
        arguments = {} if kind == "dlinear" else {"channels": (4,), "hidden": 4}
        problem = read_by(kind, arguments, window=6, **case)
        found, expected, network = both(problem, rule="proximal", arguments={"s2": 0.3}, batch_size=16)
        assert_same(found, expected, problem)
        assert network.scanned > 100
        assert network.windows == 0

    def test_in_several_passes_too(self, monkeypatch):
        problem = read_by("cnn", {"channels": (4,), "hidden": 4}, window=6, missing=True)
        expected = both(problem, rule="proximal", arguments={"s2": 0.3})[1]
        monkeypatch.setattr(proximal, "SCANNED", 9)
        found = both(problem, rule="proximal", arguments={"s2": 0.3})[0]
        assert_same(found, expected, problem)

    def test_items_within_the_gate_are_left_out_of_the_scan(self):
        problem = read_by("cnn", {"channels": (4,), "hidden": 4}, window=6)
        found, expected, network = both(problem, rule="proximal", arguments={"s2": 0.3}, tau=1.0, max_epochs=4)
        assert_same(found, expected, problem)
        outside = (expected.rows["residual_before"].abs() > 1.0).sum()
        assert network.scanned == 4 * outside < 4 * 60
