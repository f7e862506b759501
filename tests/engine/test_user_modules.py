"""Networks of the user's own: embeddings of categories, batch statistics, dropout, parts shared between places."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.frames import Encoder
from denograd_engine.problem import pose
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import Series, infer_schema
from denograd_engine.smoothing import Smoothing
from denograd_engine.training import Training, train
from tests.engine.problems import fitted
from tests.engine.strategies import assert_same_cells

LEVELS = ["blue", "green", "red"]
RULES = ["denograd", "gauss_newton", "proximal"]


class Embedded(nn.Module):
    """Reads three measured columns and the indicators of a category, which it turns back into a number to look up."""

    def __init__(self, measured=2):
        super().__init__()
        self.measured = measured
        self.embedding = nn.Embedding(len(LEVELS), 4)
        self.layers = nn.Sequential(nn.Linear(measured + 4, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        level = x[..., self.measured :].argmax(dim=-1)
        return self.layers(torch.cat([x[..., : self.measured], self.embedding(level)], dim=-1))


class Normed(nn.Module):
    """Batch statistics before and after, and dropout between."""

    def __init__(self, inputs=5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(inputs),
            nn.Linear(inputs, 16),
            nn.BatchNorm1d(16),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Linear(16, 1),
        )

    def forward(self, x):
        return self.layers(x)


class EmbeddedWindows(nn.Module):
    """The same for windows: the category of the last step."""

    def __init__(self):
        super().__init__()
        self.rows, self.norm = Embedded(3), nn.BatchNorm1d(1)

    def forward(self, x):
        return self.norm(self.rows(x).mean(dim=1))


def table(rows=240, seed=0):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(rows, 2)), columns=["a", "b"])
    frame["color"] = random.choice(LEVELS, rows)
    offset = frame["color"].map({"blue": 0.0, "green": 2.0, "red": -2.0})
    frame["y"] = frame["a"] - frame["b"] + offset + 0.3 * random.normal(size=rows)
    return frame, infer_schema(frame, "y")


def series(rows=160):
    frame, _ = table(rows)
    frame["t"] = np.arange(float(rows))
    return frame, infer_schema(frame, "y", series=Series("t", window=4))


CASES = {"embedding": (table, Embedded), "statistics": (table, Normed), "windows": (series, EmbeddedWindows)}


@pytest.fixture(params=CASES)
def learnt(request):
    data, network = CASES[request.param]
    frame, schema = data()
    torch.manual_seed(1)
    training = Training(epochs=8, learning_rate=1e-2, batch_size=32, device="cpu")
    return frame, train(frame, schema, network().double(), training=training)


@pytest.mark.parametrize("rule", RULES)
class TestRefinement:
    def test_leaves_weights_buffers_and_modes_as_they_are(self, learnt, rule):
        frame, backbone = learnt
        module = backbone.module.train()
        next(part for part in module.modules() if isinstance(part, nn.Linear)).eval()
        kept, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
        assert len(set(modes)) == 2
        result = refine(frame, backbone, Refining(rule=rule, max_epochs=5, device="cpu"))
        assert result.totals.moved > 20
        assert [part.training for part in module.modules()] == modes
        for name, value in module.state_dict().items():
            assert torch.equal(value, kept[name])

    def test_moves_measurements_and_nothing_else(self, learnt, rule):
        frame, backbone = learnt
        result = refine(frame, backbone, Refining(rule=rule, max_epochs=5, device="cpu"))
        for name in backbone.encoder.schema.untouched:
            assert_same_cells(frame[name], result.frame[name])
        for name in ("a", "b", "y"):
            assert (result.frame[name] != frame[name]).sum() > 20
        assert result.totals.residual_after < result.totals.residual_before

    @pytest.mark.parametrize("smoothing", [None, Smoothing("fusiongrad", samples=3)], ids=["plain", "smoothed"])
    def test_of_an_item_does_not_depend_on_its_company(self, learnt, rule, smoothing):
        frame, backbone = learnt
        refining = Refining(rule=rule, eta=0.05, max_epochs=4, tau=0.2, smoothing=smoothing, device="cpu")
        if smoothing is not None:
            refining = replace(refining, smoothing=replace(smoothing, sigma_weights=0.1))
        found = [refine(frame, backbone, replace(refining, batch_size=size)) for size in (500, 7)]
        cells = backbone.encoder.schema.cells
        np.testing.assert_allclose(found[0].frame[cells], found[1].frame[cells], rtol=1e-9, atol=1e-12)
        if backbone.encoder.schema.series is None:
            to_the_end = replace(refining, eta=1.0, max_epochs=300) if rule == "proximal" else refining
            expected = refine(frame, backbone, to_the_end).frame[cells].iloc[40:43]
            found = [refine(frame.iloc[at : at + 1], backbone, to_the_end).frame[cells] for at in (40, 41, 42)]
            tolerance = 2e-3 if rule == "proximal" else 1e-9
            np.testing.assert_allclose(pd.concat(found), expected, rtol=tolerance, atol=tolerance)


class TestEmbeddings:
    def test_are_learnt_and_used(self):
        frame, schema = table()
        training = Training(epochs=30, learning_rate=1e-2, batch_size=32, device="cpu")
        backbone = train(frame, schema, Embedded(), training=training)
        assert backbone.skill["y"] > 0.8
        recoloured = frame.assign(color="green")
        one, other = (refine(data, backbone, Refining(max_epochs=1, device="cpu")).rows for data in (frame, recoloured))
        changed = frame["color"] != "green"
        assert (one["residual_before"] != other["residual_before"]).tolist() == changed.tolist()

    def test_a_step_is_that_of_the_network_behind_the_embedding(self):
        frame, schema = table(60)
        torch.manual_seed(3)
        network = Embedded().double()
        backbone = fitted(frame, schema, network, standardise=False)
        result = refine(frame, backbone, Refining(eta=0.1, tau=0.1, max_epochs=1, device="cpu"))
        level = torch.tensor([LEVELS.index(one) for one in frame["color"]])
        z = torch.tensor(frame[["a", "b", "y"]].to_numpy(), requires_grad=True)
        predicted = network.layers(torch.cat([z[:, :2], network.embedding(level)], dim=1))
        residual = predicted - z[:, 2:]
        (g,) = torch.autograd.grad(residual.square().sum(), z)
        step = -0.1 * g / g.norm(dim=1, keepdim=True) * (residual.abs() > 0.1)
        np.testing.assert_allclose(result.frame[["a", "b", "y"]], (z + step).detach(), rtol=1e-9, atol=1e-12)


def test_a_weight_in_two_places_is_perturbed_alike_in_both():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(5, 5)
            self.other = nn.Linear(5, 5)
            self.other.weight = self.one.weight
            self.head = nn.Linear(5, 1)

        def forward(self, x):
            return self.head(torch.tanh(self.other(torch.tanh(self.one(x)))))

    frame, schema = table(60)
    torch.manual_seed(0)
    module = Tied().double().requires_grad_(False)
    backbone = fitted(frame, schema, module)
    problem = pose(frame, backbone.encoder, torch.device("cpu"), torch.float64)
    smoother = Smoothing("noisegrad", samples=1, sigma_weights=0.5, seed=3).on(module, backbone.loss, problem)
    x, y = problem.gather(problem.known)
    perturbed, generator = copy.deepcopy(module), torch.Generator().manual_seed(3)
    for weight in perturbed.parameters():
        weight.mul_(1 + 0.5 * torch.randn(1, *weight.shape, generator=generator, dtype=torch.float64)[0])
    assert perturbed.one.weight is perturbed.other.weight
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(backbone.loss.loss(perturbed(leaf), y).sum(), leaf)
    torch.testing.assert_close(smoother.gradient(backbone.loss, x, y)[0], expected)
    assert module.one.weight is module.other.weight


def test_predictions_without_a_last_dimension_are_one_target():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, x):
            return self.layer(x).squeeze(-1)

    frame, schema = table(80)
    torch.manual_seed(0)
    flat = Flat().double()
    encoder = Encoder.fit(frame, schema)
    assert encoder.outputs == 1
    for rule in RULES:
        refining = Refining(rule=rule, max_epochs=3, device="cpu")
        found = refine(frame, fitted(frame, schema, flat), refining)
        expected = refine(frame, fitted(frame, schema, flat.layer), refining)
        pd.testing.assert_frame_equal(found.frame, expected.frame)
