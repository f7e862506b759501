"""Averaged gradients against explicit means over the same perturbations; weights are never touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.backbones import build
from denograd_engine.criteria import criterion
from denograd_engine.devices import frozen
from denograd_engine.errors import ConfigError
from denograd_engine.frames import Encoder
from denograd_engine.local import Cells, Local
from denograd_engine.problem import pose
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import infer_schema
from denograd_engine.smoothing import LOSS_OF_SKILL, Smoothing
from denograd_engine.training import Training, train
from tests.engine.problems import mixed_series, mixed_table, plain_table, shown

CPU = torch.device("cpu")
KINDS = ["smoothgrad", "noisegrad", "fusiongrad"]
RULES = ["denograd", "gauss_newton", "proximal"]


def read_by(kind, problem, arguments=None, outputs=None):
    """The problem with an untrained network of this kind."""
    encoder = problem.backbone.encoder
    series = problem.schema.series
    width = len(problem.schema.features) if series is None else shown(problem.schema)
    shape = (width + encoder.context_width,) if series is None else (series.window, width + encoder.context_width)
    torch.manual_seed(5)
    network = build(kind, shape, outputs or encoder.outputs, arguments).double().eval().requires_grad_(False)
    return replace(problem, backbone=replace(problem.backbone, module=network))


def posed(problem):
    return pose(problem.frame, problem.backbone.encoder, CPU, torch.float64)


NETWORKS = {
    "mlp": lambda targets=2: read_by("mlp", mixed_table(targets), {"hidden": (8,)}),
    "cnn": lambda targets=2: read_by("cnn", mixed_series(targets), {"channels": (4,), "hidden": 4}),
    "lstm": lambda targets=2: read_by("lstm", mixed_series(targets), {"hidden": 5}),
}


def copies(module, smoothing, input_shape, like):
    """The perturbed networks and what is added to their inputs, drawn as documented: inputs first, then weights."""
    generator = torch.Generator().manual_seed(smoothing.seed)

    def draw(shape):
        return torch.randn(smoothing.samples, *shape, generator=generator, dtype=torch.float64).to(like)

    added = torch.zeros(smoothing.samples, *input_shape).to(like)
    if smoothing.kind != "noisegrad":
        added = smoothing.sigma_input * draw(input_shape)
    state = module.state_dict()
    states = [dict(state) for _ in range(smoothing.samples)]
    if smoothing.kind != "smoothgrad":
        for name, weight in module.named_parameters():
            for one, noise in zip(states, draw(tuple(weight.shape)), strict=True):
                one[name] = weight * (1 + smoothing.sigma_weights * noise)
    return list(zip(states, added, strict=True))


class TestGradient:
    @pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("network", NETWORKS)
    def test_is_the_mean_over_the_perturbed_copies(self, network, kind, loss):
        problem = NETWORKS[network]()
        tensors, module, chosen = posed(problem), problem.backbone.module, criterion(loss)
        smoothing = Smoothing(kind, samples=5, sigma_input=0.3, sigma_weights=0.2, seed=4)
        x, y = tensors.gather(tensors.known[:6])
        smoother = smoothing.on(module, chosen, tensors)
        found_x, found_y = smoother.gradient(chosen, x, y)
        expected_x, expected_y = torch.zeros_like(x), torch.zeros_like(y)
        jacobians = torch.zeros(6, 2, *x.shape[1:], dtype=torch.float64)
        for state, added in copies(module, smoothing, x.shape[1:], x):
            leaf, target = (x + added).requires_grad_(), y.clone().requires_grad_()
            predicted = torch.func.functional_call(module, state, (leaf,))
            by_x, by_y = torch.autograd.grad(chosen.loss(predicted, target).sum(), (leaf, target), retain_graph=True)
            expected_x += by_x / 5
            expected_y += by_y / 5
            for at in range(2):
                jacobians[:, at] += torch.autograd.grad(predicted[:, at].sum(), leaf, retain_graph=True)[0] / 5
        torch.testing.assert_close(found_x, expected_x)
        torch.testing.assert_close(found_y, expected_y)
        torch.testing.assert_close(torch.stack(smoother.jacobian(chosen, x, y), dim=1), jacobians)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("network", ["mlp", "cnn"])
    def test_one_after_the_other_comes_to_the_same_as_all_at_once(self, network, kind):
        problem = NETWORKS[network]()
        tensors, module = posed(problem), problem.backbone.module
        x, y = tensors.gather(tensors.known[:6])
        found = []
        for vectorised in (True, False):
            smoother = Smoothing(kind, sigma_weights=0.2).on(module, criterion("mse"), tensors)
            smoother._vectorised = vectorised
            found.append((*smoother.gradient(criterion("mse"), x, y), *smoother.jacobian(criterion("mse"), x, y)))
            assert smoother._vectorised == vectorised
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)

    @pytest.mark.parametrize("kind", KINDS)
    def test_recurrent_networks_are_asked_one_after_the_other(self, kind):
        problem = NETWORKS["lstm"]()
        tensors = posed(problem)
        smoother = Smoothing(kind, sigma_weights=0.2).on(problem.backbone.module, criterion("mse"), tensors)
        gradient, _ = smoother.gradient(criterion("mse"), *tensors.gather(tensors.known[:6]))
        assert gradient.isfinite().all()
        assert (gradient != 0).any()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("network", NETWORKS)
    def test_without_noise_is_the_plain_one(self, network, kind):
        problem = NETWORKS[network]()
        tensors, module = posed(problem), problem.backbone.module
        x, y = tensors.gather(tensors.known[:6])
        cells = Cells(x, y, None, torch.ones_like(y))
        smoother = Smoothing(kind, samples=3, sigma_input=0.0, sigma_weights=0.0).on(module, criterion("mse"), tensors)
        smooth, plain = (Local(module, criterion("mse"), cells, 0.1, given) for given in (smoother, None))
        assert smooth.outside.tolist() == plain.outside.tolist()
        torch.testing.assert_close(smooth.residual, plain.residual)
        for one, other in zip(smooth.gradient(), plain.gradient(), strict=True):
            torch.testing.assert_close(one, other)
        small = Smoothing(kind, sigma_input=1e-6, sigma_weights=1e-6).on(module, criterion("mse"), tensors)
        nearly = Local(module, criterion("mse"), cells, 0.1, small).gradient()[0]
        torch.testing.assert_close(nearly, smooth.gradient()[0], rtol=1e-4, atol=1e-5)

    def test_of_classes_leaves_classes_alone(self):
        problem = NETWORKS["mlp"](1)
        tensors = posed(problem)
        module = build("mlp", tensors.input_shape, 3, {"hidden": (8,)}).double().eval().requires_grad_(False)
        x, y = tensors.gather(tensors.known[:6])[0], torch.arange(6)[:, None] % 3
        chosen = criterion("cross_entropy")
        smoother = Smoothing("noisegrad", sigma_weights=0.0).on(module, chosen, tensors)
        local = Local(module, chosen, Cells(x, y, None, None), 0.0)
        by_x, by_y = smoother.gradient(chosen, x, y)
        assert by_y is None
        torch.testing.assert_close(by_x, local.gradient()[0])
        (jacobian,) = smoother.jacobian(chosen, x, y)
        torch.testing.assert_close(jacobian, by_x)

    def test_of_a_criterion_of_the_users(self):
        problem = NETWORKS["mlp"]()
        tensors, module = posed(problem), problem.backbone.module
        x, y = tensors.gather(tensors.known[:6])
        found, expected = (
            Smoothing("fusiongrad", sigma_weights=0.2).on(module, chosen, tensors).gradient(chosen, x, y)
            for chosen in (criterion(lambda p, t: (p - t).square().mean() * p.numel()), criterion("mse"))
        )
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])

    @pytest.mark.parametrize("name", ["denograd", "proximal", "gauss_newton"])
    def test_an_item_within_the_gate_stays_where_only_its_perturbed_copies_fail(self, name):
        class Rooted(nn.Module):
            def __init__(self):
                super().__init__()
                self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

            def forward(self, x):
                return self.one * x[:, :1].sqrt()

        frame = pd.DataFrame({"x": np.linspace(1e-6, 9.0, 60)})
        frame["y"] = np.sqrt(frame["x"]) + np.where(frame.index < 20, 0.0, 1.0)
        problem = plain_table()
        schema = infer_schema(frame, "y")
        encoder = replace(Encoder.fit(frame, schema), scales=problem.backbone.encoder.scales[:2])
        backbone = replace(problem.backbone, module=Rooted(), encoder=encoder)
        refining = Refining(rule=name, smoothing=Smoothing("smoothgrad", sigma_input=0.2), max_epochs=3, device="cpu")
        result = refine(frame, backbone, refining)
        pd.testing.assert_frame_equal(result.frame[:20], frame[:20], check_exact=True)
        assert set(result.rows["status"][:20]) == {"within_gate"}
        assert np.isfinite(result.frame.to_numpy()).all()
        assert (result.rows["correction"][40:] > 0).all()


class TestWeights:
    @pytest.mark.parametrize("fails", [False, True])
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_are_the_same_objects_with_the_same_bits_afterwards(self, kind, network, fails):
        problem = NETWORKS[network](1)
        module = problem.backbone.module.train().requires_grad_(True)
        objects = dict(module.named_parameters())
        kept = {name: weight.detach().clone() for name, weight in objects.items()}
        refining = Refining(smoothing=Smoothing(kind, samples=3), max_epochs=3, device="cpu", batch_size=16)
        calls = iter(range(1000))

        def fail(*_):
            if next(calls) > 40:
                raise ArithmeticError

        if fails:
            module.register_forward_pre_hook(fail)
            with pytest.raises(ArithmeticError):
                refine(problem.frame, problem.backbone, refining)
        else:
            refine(problem.frame, problem.backbone, refining)
        after = dict(module.named_parameters())
        assert after.keys() == objects.keys()
        for name, weight in after.items():
            assert weight is objects[name]
            assert torch.equal(weight, kept[name])
            assert weight.grad is None
            assert weight.requires_grad
        assert module.training


class TestAutomaticSigma:
    @pytest.mark.parametrize("kind", ["noisegrad", "fusiongrad"])
    @pytest.mark.parametrize("target", ["numbers", "classes"])
    def test_is_where_the_skill_has_fallen_by_a_twentieth(self, kind, target):
        random = np.random.default_rng(0)
        frame = pd.DataFrame(random.normal(size=(400, 3)), columns=["a", "b", "c"])
        frame["y"] = frame["a"] - frame["b"] + 0.1 * random.normal(size=400)
        if target == "classes":
            frame["y"] = np.where(frame["y"] > 0, "up", "down")
        schema = infer_schema(frame, "y")
        backbone = train(frame, schema, training=Training(epochs=20, learning_rate=1e-2, device="cpu"))
        tensors = pose(frame, backbone.encoder, CPU, torch.float32)
        x, y = tensors.gather(tensors.known)
        with frozen(backbone.module, CPU) as module:
            smoother = Smoothing(kind, samples=16, sigma_input=0.01).on(module, backbone.loss, tensors)
            skills = [float(backbone.loss.skill(one, y).mean()) for one in smoother.predicted(x)]
            with torch.no_grad():
                plain = float(backbone.loss.skill(module(x), y).mean())
        assert plain > 0.4
        assert 1e-3 < smoother.sigma < 0.9
        assert np.mean(skills) == pytest.approx((1 - LOSS_OF_SKILL) * plain, rel=5e-3)

    def test_a_given_one_is_taken(self):
        problem = NETWORKS["mlp"]()
        tensors = posed(problem)
        assert (
            Smoothing("noisegrad", sigma_weights=0.37).on(problem.backbone.module, criterion("mse"), tensors).sigma
            == 0.37
        )


class TestRefinement:
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("network", NETWORKS)
    def test_each_rule_runs_with_each_kind_whatever_the_batch(self, network, kind, rule):
        problem = NETWORKS[network]()
        refining = Refining(
            rule=rule, smoothing=Smoothing(kind, samples=3, sigma_weights=0.2), max_epochs=2, tau=0.3, device="cpu"
        )
        found = [refine(problem.frame, problem.backbone, replace(refining, batch_size=size)) for size in (None, 9)]
        cells = problem.schema.cells
        for other in found[1:]:
            np.testing.assert_allclose(other.frame[cells], found[0].frame[cells], rtol=1e-9, atol=1e-9)
            assert other.rows["status"].tolist() == found[0].rows["status"].tolist()
        assert found[0].totals.moved > 20
        plain = refine(problem.frame, problem.backbone, replace(refining, smoothing=None))
        assert (plain.frame[cells] - found[0].frame[cells]).abs().to_numpy().max() > 1e-4

    def test_the_seed_decides(self):
        problem = NETWORKS["mlp"]()
        refining = Refining(max_epochs=3, tau=0.3, device="cpu")
        one, same, other = (
            refine(
                problem.frame, problem.backbone, replace(refining, smoothing=Smoothing("fusiongrad", seed=seed))
            ).frame
            for seed in (0, 0, 1)
        )
        pd.testing.assert_frame_equal(one, same, check_exact=True)
        assert not one.equals(other)

    def test_a_linear_backbone_knows_no_difference_between_inputs(self):
        problem = mixed_table(2)
        refining = Refining(rule="gauss_newton", max_epochs=3, tau=0.3, device="cpu")
        found = refine(problem.frame, problem.backbone, replace(refining, smoothing=Smoothing("smoothgrad")))
        expected = refine(problem.frame, problem.backbone, refining)
        cells = problem.schema.cells
        np.testing.assert_allclose(found.frame[cells], expected.frame[cells], rtol=1e-9)


class TestMistakes:
    @pytest.mark.parametrize(
        ("wrong", "where"),
        [({"kind": "blur"}, "kind"), ({"kind": "smoothgrad", "samples": 0}, "samples")],
    )
    def test_impossible_values(self, wrong, where):
        with pytest.raises(ConfigError) as caught:
            Smoothing(**wrong)
        assert caught.value.where == f"refine.smoothing.{where}"
