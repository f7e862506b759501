"""On a GPU everything comes to what it comes to on a CPU, to single precision. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denograd_engine.backbones import build
from denograd_engine.devices import batch_size_for, frozen
from denograd_engine.refinement import Refining, refine
from denograd_engine.smoothing import Smoothing
from tests.engine.problems import fitted, mixed_series, mixed_table, width_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def assert_same_on_both(problem, **refining):
    settings = {"max_epochs": 10, "tau": 0.3, **refining}
    found, expected = (
        refine(problem.frame, problem.backbone, Refining(device=device, **settings)) for device in ("cuda", "cpu")
    )
    cells = problem.schema.cells
    spreads = problem.backbone.encoder.spreads
    apart = (found.frame[cells] - expected.frame[cells]).to_numpy() / spreads
    assert np.nanmax(np.abs(apart)) < 1e-3
    same = (found.rows["status"] == expected.rows["status"]).mean()
    assert same > 0.95


@pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
@pytest.mark.parametrize(
    "problem", [mixed_table(targets=2, missing=True), mixed_series(entities=2)], ids=["table", "series"]
)
def test_rules(rule, problem):
    assert_same_on_both(problem, rule=rule)


@pytest.mark.parametrize("kind", ["lstm", "gru", "cnn", "cnn_lstm", "dlinear", "transformer"])
@pytest.mark.parametrize("rule", ["denograd", "proximal"])
def test_networks_for_series(kind, rule):
    plain = mixed_series(window=12)
    torch.manual_seed(0)
    module = build(kind, (12, width_of(plain.backbone.encoder) + 1), 1).float()
    problem = type(plain)(plain.frame, plain.schema, fitted(plain.frame, plain.schema, module), plain.runs)
    assert_same_on_both(problem, rule=rule)


@pytest.mark.parametrize("kind", ["smoothgrad", "noisegrad", "fusiongrad"])
def test_smoothing(kind):
    assert_same_on_both(mixed_table(), smoothing=Smoothing(kind, samples=2))


def test_the_batch_grows_with_the_free_memory_and_fits():
    module = build("mlp", (40,), 1).cuda()
    with frozen(module, torch.device("cuda")):
        size = batch_size_for(module, (40,), torch.zeros(1, device="cuda"))
        x = torch.zeros(size, 40, device="cuda", requires_grad=True)
        torch.autograd.grad(module(x).sum(), x)
    assert size > 4096
