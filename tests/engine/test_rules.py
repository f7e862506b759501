"""The step of a gradient rule: its length, where there is none, and how a rule is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from denograd_engine.backbones import build
from denograd_engine.criteria import criterion
from denograd_engine.errors import ConfigError
from denograd_engine.local import Cells, Local
from denograd_engine.rules import REGISTRY, rule
from tests.engine.problems import linear


def about(module, x, y, loss="mse", tau=0.1, refine_y=True):
    return Local(module, criterion(loss), Cells(x, y, None, torch.ones_like(y) if refine_y else None), tau)


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stepped(named, local):
    """What the rule adds to x and to y, and who is stuck."""
    x, y = torch.zeros_like(local.cells.x), torch.zeros_like(local.cells.y)
    step = rule(*named).step(local)
    step.add_to(x, y)
    return x, y, torch.zeros_like(local.outside) if step.stuck is None else step.stuck


class Rooted(nn.Module):
    """The root of the first column: at zero its slope is infinite."""

    def forward(self, x):
        return x[:, :1].sqrt()


class TestStep:
    @pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
    @pytest.mark.parametrize(("kind", "shape"), [("mlp", (5,)), ("lstm", (6, 2))])
    def test_has_the_length_eta_against_the_gradient_of_every_loss(self, kind, shape, loss):
        module, x, y = build(kind, shape, 2).double().eval(), numbers(6, *shape), numbers(6, 2, seed=1)
        step_x, step_y, stuck = stepped(("denograd", 0.03), about(module, x, y, loss, tau=0.0))
        by_x, by_y = about(module, x, y, loss, tau=0.0).gradient()
        joint = torch.cat([by_x.flatten(1), by_y], dim=1)
        found = torch.cat([step_x.flatten(1), step_y], dim=1)
        torch.testing.assert_close(found, -0.03 * joint / joint.norm(dim=1, keepdim=True))
        assert not stuck.any()

    def test_multiplied_out_is_the_same(self):
        module, x, y = linear([[3.0, 4.0], [0.0, 1.0]]), numbers(5, 2), numbers(5, 2, seed=1)
        for named in (("denograd", 0.03), ("gauss_newton", 0.5)):
            step_x, step_y, _ = stepped(named, about(module, x, y))
            whole_x, whole_y = rule(*named).step(about(module, x, y)).whole()
            torch.testing.assert_close(whole_x, step_x)
            torch.testing.assert_close(whole_y, step_y)

    def test_with_fixed_targets_their_part_does_not_count(self):
        module, x, y = linear([[3.0, 4.0]]), numbers(5, 2), torch.full((5, 1), 90.0).double()
        step_x, step_y, _ = stepped(("denograd", 0.03), about(module, x, y, refine_y=False))
        assert (step_y == 0).all()
        np.testing.assert_allclose(step_x, np.tile([0.018, 0.024], (5, 1)), rtol=1e-12)

    def test_is_zero_where_the_gradient_vanishes(self):
        flat, x = linear([[0.0, 0.0]]), torch.ones(3, 2).double()
        step_x, step_y, stuck = stepped(("denograd", 0.03), about(flat, x, x[:, :1]))
        assert (step_x == 0).all()
        np.testing.assert_allclose(step_y, -0.03)
        assert not stuck.any()
        step_x, _, stuck = stepped(("denograd", 0.03), about(flat, x, x[:, :1], refine_y=False))
        assert (step_x == 0).all()
        assert stuck.all()

    @pytest.mark.parametrize("name", ["denograd", "gauss_newton"])
    @pytest.mark.parametrize("where", ["x", "y"])
    def test_is_zero_where_an_item_is_not_finite_and_the_others_have_theirs(self, where, name):
        module, x, y = linear([[1.0, -2.0]]), numbers(4, 2), torch.full((4, 1), 9.0).double()
        clean = stepped((name, 0.03), about(module, x.clone(), y.clone()))
        (x if where == "x" else y)[2] = torch.nan
        *steps, stuck = stepped((name, 0.03), about(module, x, y))
        assert stuck.tolist() == [False, False, True, False]
        for found, expected in zip(steps, clean[:2], strict=True):
            assert (found[2] == 0).all()
            assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])

    @pytest.mark.parametrize("name", ["denograd", "gauss_newton"])
    def test_is_zero_within_the_gate_whatever_the_slope(self, name):
        x, y = torch.tensor([[0.0, 1.0], [4.0, 1.0]]).double(), torch.tensor([[0.05], [5.0]]).double()
        step_x, step_y, stuck = stepped((name, 0.03), about(Rooted(), x, y))
        assert (step_x[0] == 0).all()
        assert (step_y[0] == 0).all()
        assert step_x[1, 0] > 0 == step_x[1, 1]
        assert step_y[1] < 0
        assert not stuck.any()

    def test_is_zero_outside_the_gate_where_the_slope_is_infinite(self):
        x, y = torch.tensor([[0.0, 1.0], [4.0, 1.0]]).double(), torch.full((2, 1), 5.0).double()
        step_x, step_y, stuck = stepped(("denograd", 0.03), about(Rooted(), x, y))
        assert stuck.tolist() == [True, False]
        assert (step_x[0] == 0).all()
        assert (step_y[0] == 0).all()


class TestNames:
    @pytest.mark.parametrize("name", REGISTRY)
    def test_each_of_the_registry_is_a_rule(self, name):
        assert type(rule(name)).__name__ == REGISTRY[name].split(":")[1]

    def test_an_unknown_one_is_refused_with_the_known(self):
        with pytest.raises(ConfigError, match="there is no rule 'newton'") as caught:
            rule("newton")
        assert caught.value.expected == "denograd or gauss_newton or proximal"
        assert caught.value.where == "refine.rule"

    @pytest.mark.parametrize("name", REGISTRY)
    def test_unknown_arguments_are_refused(self, name):
        with pytest.raises(ConfigError, match=f"rule {name!r} does not take these arguments") as caught:
            rule(name, 0.1, {"momentum": 0.9})
        assert "'momentum'" in caught.value.found
        assert caught.value.where == "refine.arguments"
