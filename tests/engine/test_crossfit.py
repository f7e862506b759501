"""Cross-fitting: each row is refined by a network that never saw it, and by nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.crossfit import train_folds
from denograd_engine.errors import ConfigError, TooFewRowsError
from denograd_engine.folds import fold_of
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import Series, infer_schema
from denograd_engine.training import Backbone, Training
from tests.engine.problems import mixed_series, mixed_table
from tests.engine.test_training import learnable, wave

QUICK = Training(epochs=8, learning_rate=1e-2, device="cpu")
RULES = ["denograd", "gauss_newton", "proximal"]
FEW = {"max_epochs": 8, "device": "cpu"}


def folded(backbone, networks):
    return Backbone(nn.ModuleList(networks), backbone.encoder, {}, backbone.residual_scale)


def alike(one, other):
    """Which networks of two backbones have the same weights."""
    pairs = zip(one.networks, other.networks, strict=True)
    flat = [[nn.utils.parameters_to_vector(network.parameters()) for network in pair] for pair in pairs]
    return [torch.allclose(a, b, atol=1e-4) for a, b in flat]


@pytest.fixture(params=["table", "series"])
def problem(request):
    return mixed_table(rows=90, missing=True) if request.param == "table" else mixed_series(steps=150, missing=True)


class TestTraining:
    def test_a_fold_s_network_does_not_see_its_rows(self):
        frame, schema = learnable(rows=300)
        inside = np.flatnonzero(fold_of(frame, schema, 3) == 1)
        turned = frame.copy()
        turned.iloc[inside] = frame.iloc[inside[::-1]].to_numpy()
        before, after = (train_folds(one, schema, 3, training=QUICK) for one in (frame, turned))
        assert alike(before, after) == [False, True, False]

    def test_what_a_series_s_block_holds_does_not_reach_its_network(self):
        frame, schema = wave(400)
        inside = np.flatnonzero(fold_of(frame, schema, 2) == 0)
        turned = frame.copy()
        turned.loc[inside, "load"] = frame["load"].to_numpy()[inside[::-1]]
        before, after = (train_folds(one, schema, 2, "mlp", training=QUICK) for one in (frame, turned))
        assert alike(before, after) == [True, False]

    def test_skill_is_that_on_folds_that_were_not_seen(self):
        frame, schema = learnable(rows=400, noise=1.0)
        generator = np.random.default_rng(5)
        frame = frame.assign(**{f"z{at}": generator.normal(size=400) for at in range(30)}, y=generator.normal(size=400))
        schema = infer_schema(frame, "y")
        assert train_folds(frame, schema, 4, training=Training(epochs=30, device="cpu")).mean_skill < 0.1

    def test_it_learns(self):
        frame, schema = learnable()
        told: list[tuple[int, int]] = []
        backbone = train_folds(frame, schema, 3, None, None, QUICK, lambda fold, one: told.append((fold, one.epoch)))
        assert backbone.skill["y"] > 0.8
        assert 0 < backbone.residual_scale < 0.5
        assert sorted({fold for fold, _ in told}) == [0, 1, 2]
        longest = max(epoch for _, epoch in told)
        assert [one.epoch for one in backbone.history] == list(range(1, longest + 1))

    def test_the_same_seed_gives_the_same_networks(self):
        frame, schema = learnable(rows=200)
        one, other = (train_folds(frame, schema, 2, training=QUICK).module.state_dict() for _ in range(2))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_too_small_folds_are_refused(self):
        frame, schema = learnable(rows=60)
        with pytest.raises(TooFewRowsError, match="a fold leaves too little") as caught:
            train_folds(frame, schema, 20, training=QUICK)
        assert caught.value.where == "backbone.training.folds"
        assert caught.value.remedy == "choose fewer folds"

    def test_windows_too_long_for_the_blocks_are_refused(self):
        frame, schema = wave(200)
        schema = infer_schema(frame, "load", series=Series("time", window=96))
        with pytest.raises(TooFewRowsError, match="a fold leaves too little"):
            train_folds(frame, schema, 2, "mlp", training=QUICK)

    def test_one_fold_is_none(self):
        frame, schema = learnable(rows=100)
        with pytest.raises(ConfigError, match="at least 2 folds"):
            train_folds(frame, schema, 1, training=QUICK)


class TestRefining:
    @pytest.mark.parametrize("rule", RULES)
    def test_the_same_network_for_every_fold_refines_a_table_as_it_does_alone(self, rule):
        problem = mixed_table(rows=90, missing=True)
        alone = problem.backbone.module
        one = refine(problem.frame, problem.backbone, Refining(rule=rule, **FEW))
        three = refine(problem.frame, folded(problem.backbone, [alone] * 3), Refining(rule=rule, **FEW))
        tolerance = 1e-3 if rule == "proximal" else 1e-9  # whose search sees all of its rows at once
        pd.testing.assert_frame_equal(three.frame, one.frame, rtol=tolerance, atol=tolerance)
        pd.testing.assert_series_equal(three.rows["residual_before"], one.rows["residual_before"])
        assert three.totals.residual_before == pytest.approx(one.totals.residual_before)

    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton"])
    def test_the_first_step_of_a_series_is_the_same_to_its_cells(self, rule):
        problem = mixed_series(steps=150, missing=True, targets=2, future=(1, 2))
        given = Refining(rule=rule, eta=0.05, max_epochs=1, device="cpu")
        one = refine(problem.frame, problem.backbone, given)
        three = refine(problem.frame, folded(problem.backbone, [problem.backbone.module] * 3), given)
        pd.testing.assert_frame_equal(three.frame, one.frame, rtol=1e-9, atol=1e-9)
        pd.testing.assert_series_equal(three.rows["residual_before"], one.rows["residual_before"])
        assert set(three.rows["status"]) == set(one.rows["status"])
        assert three.totals.status == one.totals.status

    @pytest.mark.parametrize("rule", RULES)
    def test_each_row_is_moved_by_the_network_of_its_own_fold(self, problem, rule):
        fold = fold_of(problem.frame, problem.schema, 2)
        networks = [copy.deepcopy(problem.backbone.module) for _ in range(2)]
        with torch.no_grad():
            networks[0][1].weight.zero_()
            networks[0][1].bias.zero_()
        flat = refine(problem.frame, folded(problem.backbone, [networks[0]]), Refining(rule=rule, eta=0.1, **FEW))
        mixed = refine(problem.frame, folded(problem.backbone, networks), Refining(rule=rule, eta=0.1, **FEW))
        features = problem.schema.features
        moved = (mixed.frame[features] != problem.frame[features]) & problem.frame[features].notna()
        assert not (flat.frame[features].ne(problem.frame[features]) & problem.frame[features].notna()).any(axis=None)
        inside = (fold == 0) & (mixed.rows["status"] != "skipped").to_numpy()
        assert not moved[fold == 0].any(axis=None)
        assert moved[fold == 1].any(axis=None)
        assert inside.any()

    def test_the_networks_are_handed_back_as_they_were(self, problem):
        backbone = folded(problem.backbone, [copy.deepcopy(problem.backbone.module) for _ in range(2)])
        before = copy.deepcopy(backbone.module.state_dict())
        backbone.networks[0].train()
        refine(problem.frame, backbone, Refining(**FEW))
        assert backbone.networks[0].training
        assert all(torch.equal(before[name], values) for name, values in backbone.module.state_dict().items())

    def test_progress_grows_over_all_folds(self):
        problem = mixed_series(steps=150)
        told: list[float] = []
        backbone = folded(problem.backbone, [problem.backbone.module] * 3)
        refine(problem.frame, backbone, Refining(eta=0.01, **FEW), on_progress=lambda now: told.append(now.share))
        assert told == sorted(told)
        assert told[-1] == pytest.approx(1.0)
        assert told[0] < 1 / 3
