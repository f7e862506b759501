"""Fitting a backbone: what it learns, when it stops, what it holds out, and what it leaves alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.backbones import build
from denograd_engine.devices import frozen
from denograd_engine.errors import ConfigError, DenogradError, SchemaError, TimeAxisError, TooFewRowsError
from denograd_engine.problem import pose
from denograd_engine.schema import Series, infer_schema
from denograd_engine.training import Start, Training, train
from denograd_engine.unseen import held_out, worth
from tests.engine.problems import mixed_series, mixed_table

QUICK = Training(epochs=3, device="cpu")


def learnable(rows=600, noise=0.1, seed=0):
    """y is linear in two features."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 2))
    frame = pd.DataFrame(x, columns=["a", "b"])
    frame["y"] = 2 * x[:, 0] - x[:, 1] + noise * random.normal(size=rows)
    return frame, infer_schema(frame, "y")


def wave(rows=700):
    """An hourly series whose next value follows from the last few."""
    random = np.random.default_rng(1)
    hours = np.arange(rows)
    frame = pd.DataFrame({"time": pd.Timestamp("2024-03-01") + pd.to_timedelta(hours, "h")})
    frame["load"] = 40 + 10 * np.sin(hours / 4) + random.normal(0, 0.3, rows)
    return frame, infer_schema(frame, "load", series=Series("time", window=8))


class TestWhatItLearns:
    def test_a_linear_table(self):
        frame, schema = learnable()
        backbone = train(frame, schema, training=Training(epochs=40, device="cpu"))
        assert list(backbone.skill) == ["y"]
        assert backbone.skill["y"] > 0.9
        assert backbone.mean_skill == backbone.skill["y"]
        assert 0 < backbone.residual_scale < 0.3

    def test_a_series(self):
        frame, schema = wave()
        backbone = train(frame, schema, training=Training(epochs=20, learning_rate=1e-2, device="cpu"))
        assert backbone.skill["load"] > 0.9

    def test_several_targets_each_with_its_own_skill(self):
        frame, schema = learnable()
        frame["z"] = np.random.default_rng(9).normal(size=len(frame))
        schema = infer_schema(frame, ["y", "z"])
        skill = train(frame, schema, training=Training(epochs=30, device="cpu")).skill
        assert skill["y"] > 0.8
        assert skill["z"] < 0.1

    @pytest.mark.parametrize("seed", range(3))
    def test_nothing_where_there_is_only_noise(self, seed):
        frame, _ = learnable(noise=1.0, seed=seed)
        frame["y"] = np.random.default_rng(seed + 50).normal(size=len(frame))
        backbone = train(frame, infer_schema(frame, "y"), training=Training(seed=seed, device="cpu"))
        assert backbone.mean_skill < 0.1

    def test_skill_is_r2_on_the_part_held_out(self):
        frame, schema = learnable()
        backbone = train(frame, schema, training=QUICK)
        problem = pose(frame, backbone.encoder, torch.device("cpu"), torch.float32)
        fitted, held_out = problem.split(QUICK.holdout, QUICK.seed)
        assert sorted([*fitted.tolist(), *held_out.tolist()]) == list(range(600))
        x, y = (part.numpy().astype(float) for part in problem.gather(held_out))
        with torch.no_grad(), frozen(backbone.module, torch.device("cpu")):
            residual = backbone.module(torch.from_numpy(x).float()).numpy() - y
        assert backbone.skill["y"] == pytest.approx(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum(), abs=1e-5)
        assert backbone.residual_scale == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-5)


