"""The backbone about a batch, against finite differences and autograd; the gate; who counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from denograd_engine.backbones import build
from denograd_engine.criteria import criterion
from denograd_engine.local import Cells, Local
from tests.engine.problems import linear

NUMBERS = ["mse", "l1", "huber"]
CASES = [("mlp", (5,), 1), ("mlp", (4, 3), 2), ("lstm", (4, 3), 1), ("lstm", (6, 2), 3), ("cnn", (7, 2), 2)]


def backbone(kind, shape, outputs):
    torch.manual_seed(3)
    return build(kind, shape, outputs).double().eval().requires_grad_(False)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} {case[1]} to {case[2]}")
def case(request):
    kind, shape, outputs = request.param
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(6, *shape, dtype=torch.float64, generator=generator)
    y = torch.randn(6, outputs, dtype=torch.float64, generator=generator)
    return backbone(kind, shape, outputs), x, y


@pytest.fixture(params=[shape for shape in CASES if shape[2] > 1], ids=lambda case: f"{case[0]} {case[1]}")
def classes(request):
    kind, shape, outputs = request.param
    x = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    return backbone(kind, shape, outputs), x, torch.arange(6)[:, None] % outputs


def about(module, x, y, loss="mse", tau=0.0, weight_x=None, weight_y=1.0):
    """With `weight_y` of 1, all targets move."""
    weight_y = torch.ones_like(y) if isinstance(weight_y, float) else weight_y
    return Local(module, criterion(loss), Cells(x, y, weight_x, weight_y), tau)


def loss_by(module, loss):
    """Each item's loss, with the gradient that `Local` gives."""

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return criterion(loss).loss(module(x), y)

        @staticmethod
        def backward(ctx, grad):
            by_x, by_y = about(module, *ctx.saved_tensors, loss).gradient()
            by_y = None if by_y is None else grad[:, None] * by_y
            return grad.reshape(-1, *[1] * (by_x.ndim - 1)) * by_x, by_y

    return Loss.apply


class TestGradient:
    @pytest.mark.parametrize("loss", NUMBERS)
    def test_is_that_of_finite_differences(self, case, loss):
        module, x, y = case
        assert torch.autograd.gradcheck(loss_by(module, loss), (x.requires_grad_(), y.requires_grad_()), atol=1e-6)

    def test_of_classes_is_that_of_finite_differences(self, classes):
        module, x, y = classes
        assert torch.autograd.gradcheck(loss_by(module, "cross_entropy"), (x.requires_grad_(), y))
        assert about(module, x.detach(), y, "cross_entropy").gradient()[1] is None

    def test_is_twice_the_residual_for_the_squared_error(self, case):
        module, x, y = case
        local = about(module, x, y)
        torch.testing.assert_close(local.residual, module(x) - y)
        torch.testing.assert_close(local.predicted, module(x))
        assert local.outside.all()
        torch.testing.assert_close(local.gradient()[1], 2 * (y - module(x)))

    def test_is_zero_for_items_within_the_gate(self, case):
        module, x, y = case
        largest = (module(x) - y).abs().amax(dim=1)
        tau = float(largest.sort().values[2])
        local, every = about(module, x, y, tau=tau), about(module, x, y).gradient()
        assert local.outside.tolist() == (largest > tau).tolist()
        assert local.outside.sum() == 3
        for found, all_of_them in zip(local.gradient(), every, strict=True):
            assert (found[~local.outside] == 0).all()
            assert (found[local.outside].flatten(1) != 0).any(dim=1).all()
            torch.testing.assert_close(found[local.outside], all_of_them[local.outside])

    def test_is_multiplied_by_the_weights(self, case):
        module, x, y = case
        generator = torch.Generator().manual_seed(1)
        weight_x = torch.rand(x.shape, generator=generator, dtype=torch.float64).round(decimals=1)
        weight_y = (torch.rand(y.shape, generator=generator) < 0.5).double()
        by_x, by_y = about(module, x, y).gradient()
        found_x, found_y = about(module, x, y, weight_x=weight_x, weight_y=weight_y).gradient()
        torch.testing.assert_close(found_x, by_x * weight_x)
        torch.testing.assert_close(found_y, by_y * weight_y)

    def test_of_targets_that_stay_is_none(self, case):
        module, x, y = case
        by_x, by_y = about(module, x, y, weight_y=None).gradient()
        assert by_y is None
        torch.testing.assert_close(by_x, about(module, x, y).gradient()[0])

    def test_leaves_the_cells_alone(self, case):
        module, x, y = case
        kept_x, kept_y = x.clone(), y.clone()
        by_x, by_y = about(module, x, y).gradient()
        by_x.zero_(), by_y.zero_()
        assert torch.equal(x, kept_x)
        assert torch.equal(y, kept_y)
        assert x.grad is None
        assert not x.requires_grad

    def test_of_an_item_does_not_depend_on_the_others(self, case):
        module, x, y = case
        by_x, by_y = about(module, x, y).gradient()
        for item in range(len(x)):
            alone_x, alone_y = about(module, x[item : item + 1], y[item : item + 1]).gradient()
            torch.testing.assert_close(alone_x[0], by_x[item])
            torch.testing.assert_close(alone_y[0], by_y[item])

    def test_predictions_may_lack_the_last_dimension(self):
        class Flat(nn.Module):
            def forward(self, x):
                return x.sum(dim=1)

        x, y = torch.randn(5, 3), torch.randn(5, 1)
        torch.testing.assert_close(about(Flat(), x, y).residual, x.sum(dim=1, keepdim=True) - y)


class TestJacobian:
    @pytest.mark.parametrize("loss", NUMBERS)
    def test_is_that_of_each_residual(self, case, loss):
        module, x, y = case
        by_x, by_y = about(module, x, y, loss).jacobian()
        for item in range(len(x)):
            expected = torch.autograd.functional.jacobian(lambda one: module(one[None])[0], x[item])
            torch.testing.assert_close(by_x[item], expected)
            torch.testing.assert_close(by_y[item], -torch.eye(y.shape[1], dtype=torch.float64))

    def test_of_classes_is_that_of_the_loss(self, classes):
        module, x, y = classes
        local = about(module, x, y, "cross_entropy", weight_y=None)
        by_x, by_y = local.jacobian()
        assert by_y is None
        assert by_x.shape == (6, 1, *x.shape[1:])
        torch.testing.assert_close(local.residual[:, 0], criterion("cross_entropy").loss(module(x), y))
        torch.testing.assert_close(by_x[:, 0], about(module, x, y, "cross_entropy", weight_y=None).gradient()[0])

    def test_has_no_weights(self, case):
        module, x, y = case
        weighed = about(module, x, y, weight_x=torch.full_like(x, 0.5), weight_y=torch.full_like(y, 0.5)).jacobian()
        for found, expected in zip(weighed, about(module, x, y).jacobian(), strict=True):
            torch.testing.assert_close(found, expected)


class TestGate:
    def test_is_strict_and_asks_the_largest_of_several_residuals(self):
        x = torch.zeros(4, 2, dtype=torch.float64)
        y = torch.tensor([[0.5, 0.0], [0.0, -0.5], [0.0, 0.51], [-0.51, 0.0]], dtype=torch.float64)
        module = linear([[1.0, 0.0], [0.0, 1.0]])
        assert about(module, x, y, tau=0.5).outside.tolist() == [False, False, True, True]

    def test_what_is_no_number_is_outside(self):
        x, y = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([[0.0], [torch.nan], [torch.inf]]).double()
        assert about(linear([[1.0, 0.0]]), x, y, tau=0.5).outside.tolist() == [False, True, True]
