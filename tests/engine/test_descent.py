"""The linearised model against finite differences, the gate, and how an item ended."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from denograd_engine.backbones import build
from denograd_engine.descent import Status, Stop, final_status, linearise
from denograd_engine.rules import rule
from tests.engine.problems import linear


def backbone(kind, shape, targets):
    torch.manual_seed(3)
    return build(kind, shape, targets).double().eval().requires_grad_(False)


CASES = [("mlp", (5,), 1), ("mlp", (4, 3), 2), ("lstm", (4, 3), 1), ("lstm", (6, 2), 3)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} {case[1]} to {case[2]}")
def case(request):
    kind, shape, targets = request.param
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(6, *shape, dtype=torch.float64, generator=generator)
    y = torch.randn(6, targets, dtype=torch.float64, generator=generator)
    return backbone(kind, shape, targets), x, y


def loss_by(module):
    """Half the squared residual of each item, with the gradient that `linearise` gives."""

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return 0.5 * (module(x) - y).square().sum(dim=1)

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            model, _ = linearise(module, x, y, 0.0, None, None)
            return grad.reshape(-1, *[1] * (x.ndim - 1)) * model.gradient_x, grad[:, None] * model.gradient_y

    return Loss.apply


class TestLinearise:
    def test_gradients_are_those_of_finite_differences(self, case):
        module, x, y = case
        assert torch.autograd.gradcheck(loss_by(module), (x.requires_grad_(), y.requires_grad_()), atol=1e-7)

    def test_the_square_is_that_of_the_joint_gradient(self, case):
        module, x, y = case
        model, outside = linearise(module, x, y, 0.0, None, None)
        assert outside.all()
        joint = torch.cat([model.gradient_x.flatten(1), model.gradient_y], dim=1)
        torch.testing.assert_close(model.square, (joint**2).sum(dim=1))
        torch.testing.assert_close(model.residual, module(x) - y)
        torch.testing.assert_close(model.gradient_y, y - module(x))

    def test_items_within_the_gate_have_none(self, case):
        module, x, y = case
        largest = (module(x) - y).abs().amax(dim=1)
        tau = float(largest.sort().values[2])
        model, outside = linearise(module, x, y, tau, None, None)
        assert outside.tolist() == (largest > tau).tolist()
        assert outside.sum() == 3
        assert (model.gradient_x[~outside] == 0).all()
        assert (model.gradient_y[~outside] == 0).all()
        assert (model.square[~outside] == 0).all()
        assert (model.square[outside] > 0).all()
        every, _ = linearise(module, x, y, 0.0, None, None)
        torch.testing.assert_close(model.gradient_x[outside], every.gradient_x[outside])

    def test_cells_that_may_not_move_do_not_count(self, case):
        module, x, y = case
        generator = torch.Generator().manual_seed(1)
        movable_x = (torch.rand(x.shape, generator=generator) < 0.5).double()
        movable_y = (torch.rand(y.shape, generator=generator) < 0.5).double()
        every, _ = linearise(module, x, y, 0.0, None, None)
        model, _ = linearise(module, x, y, 0.0, movable_x, movable_y)
        torch.testing.assert_close(model.gradient_x, every.gradient_x * movable_x)
        torch.testing.assert_close(model.gradient_y, every.gradient_y * movable_y)
        expected = (model.gradient_x.flatten(1) ** 2).sum(dim=1) + (model.gradient_y**2).sum(dim=1)
        torch.testing.assert_close(model.square, expected)

    def test_fixed_targets_have_no_gradient(self, case):
        module, x, y = case
        model, _ = linearise(module, x, y, 0.0, None, None, refine_y=False)
        assert model.gradient_y is None
        torch.testing.assert_close(model.square, (model.gradient_x.flatten(1) ** 2).sum(dim=1))

    def test_leaves_its_arguments_alone(self, case):
        module, x, y = case
        kept_x, kept_y = x.clone(), y.clone()
        linearise(module, x, y, 0.0, None, None)
        assert torch.equal(x, kept_x)
        assert torch.equal(y, kept_y)
        assert x.grad is None
        assert not x.requires_grad

    @pytest.mark.parametrize("where", ["x", "y"])
    def test_an_item_that_is_not_finite_has_a_gradient_of_zero_and_the_others_theirs(self, where):
        module = linear([[1.0, -2.0]])
        x, y = torch.randn(4, 2, dtype=torch.float64), torch.full((4, 1), 9.0, dtype=torch.float64)
        clean, _ = linearise(module, x, y, 0.1, None, None)
        (x if where == "x" else y)[2] = torch.nan
        model, outside = linearise(module, x, y, 0.1, None, None)
        assert outside.all()
        assert model.square[2] == 0
        assert (model.gradient_x[2] == 0).all()
        assert (model.gradient_y[2] == 0).all()
        others = [0, 1, 3]
        assert torch.equal(model.gradient_x[others], clean.gradient_x[others])
        assert torch.equal(model.gradient_y[others], clean.gradient_y[others])

    def test_predictions_may_lack_the_last_dimension(self):
        class Flat(nn.Module):
            def forward(self, x):
                return x.sum(dim=1)

        x, y = torch.randn(5, 3), torch.randn(5, 1)
        model, _ = linearise(Flat(), x, y, 0.0, None, None)
        torch.testing.assert_close(model.residual, x.sum(dim=1, keepdim=True) - y)


class TestRule:
    def test_every_step_has_the_length_eta(self, case):
        module, x, y = case
        model, _ = linearise(module, x, y, 0.0, None, None)
        factor = rule("denograd", 0.03).factor(model)
        steps = torch.cat([model.gradient_x.flatten(1), model.gradient_y], dim=1) * factor[:, None]
        np.testing.assert_allclose(steps.norm(dim=1), 0.03, rtol=1e-12)
        assert (factor < 0).all()

    def test_a_vanishing_gradient_makes_no_step(self):
        flat, ones = linear([[0.0, 0.0]]), torch.ones(3, 2).double()
        model, _ = linearise(flat, ones, ones[:, :1], 0.1, None, None)
        assert (rule("denograd", 0.03).factor(model)[:, None] * model.gradient_x == 0).all()
        fixed, _ = linearise(flat, ones, ones[:, :1], 0.1, None, None, refine_y=False)
        assert rule("denograd", 0.03).factor(fixed).tolist() == [0.0, 0.0, 0.0]


class TestFinalStatus:
    @pytest.mark.parametrize(
        ("iterations", "before", "after", "crossed", "stalled", "interrupted", "expected"),
        [
            (0, 0.05, 0.05, False, False, False, Status.WITHIN_GATE),
            (0, 0.05, 0.05, False, False, True, Status.WITHIN_GATE),
            (0, 3.0, 0.05, False, False, False, Status.CONVERGED),
            (4, 3.0, 0.05, False, False, False, Status.CONVERGED),
            (4, 3.0, 0.05, True, False, True, Status.CONVERGED),
            (4, 3.0, 0.5, True, False, False, Status.OSCILLATING),
            (4, 3.0, 0.5, False, False, False, Status.MAX_EPOCHS),
            (4, 3.0, 0.5, False, False, True, Status.INTERRUPTED),
            (0, 3.0, 3.0, False, True, False, Status.STALLED),
            (0, float("nan"), float("nan"), False, True, True, Status.STALLED),
        ],
    )
    def test_follows_from_how_an_item_moved(self, iterations, before, after, crossed, stalled, interrupted, expected):
        (found,) = final_status(
            torch.tensor([iterations]),
            torch.tensor([[before, 0.0]]),
            torch.tensor([[0.0, -after]]),
            torch.tensor([crossed]),
            torch.tensor([stalled]),
            0.1,
            interrupted,
        )
        assert Status(int(found)) is expected

    def test_labels_are_words(self):
        assert [one.label for one in Status][:2] == ["within_gate", "converged"]


class TestStop:
    def test_goes_on_unless_told_otherwise(self):
        assert not Stop().now()
        assert not Stop(deadline=1e6, cancelled=lambda: False).now()

    def test_a_deadline_or_the_caller_stops_it(self):
        assert Stop(deadline=-1.0).now()
        assert Stop(cancelled=lambda: True).now()
