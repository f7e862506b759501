"""Every criterion against torch's own losses and autograd, item by item."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from denograd_engine.criteria import Criterion, Custom, SquaredError, criterion
from denograd_engine.errors import ConfigError

WHERE = "backbone.training.criterion"
NUMBERS = {
    "mse": lambda p, y: functional.mse_loss(p, y, reduction="none").sum(dim=1),
    "l1": lambda p, y: functional.l1_loss(p, y, reduction="none").sum(dim=1),
    "huber": lambda p, y: functional.huber_loss(p, y, reduction="none").sum(dim=1),
}


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classes(items, count, seed=0):
    return torch.randint(0, count, (items, 1), generator=torch.Generator().manual_seed(seed))


def averaged(predicted, y):
    """A loss as users write them: one number for the batch."""
    return ((predicted - y) ** 2).mean() + 0.1 * (predicted - y).abs().mean()


def each_entry(predicted, y):
    return torch.cosh(predicted - y) - 1


class Quantile(nn.Module):
    """A module, and not symmetric."""

    def forward(self, predicted, y):
        r = predicted - y
        return torch.where(r > 0, 0.2 * r, -0.8 * r).mean()


def named(given):
    return given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)


class TestNumbers:
    @pytest.mark.parametrize("name", NUMBERS)
    def test_losses_are_torchs_summed_over_the_targets(self, name):
        predicted, y = 2 * numbers(7, 3), numbers(7, 3, seed=1)
        torch.testing.assert_close(criterion(name).loss(predicted, y), NUMBERS[name](predicted, y))

    @pytest.mark.parametrize("given", [*NUMBERS, averaged, each_entry, Quantile()], ids=named)
    @pytest.mark.parametrize("targets", [1, 3])
    def test_pulls_are_the_gradients_of_the_loss(self, given, targets):
        chosen = criterion(given)
        predicted, y = 2 * numbers(7, targets).requires_grad_(), numbers(7, targets, seed=1).requires_grad_()
        expected = torch.autograd.grad(chosen.loss(predicted, y).sum(), (predicted, y))
        for found, gradient in zip(chosen.pull(predicted.detach(), y.detach()), expected, strict=True):
            torch.testing.assert_close(found, gradient)
        assert torch.autograd.gradcheck(chosen.loss, (predicted, y))

    @pytest.mark.parametrize("given", [*NUMBERS, averaged])
    def test_residuals_are_prediction_less_target_with_their_slopes(self, given):
        chosen, predicted, y = criterion(given), numbers(4, 3).requires_grad_(), numbers(4, 3, seed=1).requires_grad_()
        residual = chosen.residual(predicted, y)
        torch.testing.assert_close(residual, predicted - y)
        slopes = chosen.slopes(predicted.detach(), y.detach())
        assert len(slopes) == 3
        for at, found in enumerate(slopes):
            expected = torch.autograd.grad(residual[:, at].sum(), (predicted, y), retain_graph=True)
            for one, gradient in zip(found, expected, strict=True):
                torch.testing.assert_close(one, gradient)

    def test_skill_is_r2_of_each_target(self):
        y = numbers(50, 2)
        predicted = torch.stack([y[:, 0] + 0.1, y[:, 1].mean().expand(50)], dim=1)
        skill = criterion("mse").skill(predicted, y)
        assert skill[0] == pytest.approx(1 - 0.01 / float(y[:, 0].var(correction=0)))
        assert skill[1] == pytest.approx(0.0)
        assert criterion("l1").skill(y, y).tolist() == [1.0, 1.0]

    def test_skill_of_a_constant_target_is_finite(self):
        assert criterion("mse").skill(torch.zeros(5, 1), torch.ones(5, 1)).isfinite().all()


class TestCrossEntropy:
    def test_is_torchs(self):
        predicted, y = numbers(7, 4), classes(7, 4)
        expected = functional.cross_entropy(predicted, y[:, 0], reduction="none")
        chosen = criterion("cross_entropy")
        torch.testing.assert_close(chosen.loss(predicted, y), expected)
        torch.testing.assert_close(chosen.residual(predicted, y), expected[:, None])

    def test_pulls_predictions_and_leaves_classes_alone(self):
        chosen, predicted, y = criterion("cross_entropy"), numbers(7, 4).requires_grad_(), classes(7, 4)
        (expected,) = torch.autograd.grad(chosen.loss(predicted, y).sum(), predicted)
        pull, pull_y = chosen.pull(predicted.detach(), y)
        torch.testing.assert_close(pull, expected)
        assert pull_y is None
        ((slope, slope_y),) = chosen.slopes(predicted.detach(), y)
        torch.testing.assert_close(slope, expected)
        assert (slope_y == 0).all()
        assert slope_y.dtype == torch.float64
        assert torch.autograd.gradcheck(lambda p: chosen.loss(p, y), (predicted,))

    def test_of_classes_that_are_all_but_certain_does_not_overflow(self):
        predicted, y = torch.tensor([[1e4, -1e4], [1e4, -1e4]]), torch.tensor([[0], [1]])
        chosen = criterion("cross_entropy")
        assert chosen.loss(predicted, y).tolist() == [0.0, 2e4]
        assert chosen.pull(predicted, y)[0].tolist() == [[0.0, 0.0], [1.0, -1.0]]

    def test_skill_is_mcfaddens(self):
        y = torch.tensor([[0]] * 6 + [[1]] * 3 + [[2]] * 1)
        share = np.array([0.6, 0.3, 0.1])
        frequencies = torch.tensor(np.log(share)).expand(10, 3)
        chosen = criterion("cross_entropy")
        assert chosen.skill(frequencies, y).tolist() == pytest.approx([0.0])
        assert chosen.skill(100 * functional.one_hot(y[:, 0]).double(), y).tolist() == pytest.approx([1.0])
        logits = numbers(10, 3)
        log_p = logits.log_softmax(dim=1).gather(1, y).mean()
        expected = 1 - float(log_p) / (share @ np.log(share))
        assert chosen.skill(logits, y).tolist() == pytest.approx([expected])


class TestCompany:
    """A batch's other items must not matter, whatever the user's function does with them."""

    @pytest.mark.parametrize("given", [*NUMBERS, averaged, each_entry, Quantile()], ids=named)
    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(items=st.integers(1, 9), targets=st.integers(1, 3), seed=st.integers(0, 99))
    def test_an_item_alone_has_the_same_loss_and_pull(self, given, items, targets, seed):
        chosen, predicted, y = (
            criterion(given),
            numbers(items, targets, seed=seed),
            numbers(items, targets, seed=seed + 1),
        )
        losses, pulls = chosen.loss(predicted, y), chosen.pull(predicted, y)
        assert losses.shape == (items,)
        for item in range(items):
            one = slice(item, item + 1)
            torch.testing.assert_close(chosen.loss(predicted[one], y[one]), losses[one])
            for found, expected in zip(chosen.pull(predicted[one], y[one]), pulls, strict=True):
                torch.testing.assert_close(found, expected[one])

    def test_an_average_over_the_batch_is_taken_over_the_items_own_targets(self):
        predicted, y = numbers(8, 2), numbers(8, 2, seed=1)
        expected = torch.stack([averaged(p, t) for p, t in zip(predicted, y, strict=True)])
        torch.testing.assert_close(criterion(averaged).loss(predicted, y), expected)

    def test_one_number_for_each_entry_is_summed_over_the_targets(self):
        predicted, y = numbers(8, 3), numbers(8, 3, seed=1)
        torch.testing.assert_close(criterion(each_entry).loss(predicted, y), each_entry(predicted, y).sum(dim=1))


class TestNames:
    @pytest.fixture
    def mine(self, monkeypatch):
        module = ModuleType("my_losses")
        module.averaged, module.Quantile, module.number = averaged, Quantile, 3
        monkeypatch.setitem(sys.modules, "my_losses", module)

    @pytest.mark.usefixtures("mine")
    @pytest.mark.parametrize(("name", "same"), [("averaged", averaged), ("Quantile", Quantile())])
    def test_a_function_or_class_of_the_users_by_its_place(self, name, same):
        found = criterion(f"my_losses:{name}")
        assert isinstance(found, Custom)
        predicted, y = numbers(5, 2), numbers(5, 2, seed=1)
        torch.testing.assert_close(found.loss(predicted, y), criterion(same).loss(predicted, y))

    def test_one_that_torch_has(self):
        predicted, y = numbers(5, 2), numbers(5, 2, seed=1)
        expected = functional.smooth_l1_loss(predicted, y, reduction="none").mean(dim=1)
        torch.testing.assert_close(criterion("torch.nn:SmoothL1Loss").loss(predicted, y), expected)

    def test_a_criterion_is_itself(self):
        chosen = SquaredError()
        assert criterion(chosen) is chosen
        assert isinstance(criterion("mse"), Criterion)

    def test_an_unknown_name(self):
        with pytest.raises(ConfigError, match="there is no criterion 'mape'") as caught:
            criterion("mape")
        assert caught.value.expected.startswith("mse, l1, huber, cross_entropy, or a function")
        assert caught.value.where == WHERE

    @pytest.mark.usefixtures("mine")
    @pytest.mark.parametrize(
        "name", ["my_losses:other", "nowhere.at_all:loss", ":loss", "my_losses:", "my_losses:number"]
    )
    def test_one_that_is_not_there_or_cannot_be_called(self, name):
        with pytest.raises(ConfigError, match=r"there is no (criterion|module)") as caught:
            criterion(name)
        assert caught.value.where == WHERE
        assert caught.value.expected