class TestEarlyStopping:
    def test_restores_the_weights_of_the_best_epoch(self):
        frame, _ = learnable(rows=200, noise=3.0)
        schema, weights = infer_schema(frame, "y"), []

        class Watched(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = build("mlp", (2,), 1, {"hidden": (64, 64), "dropout": 0.0})

            def forward(self, x):
                if not self.training:
                    weights.append(copy.deepcopy(self.state_dict()))
                return self.layers(x)

        training = Training(epochs=200, patience=5, learning_rate=1e-2, device="cpu")
        backbone = train(frame, schema, Watched(), training=training)
        losses = [epoch.holdout_loss for epoch in backbone.history]
        best = int(np.argmin(losses))
        assert len(losses) < 200
        assert len(losses) == best + 1 + 5
        *_, after = epochs = weights[-len(losses) - 1 :]
        assert backbone.residual_scale**2 == pytest.approx(losses[best], rel=1e-6)
        for name, value in backbone.module.state_dict().items():
            assert torch.equal(value, epochs[best][name])
            assert torch.equal(value, after[name])
            assert not torch.equal(value, epochs[-2][name])

    def test_runs_all_epochs_while_it_improves(self):
        frame, schema = learnable()
        history = train(frame, schema, training=Training(epochs=5, device="cpu")).history
        assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5]
        assert history[-1].train_loss < history[0].train_loss

    def test_a_run_that_diverges_says_so(self):
        frame, schema = learnable()
        with pytest.raises(DenogradError, match="training diverged") as caught:
            train(frame, schema, training=Training(learning_rate=1e25, device="cpu"))
        assert caught.value.where.startswith("epoch ")
        assert "learning_rate" in caught.value.remedy


class TestCallbacks:
    def test_are_told_of_every_epoch_in_order(self):
        frame, schema = learnable()
        seen = []
        backbone = train(frame, schema, training=QUICK, on_epoch=seen.append)
        assert tuple(seen) == backbone.history
        assert [one.epoch for one in seen] == [1, 2, 3]
        assert all(math.isfinite(one.train_loss) and math.isfinite(one.holdout_loss) for one in seen)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
    def test_may_end_the_training(self, kind):
        frame, schema = learnable()
        seen = []

        def stop_at_two(epoch):
            seen.append(epoch.epoch)
            if epoch.epoch == 2:
                raise kind

        torch.manual_seed(5)
        before = torch.get_rng_state()
        with pytest.raises(kind):
            train(frame, schema, training=QUICK, on_epoch=stop_at_two)
        assert seen == [1, 2]
        assert torch.equal(torch.get_rng_state(), before)


class TestWhatItLeavesAlone:
    @pytest.mark.parametrize("problem", [mixed_table(missing=True), mixed_series()])
    def test_the_frame_and_the_random_numbers(self, problem):
        kept = problem.frame.copy(deep=True)
        torch.manual_seed(5)
        np.random.seed(5)
        ours, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
        train(problem.frame, problem.schema, training=QUICK)
        pd.testing.assert_frame_equal(problem.frame, kept, check_exact=True)
        assert torch.equal(ours, torch.get_rng_state())
        assert (numpys == np.random.get_state()[1]).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_module_of_the_users_is_copied(self, dtype):
        frame, schema = learnable()
        module = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
        module[1].eval()
        kept, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
        backbone = train(frame, schema, module, training=QUICK)
        assert backbone.module is not module
        for name, value in module.state_dict().items():
            assert torch.equal(value, kept[name])
        assert [part.training for part in module.modules()] == modes
        assert all(weight.grad is None for weight in module.parameters())
        assert {weight.dtype for weight in backbone.module.parameters()} == {dtype}
        assert any(not torch.equal(value, kept[name]) for name, value in backbone.module.state_dict().items())


class TestSeeds:
    def test_the_same_gives_the_same_weights_whatever_was_drawn_before(self):
        frame, schema = learnable()
        found = []
        for _ in range(2):
            torch.rand(7)
            found.append(train(frame, schema, training=QUICK))
        for one, other in zip(found[0].module.parameters(), found[1].module.parameters(), strict=True):
            assert torch.equal(one, other)
        assert found[0].history == found[1].history

    def test_another_gives_others(self):
        frame, schema = learnable()
        one, other = (train(frame, schema, training=Training(epochs=1, seed=seed, device="cpu")) for seed in (0, 1))
        assert one.history != other.history


