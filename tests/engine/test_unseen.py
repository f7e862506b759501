"""What models are worth on rows that they were not fitted to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine import infer_schema, train
from denograd_engine.crossfit import train_folds
from denograd_engine.folds import fold_of
from denograd_engine.frames import Encoder
from denograd_engine.posterior.model import fit_posterior
from denograd_engine.posterior.task import Fit
from denograd_engine.schema import Series
from denograd_engine.training import Backbone, Training
from denograd_engine.unseen import held_out, worth, worth_blind

QUICK = Training(epochs=4, batch_size=64)
NOISE = 0.3


def table(rows=300, classes=False):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 2))
    y = x @ [1.0, -0.5] + 0.2 * generator.normal(size=rows)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": np.where(y > 0, "high", "low") if classes else y})
    return frame, infer_schema(frame, "y")


def series(future=1):
    steps = np.arange(400)
    wave = np.sin(steps / 5) + 0.1 * np.random.default_rng(0).normal(size=400)
    frame = pd.DataFrame(
        {"time": pd.date_range("2026-01-01", periods=400, freq="h"), "wave": wave, "y": np.roll(wave, 2)}
    )
    return frame, infer_schema(frame, "y", series=Series("time", window=8, future=future))


@pytest.mark.parametrize(
    "made", [table(), table(classes=True), series(), series((1, 3))], ids=["table", "classes", "series", "horizons"]
)
def test_on_the_rows_held_out_it_is_the_skill_of_the_training(made):
    frame, schema = made
    backbone = train(frame, schema, "mlp", training=QUICK)
    rows = held_out(frame, backbone.encoder, QUICK)
    assert worth(frame, backbone, rows).skill == pytest.approx(backbone.skill)


def test_rows_are_judged_by_the_network_that_never_saw_them():
    frame, schema = table()
    backbone = train_folds(frame, schema, 3, training=QUICK)
    fold = fold_of(frame, schema, 3)
    whole = worth(frame, backbone, np.ones(len(frame), dtype=bool))
    assert whole.rows == len(frame)
    of_folds = [worth(frame, backbone, fold == number).skill["y"] for number in range(3)]
    assert np.mean(of_folds) == pytest.approx(backbone.skill["y"])
    turned = replace(backbone, module=nn.ModuleList(list(backbone.module)[::-1]))
    assert worth(frame, turned, fold == 1) == worth(frame, backbone, fold == 1)
    assert worth(frame, turned, fold == 0) != worth(frame, backbone, fold == 0)


def test_the_scaling_of_a_model_does_not_count():
    frame, schema = table()
    exact = nn.Linear(2, 1, bias=False)
    found = []
    for spread in (1.0, 4.0):
        scales = tuple(replace(scale, center=0.0, spread=spread) for scale in Encoder.fit(frame, schema).scales)
        with torch.no_grad():
            exact.weight.copy_(torch.tensor([[1.0, -0.5]]))
        encoder = replace(Encoder.fit(frame, schema), scales=scales)
        found.append(worth(frame, Backbone(exact, encoder, {}, 0.0), frame["a"].to_numpy() > 0))
    left = (frame["y"] - frame["a"] + 0.5 * frame["b"])[frame["a"] > 0]
    assert found[0].skill["y"] == pytest.approx(found[1].skill["y"], abs=1e-5)
    residual, spread = np.square(left).mean(), frame["y"][frame["a"] > 0].var(ddof=0)
    assert found[0].skill["y"] == pytest.approx(1 - residual / spread, abs=1e-5)


@pytest.mark.parametrize("made", [table(), series()], ids=["table", "series"])
def test_a_posterior_model_is_worth_on_all_rows_what_it_was_found_to_be(made):
    frame, schema = made
    noisy = replace(schema, columns=tuple(replace(c, noise=NOISE) if c.refined else c for c in schema.columns))
    model = fit_posterior(frame, noisy, Fit(folds=2, fewest_steps=10, most_steps=20, hidden=16), "cpu")
    found = worth_blind(frame, model, np.ones(len(frame), dtype=bool))
    assert found.rows == len(frame)
    assert found.skill == pytest.approx({name: one.skill for name, one in model.columns.items() if one.noise}, abs=1e-5)
    some = np.arange(len(frame)) % 2 == 0
    assert worth_blind(frame, model, some).rows == some.sum()
    assert worth_blind(frame, model, some) != found


def test_without_rows_there_is_nothing_to_say():
    frame, schema = table()
    nothing = worth(frame, train(frame, schema, training=QUICK), np.zeros(len(frame), dtype=bool))
    assert (nothing.skill, nothing.rows) == ({}, 0)
