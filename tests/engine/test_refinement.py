"""What `refine` promises about the backbone, the caller's frame and the result, whatever the rule."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.errors import ConfigError, SchemaError, TimeAxisError, TooFewRowsError
from denograd_engine.refinement import Refinement, Refining, refine
from tests.engine.problems import mixed_series, mixed_table, plain_table, width_of
from tests.engine.strategies import assert_same_cells

CPU = Refining(device="cpu", max_epochs=3, tau=0.1, eta=0.05)


class Delicate(nn.Module):
    """Everything that a careless run would change: modes, flags, buffers, gradients, random numbers."""

    def __init__(self, inputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.SiLU(), nn.Linear(8, 1)
        )
        self.layers[1].bias.requires_grad_(False)
        self.layers[1].weight.grad = torch.full_like(self.layers[1].weight, 7.0)
        self.layers[2].running_mean += 0.3
        self.layers[2].eval()
        self.calls_left = None

    def forward(self, x):
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise ArithmeticError("out of calls")
        return self.layers(x)


class DelicateLSTM(Delicate):
    """The same for windows."""

    def __init__(self, columns):
        super().__init__(6)
        self.recurrent = nn.LSTM(columns, 6, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return super().forward(self.recurrent(x)[0][:, -1])


def delicate_table():
    problem = mixed_table(missing=True)
    torch.manual_seed(0)
    return replace(problem, backbone=replace(problem.backbone, module=Delicate(width_of(problem.backbone.encoder))))


def delicate_series():
    problem = mixed_series()
    columns = len(problem.schema.cells) + problem.backbone.encoder.context_width
    torch.manual_seed(0)
    return replace(problem, backbone=replace(problem.backbone, module=DelicateLSTM(columns)))


def state(module):
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "flags": [weight.requires_grad for weight in module.parameters()],
        "gradients": [None if weight.grad is None else weight.grad.clone() for weight in module.parameters()],
        "modes": [part.training for part in module.modules()],
        "hooks": [len(part._forward_hooks) + len(part._backward_hooks) for part in module.modules()],
    }


def assert_same_state(module, before):
    after = state(module)
    for key in ("flags", "modes", "hooks"):
        assert after[key] == before[key]
    assert after["weights"].keys() == before["weights"].keys()
    for name, value in after["weights"].items():
        assert torch.equal(value, before["weights"][name])
    for one, other in zip(after["gradients"], before["gradients"], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("delicate", [delicate_table, delicate_series])
class TestNothingOfTheCallersChanges:
    def test_the_model(self, delicate):
        problem = delicate()
        before = state(problem.backbone.module)
        assert True in before["modes"]
        assert False in before["modes"]
        result = refine(problem.frame, problem.backbone, CPU)
        assert result.totals.moved > 0
        assert_same_state(problem.backbone.module, before)

    @pytest.mark.parametrize("calls", [0, 1, 2, 3])
    def test_the_model_after_it_failed(self, delicate, calls):
        problem = delicate()
        before = state(problem.backbone.module)
        problem.backbone.module.calls_left = calls
        with pytest.raises(ArithmeticError, match="out of calls"):
            refine(problem.frame, problem.backbone, CPU)
        assert_same_state(problem.backbone.module, before)

    def test_the_model_after_a_callback_failed(self, delicate):
        problem = delicate()
        before = state(problem.backbone.module)

        def interrupt(progress):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            refine(problem.frame, problem.backbone, CPU, on_progress=interrupt)
        assert_same_state(problem.backbone.module, before)

    def test_the_frame(self, delicate):
        problem = delicate()
        kept = problem.frame.copy(deep=True)
        result = refine(problem.frame, problem.backbone, CPU)
        assert result.frame is not problem.frame
        for name in kept.columns:
            assert_same_cells(kept[name], problem.frame[name])
        result.frame.loc[:, problem.schema.cells] = 0.0
        pd.testing.assert_frame_equal(problem.frame, kept, check_exact=True)

    def test_the_random_numbers(self, delicate):
        problem = delicate()
        torch.manual_seed(4)
        np.random.seed(4)
        ours, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
        refine(problem.frame, problem.backbone, CPU)
        assert torch.equal(ours, torch.get_rng_state())
        assert (numpys == np.random.get_state()[1]).all()

    def test_dropout_is_off_and_batch_statistics_stand_still(self, delicate):
        problem = delicate()
        first = refine(problem.frame, problem.backbone, CPU)
        problem.backbone.module.train()
        second = refine(problem.frame, problem.backbone, CPU)
        problem.backbone.module.eval()
        third = refine(problem.frame, problem.backbone, CPU)
        for other in (second, third):
            pd.testing.assert_frame_equal(other.frame, first.frame, check_exact=True)
            pd.testing.assert_frame_equal(other.rows, first.rows, check_exact=True)

    def test_gradients_flow_where_the_caller_switched_them_off(self, delicate):
        problem = delicate()
        expected = refine(problem.frame, problem.backbone, CPU)
        with torch.no_grad():
            found = refine(problem.frame, problem.backbone, CPU)
            assert not torch.is_grad_enabled()
        pd.testing.assert_frame_equal(found.frame, expected.frame, check_exact=True)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_on_a_gpu_the_model_comes_home_and_the_result_is_the_same(self, delicate):
        problem = delicate()
        before = state(problem.backbone.module)
        on_cpu = refine(problem.frame, problem.backbone, CPU)
        on_gpu = refine(problem.frame, problem.backbone, replace(CPU, device="cuda"))
        again = refine(problem.frame, problem.backbone, replace(CPU, device="cuda"))
        cells = problem.schema.cells
        np.testing.assert_allclose(on_gpu.frame[cells], on_cpu.frame[cells], rtol=1e-3, atol=1e-3)
        pd.testing.assert_frame_equal(again.frame, on_gpu.frame, check_exact=True)
        assert {weight.device.type for weight in problem.backbone.module.parameters()} == {"cpu"}
        assert_same_state(problem.backbone.module, before)


class TestSettings:
    @pytest.mark.parametrize(
        ("setting", "where"),
        [
            ({"max_epochs": 0}, "refine.max_epochs"),
            ({"tau": 0.0}, "refine.tau"),
            ({"tau": -1.0}, "refine.tau"),
            ({"tau": float("nan")}, "refine.tau"),
            ({"eta": 0.0}, "refine.eta"),
            ({"eta": -0.1}, "refine.eta"),
            ({"eta": float("nan")}, "refine.eta"),
            ({"eta": "fast"}, "refine.eta"),
            ({"batch_size": 0}, "refine.batch_size"),
            ({"batch_size": -4}, "refine.batch_size"),
        ],
    )
    def test_impossible_values(self, setting, where):
        with pytest.raises(ConfigError) as caught:
            Refining(**setting)
        assert caught.value.where == where
        assert caught.value.found == str(next(iter(setting.values())))

    def test_are_frozen(self):
        with pytest.raises(FrozenInstanceError):
            Refining().tau = 1.0

    def test_an_unknown_rule(self):
        problem = plain_table()
        with pytest.raises(ConfigError, match="there is no rule 'newton'") as caught:
            refine(problem.frame, problem.backbone, Refining(rule="newton", device="cpu"))
        assert caught.value.expected == "denograd or gauss_newton or proximal"
        assert caught.value.where == "refine.rule"

    def test_the_automatic_step_is_half_of_what_makes_the_median_row_jump(self):
        problem = plain_table([1.0, 2.0, -0.5])
        result = refine(problem.frame, problem.backbone, Refining(tau=0.05, device="cpu"))
        length = np.sqrt(1 + 4 + 0.25 + 1)
        assert result.totals.eta == pytest.approx(0.05 / length)
        assert "oscillating" not in result.totals.status

    def test_the_automatic_batch_does_not_change_the_result(self):
        problem = plain_table(rows=600)
        found = [
            refine(problem.frame, problem.backbone, Refining(tau=0.05, batch_size=size, device="cpu"))
            for size in (None, 50)
        ]
        np.testing.assert_allclose(found[0].frame, found[1].frame, rtol=1e-12)


class TestFramesThatDoNotFit:
    def test_a_few_rows_are_enough_to_refine_and_none_are_not(self):
        problem = mixed_table()
        assert len(refine(problem.frame.head(3), problem.backbone, CPU).frame) == 3
        with pytest.raises(TooFewRowsError, match="too few rows to refine") as caught:
            refine(problem.frame.head(0), problem.backbone, CPU)
        assert caught.value.found == "0"
        assert caught.value.expected == "at least 1 rows with a known target"

    def test_a_column_that_is_gone(self):
        problem = mixed_table()
        with pytest.raises(SchemaError, match="there is no column 'density'"):
            refine(problem.frame.drop(columns="density"), problem.backbone, CPU)

    @pytest.mark.parametrize("name", ["time", "site", "wind", "power0"])
    def test_a_column_of_the_series_that_is_gone(self, name):
        problem = mixed_series(entities=2)
        with pytest.raises(SchemaError, match=f"there is no column '{name}'"):
            refine(problem.frame.drop(columns=name), problem.backbone, CPU)

    def test_a_series_out_of_order(self):
        problem = mixed_series()
        with pytest.raises(TimeAxisError, match="not in ascending order"):
            refine(problem.frame.iloc[::-1], problem.backbone, CPU)

    @pytest.mark.parametrize("name", ["x1", "y"])
    def test_infinite_cells(self, name):
        problem = plain_table()
        broken = problem.frame.assign(**{name: problem.frame[name].where(problem.frame.index != 3, -np.inf)})
        with pytest.raises(SchemaError, match=f"column '{name}' holds infinite values") as caught:
            refine(broken, problem.backbone, CPU)
        assert caught.value.found == "1 infinite cells, the first at row 3"


class TestResult:
    def test_is_one_object_with_a_line_for_each_row(self):
        problem = mixed_table(targets=2, missing=True)
        frame = problem.frame.set_index(pd.Index([f"row {at % 9}" for at in range(70)], name="label"))
        result = refine(frame, problem.backbone, CPU)
        assert isinstance(result, Refinement)
        assert list(result.rows.columns) == [
            "status",
            "iterations",
            "residual_before",
            "residual_after",
            "correction",
        ]
        pd.testing.assert_index_equal(result.rows.index, frame.index)
        assert result.rows["status"].cat.categories.tolist() == [
            "within_gate",
            "converged",
            "oscillating",
            "max_epochs",
            "stalled",
            "skipped",
            "interrupted",
            "refined",
        ]
        spreads = problem.backbone.encoder.spreads
        moved = (result.frame[problem.schema.cells] - frame[problem.schema.cells]).fillna(0.0) / spreads
        np.testing.assert_allclose(result.rows["correction"], np.sqrt((moved**2).sum(axis=1)), atol=1e-9)

    def test_residuals_are_those_of_the_frames(self):
        problem = plain_table()
        result = refine(problem.frame, problem.backbone, CPU)
        for frame, name in ((problem.frame, "residual_before"), (result.frame, "residual_after")):
            residual = frame[["x0", "x1", "x2"]] @ problem.weight[0] - frame["y"]
            np.testing.assert_allclose(result.rows[name], residual, atol=1e-12)
            root = np.sqrt((residual**2).mean())
            assert getattr(result.totals, name) == pytest.approx(root)

    def test_totals_leave_out_rows_without_a_finite_residual(self):
        class Holed(nn.Module):
            def __init__(self, line):
                super().__init__()
                self.line = line

            def forward(self, x):
                return torch.where(x[:, :1] > 1.0, torch.nan, self.line(x))

        problem = plain_table()
        backbone = replace(problem.backbone, module=Holed(problem.backbone.module))
        found = refine(problem.frame, backbone, CPU).totals
        whole = problem.frame[problem.frame["x0"] <= 1.0]
        residual = whole[["x0", "x1", "x2"]] @ problem.weight[0] - whole["y"]
        assert len(whole) < 60
        assert found.residual_before == pytest.approx(np.sqrt((residual**2).mean()))
        assert 0 < found.residual_after < found.residual_before