class TestHoldout:
    def test_of_a_table_is_a_random_share_of_the_rows_with_a_target(self):
        frame, schema = learnable(rows=200)
        frame.loc[::10, "y"] = np.nan
        problem = pose(frame, train(frame, schema, training=QUICK).encoder, torch.device("cpu"), torch.float32)
        fitted, held_out = problem.split(0.25, 0)
        assert (len(fitted), len(held_out)) == (135, 45)
        both = sorted([*fitted.tolist(), *held_out.tolist()])
        assert both == [row for row in range(200) if row % 10]
        assert held_out.tolist() != sorted(held_out.tolist())
        assert problem.split(0.25, 0)[1].tolist() == held_out.tolist()
        assert problem.split(0.25, 1)[1].tolist() != held_out.tolist()

    @pytest.mark.parametrize("case", [{}, {"entities": 3, "gap": True, "steps": 60}, {"stride": 2, "steps": 130}])
    @pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
    def test_of_a_series_is_its_last_block_and_no_training_target_lies_in_it(self, case, share):
        problem = mixed_series(**case)
        posed = pose(problem.frame, problem.backbone.encoder, torch.device("cpu"), torch.float64)
        fitted, held_out = posed.split(share, 0)
        times = problem.frame["time"].to_numpy()[posed.order]
        targets = posed.windows.predicted(posed.windows.starts)
        seen, hidden = times[targets[fitted]], times[targets[held_out]]
        assert seen.max() < hidden.min()
        assert sorted([*fitted.tolist(), *held_out.tolist()]) == posed.known.tolist()
        assert len(held_out) == pytest.approx(share * len(posed.known), abs=4)
        if len(set(times)) == len(times):
            assert len(fitted) == int((1 - share) * len(posed.known))

    def test_that_leaves_nothing_to_train_on(self):
        frame, schema = learnable()
        with pytest.raises(TooFewRowsError, match="leaves nothing to train on") as caught:
            train(frame, schema, training=Training(holdout=0.9999, device="cpu"))
        assert caught.value.where == "backbone.training.holdout"

    @pytest.mark.parametrize(
        "wrong",
        [{"holdout": 1.0}, {"holdout": 0.0}, {"epochs": 0}, {"batch_size": 0}, {"patience": 0}, {"learning_rate": 0.0}],
    )
    def test_impossible_settings_are_refused(self, wrong):
        with pytest.raises(ConfigError, match="training"):
            Training(**wrong)


class TestInputErrors:
    def refused(self, kind, call, *parts):
        with pytest.raises(kind) as caught:
            call()
        for part in parts:
            assert part in str(caught.value)
        assert "98765" not in str(caught.value)

    @pytest.mark.parametrize("rows", [0, 1, 49])
    def test_too_few_rows(self, rows):
        frame, schema = learnable()
        few = frame.assign(y=frame["y"].where(frame.index < rows) + 98765.0).head(max(rows, 2))
        kind = TooFewRowsError if rows > 1 else SchemaError
        self.refused(kind, lambda: train(few, schema, training=QUICK), *(["at least 50 rows"] if rows > 1 else []))

    def test_too_few_windows(self):
        frame, schema = wave(rows=50)
        self.refused(
            TooFewRowsError, lambda: train(frame, schema, training=QUICK), "50 windows", "found: 42", "shorter series"
        )

    def test_no_window_at_all(self):
        frame, schema = wave()
        self.refused(
            TimeAxisError, lambda: train(frame.head(8), schema, training=QUICK), "at least 9 steps", "found: 8 at most"
        )

    def test_infinite_values_name_the_column_and_the_first_row(self):
        frame, schema = learnable()
        frame.loc[[7, 9], "b"] = [np.inf, -np.inf]
        self.refused(
            SchemaError, lambda: train(frame, schema, training=QUICK), "'b' holds infinite", "2 infinite cells", "row 7"
        )

    def test_a_declared_feature_that_is_constant(self):
        frame, _ = learnable()
        frame["b"] = 98765.4321
        schema = infer_schema(frame, "y", features=["b"])
        self.refused(SchemaError, lambda: train(frame, schema), "'b' is constant", "columns.frozen: [b]")

    def test_a_column_without_any_value(self):
        frame, _ = learnable()
        frame["b"] = np.nan
        schema = infer_schema(frame, "y")
        self.refused(SchemaError, lambda: train(frame, schema), "'b' has no values", "columns.ignored: [b]")

    def test_nothing_to_predict_from(self):
        frame, _ = learnable()
        for lonely in (frame[["y"]], frame[["y"]].assign(same=4.0)):
            schema = infer_schema(lonely, "y")
            self.refused(SchemaError, lambda f=lonely, s=schema: train(f, s, training=QUICK), "to predict y from")

    def test_one_feature_or_context_alone_is_enough(self):
        frame, _ = learnable()
        one = frame[["a", "y"]]
        assert train(one, infer_schema(one, "y"), training=QUICK).module.layers[1].in_features == 1
        context = frame[["y"]].assign(kind=["a", "b", "c"] * 200)
        backbone = train(context, infer_schema(context, "y"), training=QUICK)
        assert backbone.encoder.context_width == 3
        assert backbone.encoder.schema.refined == ["y"]

    def test_a_batch_larger_than_the_data(self):
        frame, schema = learnable(rows=60)
        backbone = train(frame, schema, training=Training(epochs=2, batch_size=10_000, device="cpu"))
        assert len(backbone.history) == 2

    def test_a_last_batch_of_one_row_is_no_matter_for_batch_norm(self):
        frame, schema = learnable(rows=81)
        module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        backbone = train(frame, schema, module, training=Training(epochs=2, batch_size=16, holdout=0.2, device="cpu"))
        assert len(backbone.history) == 2

    def test_an_unknown_backbone(self):
        frame, schema = learnable()
        self.refused(ConfigError, lambda: train(frame, schema, "forest"), "no backbone 'forest'", "mlp or lstm")

    def test_a_backbone_for_series_on_a_table(self):
        frame, schema = learnable()
        self.refused(ConfigError, lambda: train(frame, schema, "lstm"), "choose 'mlp'", "backbone.kind")

    def test_an_unknown_argument(self):
        frame, schema = learnable()
        self.refused(
            ConfigError,
            lambda: train(frame, schema, "mlp", {"depth": 3}),
            "'mlp' does not take these arguments",
            "'depth'",
            "backbone.arguments",
        )

    @pytest.mark.parametrize("module", [nn.Linear(5, 1), nn.Linear(2, 3), nn.Softmax(1)])
    def test_a_module_that_does_not_fit_the_data(self, module):
        frame, schema = learnable()
        self.refused(ConfigError, lambda: train(frame, schema, module, training=QUICK), "(2,)", "1 output")

    def test_an_mlp_reads_windows_too(self):
        frame, schema = wave()
        backbone = train(frame, schema, "mlp", {"hidden": [16]}, training=QUICK)
        assert backbone.module.layers[1].in_features == 8

    @pytest.mark.parametrize("kind", ["mlp", "lstm"])
    def test_backbones_predict_one_column_for_each_target(self, kind):
        assert build(kind, (5, 3), 2)(torch.zeros(7, 5, 3)).shape == (7, 2)


@pytest.fixture(scope="module")
def grown():
    """A table whose later half has drifted."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(600, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["y"] = np.sin(2 * x[:, 0]) * x[:, 1] + x[:, 2] + 0.1 * generator.normal(size=600)
    frame.loc[300:, "a"] += 0.5
    return frame


@pytest.fixture(scope="module")
def start(grown):
    """A network of its first half."""
    before = train(grown[:300], infer_schema(grown, target="y"), training=Training(epochs=60))
    return Start(before.module.state_dict(), np.arange(len(grown)) >= 300)


class TestGoingOn:
    """A training that begins with the weights of another one."""

    def go_on(self, grown, start, **changes):
        return train(grown, infer_schema(grown, target="y"), training=Training(epochs=60, **changes), start=start)

    def test_it_is_no_worse_than_where_it_began(self, grown, start):
        alone = self.go_on(grown, start, learning_rate=1e-30)
        assert all(torch.equal(one, start.weights[name]) for name, one in alone.module.state_dict().items())
        further = self.go_on(grown, start)
        assert further.mean_skill >= alone.mean_skill
        assert min(epoch.holdout_loss for epoch in further.history) <= alone.history[0].holdout_loss

    def test_the_same_again_gives_the_same_weights(self, grown, start):
        one, other = (self.go_on(grown, start, patience=2).module.state_dict() for _ in range(2))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_it_is_judged_by_rows_that_are_new_to_both(self, grown, start):
        fitted = self.go_on(grown, start, patience=2)
        rows = held_out(grown, fitted.encoder, Training())
        assert fitted.skill == pytest.approx(worth(grown, fitted, rows & start.unseen).skill)
        assert fitted.skill != pytest.approx(worth(grown, fitted, rows).skill)

    def test_too_few_of_them_are_named(self, grown, start):
        with pytest.raises(TooFewRowsError, match="new to the network"):
            self.go_on(grown, replace(start, unseen=np.arange(len(grown)) >= 500))

    def test_weights_of_another_network_are_named(self, grown, start):
        with pytest.raises(ConfigError, match="those of another network"):
            train(grown, infer_schema(grown, target="y"), arguments={"hidden": [8]}, start=start)
