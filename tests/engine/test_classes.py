"""Classification: which targets hold classes, what is learnt, and that features move while classes stay."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.errors import ConfigError, SchemaError
from denograd_engine.frames import MOST_CLASSES, Encoder
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import Series, infer_schema
from denograd_engine.training import Training, assess, train
from tests.engine.problems import fitted, linear
from tests.engine.strategies import assert_same_cells

CENTERS = np.array([[0.0, 1.4], [1.2, -0.7], [-1.2, -0.7]])
NAMES = np.array(["ant", "bee", "cat"])


def blobs(rows=300, seed=0):
    """Three clouds that can be told apart."""
    random = np.random.default_rng(seed)
    kind = np.arange(rows) % 3
    x = CENTERS[kind] + random.normal(0.0, 0.5, size=(rows, 2))
    frame = pd.DataFrame(x, columns=["a", "b"])
    frame["site"] = random.choice(["north", "south"], rows)
    return frame.assign(kind=NAMES[kind])


def soft(frame, schema, weight=CENTERS, dtype=torch.float64):
    """A linear softmax that knows the clouds; standardised units are the user's, context does not count."""
    encoder = Encoder.fit(frame, schema)
    width = len(schema.features) + encoder.context_width
    padded = np.pad(weight, ((0, 0), (0, width - weight.shape[1])))
    return fitted(frame, schema, linear(padded, dtype=dtype), standardise=False)


def probability(frame, backbone, weight=CENTERS):
    """Of the given class, by hand."""
    logits = frame[["a", "b"]].to_numpy() @ weight.T
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return p[np.arange(len(frame)), [backbone.encoder.classes.index(str(one)) for one in frame["kind"]]]


def refined(frame, backbone, **refining):
    return refine(frame, backbone, Refining(**{"device": "cpu", "tau": 0.1, "max_epochs": 500, **refining}))


KINDS = {
    "text": lambda text: text,
    "string": lambda text: pd.array(text, dtype="string"),
    "category": pd.Categorical,
    "bool": lambda text: text == "bee",
    "boolean": lambda text: pd.array(text == "bee", dtype="boolean"),
    "integer": lambda text: np.searchsorted(NAMES, text),
    "Int64": lambda text: pd.array(np.searchsorted(NAMES, text) * 5, dtype="Int64"),
    "float": lambda text: np.searchsorted(NAMES, text) / 2,
}
ASKED = {"integer", "Int64", "float"}


class TestWhichTargetsAreClasses:
    @pytest.mark.parametrize("kind", KINDS)
    def test_text_categories_and_booleans_are_and_numbers_where_told_so(self, kind):
        frame = blobs().assign(kind=lambda f: KINDS[kind](f["kind"].to_numpy()))
        schema = infer_schema(frame, "kind", task="classification" if kind in ASKED else None)
        assert schema.label == "kind"
        assert not schema["kind"].refined
        assert schema.cells == schema.refined == ["a", "b"]
        assert Encoder.fit(frame, schema).outputs == (2 if kind.startswith("bool") else 3)

    @pytest.mark.parametrize("kind", sorted(ASKED))
    def test_numbers_are_none_unless_told_so(self, kind):
        frame = blobs().assign(kind=lambda f: KINDS[kind](f["kind"].to_numpy()))
        for task in (None, "regression"):
            schema = infer_schema(frame, "kind", task=task)
            assert schema.label is None
            assert Encoder.fit(frame, schema).classes == ()

    def test_they_are_numbered_in_the_order_of_their_text_and_missing_ones_have_none(self):
        frame = blobs(9)
        frame.loc[4, "kind"] = None
        encoder = Encoder.fit(frame, infer_schema(frame, "kind", features=["a", "b"]))
        assert encoder.classes == ("ant", "bee", "cat")
        later = frame.assign(kind=["dog", *frame["kind"][1:]])
        assert encoder.encode(later).labels.tolist() == [-1, 1, 2, 0, -1, 2, 0, 1, 2]

    def test_whole_numbers_are_the_same_class_however_they_are_stored(self):
        frame = blobs().assign(kind=np.arange(300) % 3)
        encoder = Encoder.fit(frame, infer_schema(frame, "kind", task="classification"))
        expected = encoder.encode(frame).labels.tolist()
        for dtype in ("int8", "float64", "Int64", "Float64"):
            assert encoder.encode(frame.astype({"kind": dtype})).labels.tolist() == expected
        holed = frame.assign(kind=frame["kind"].where(frame.index != 5))
        assert encoder.encode(holed).labels.tolist() == [*expected[:5], -1, *expected[6:]]
        assert Encoder.fit(holed, encoder.schema).classes == encoder.classes


class TestRefinement:
    @pytest.mark.parametrize("kind", KINDS)
    def test_classes_come_back_bit_identical_and_features_move(self, kind):
        text = blobs()["kind"].to_numpy()
        frame = blobs().assign(kind=KINDS[kind](text))
        schema = infer_schema(frame, "kind", task="classification" if kind in ASKED else None)
        weight = CENTERS[:2] if kind.startswith("bool") else CENTERS
        result = refined(frame, soft(frame, schema, weight))
        for name in ("kind", "site"):
            assert_same_cells(frame[name], result.frame[name])
        assert (result.frame[["a", "b"]] != frame[["a", "b"]]).any(axis=1).sum() > 3

    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton"])
    def test_features_move_until_the_given_class_is_likely_enough(self, rule):
        frame, tau = blobs(), 0.1
        backbone = soft(frame, infer_schema(frame, "kind"))
        before = probability(frame, backbone)
        outside = before < np.exp(-tau)
        assert 10 < outside.sum() < 250
        result = refined(frame, backbone, rule=rule, tau=tau)
        after = probability(result.frame, backbone)
        assert after.min() >= np.exp(-tau) - 1e-9
        assert result.rows["status"].tolist() == np.where(outside, "converged", "within_gate").tolist()
        stayed = result.rows["status"] == "within_gate"
        pd.testing.assert_frame_equal(result.frame[stayed], frame[stayed], check_exact=True)
        np.testing.assert_allclose(result.rows["residual_before"], -np.log(before), atol=1e-9)
        np.testing.assert_allclose(result.rows["residual_after"], -np.log(after), atol=1e-9)

    def test_a_step_goes_against_the_gradient_of_the_cross_entropy(self):
        frame = blobs(60)
        backbone = soft(frame, infer_schema(frame, "kind"))
        result = refined(frame, backbone, eta=0.02, tau=1e-6, max_epochs=1)
        logits = frame[["a", "b"]].to_numpy() @ CENTERS.T
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        g = (p - np.eye(3)[np.arange(60) % 3]) @ CENTERS
        moved = (result.frame[["a", "b"]] - frame[["a", "b"]]).to_numpy()
        asked = result.rows["iterations"] == 1
        assert asked.sum() > 40
        np.testing.assert_allclose(moved[asked], (-0.02 * g / np.linalg.norm(g, axis=1, keepdims=True))[asked])

    def test_proximal_reaches_its_stationary_point(self):
        frame, s2 = blobs(60), 0.4
        backbone = soft(frame, infer_schema(frame, "kind"))
        result = refined(frame, backbone, rule="proximal", arguments={"s2": s2}, tau=1e-9, max_epochs=2000)
        z = torch.tensor(result.frame[["a", "b"]].to_numpy(), requires_grad=True)
        z0, y = torch.tensor(frame[["a", "b"]].to_numpy()), torch.arange(60) % 3
        fit = nn.functional.cross_entropy(z @ torch.tensor(CENTERS).T, y, reduction="sum")
        (slope,) = torch.autograd.grad(fit / s2 + (z - z0).square().sum(), z)
        assert slope.abs().max() < 0.01
        assert (result.rows["correction"] > 0.05).any()

    def test_rows_whose_class_is_missing_or_new_are_skipped(self):
        frame = blobs()
        backbone = soft(frame, infer_schema(frame, "kind"))
        later = frame.copy()
        later.loc[[0, 7], "kind"] = [None, "dog"]
        result = refined(later, backbone)
        assert (result.rows["status"] == "skipped").to_numpy().nonzero()[0].tolist() == [0, 7]
        assert_same_cells(later["kind"], result.frame["kind"])
        pd.testing.assert_frame_equal(result.frame.loc[[0, 7]], later.loc[[0, 7]], check_exact=True)
        expected = refined(frame, backbone).frame.drop(index=[0, 7])
        pd.testing.assert_frame_equal(result.frame.drop(index=[0, 7]), expected)

    def test_the_result_does_not_depend_on_the_size_of_the_batch(self):
        frame = blobs()
        backbone = soft(frame, infer_schema(frame, "kind"))
        one, other = (refined(frame, backbone, batch_size=size) for size in (13, 1000))
        np.testing.assert_allclose(one.frame[["a", "b"]], other.frame[["a", "b"]], rtol=1e-12)
        pd.testing.assert_frame_equal(one.rows, other.rows, rtol=1e-9, atol=1e-12)


class TestTraining:
    @pytest.mark.parametrize("kind", ["text", "bool", "integer"])
    def test_learns_to_tell_the_clouds_apart(self, kind):
        frame = blobs(600).assign(kind=lambda f: KINDS[kind](f["kind"].to_numpy()))
        schema = infer_schema(frame, "kind", task="classification")
        backbone = train(frame, schema, training=Training(epochs=15, learning_rate=1e-2, device="cpu"))
        assert list(backbone.skill) == ["kind"]
        assert backbone.skill["kind"] > 0.5
        result = refined(frame, backbone, rule="denograd", max_epochs=100)
        assert_same_cells(frame["kind"], result.frame["kind"])
        assert result.totals.residual_after < result.totals.residual_before
        assert result.totals.moved > 5

    def test_skill_is_mcfaddens_on_the_part_held_out(self):
        frame = blobs(200)
        schema, training = infer_schema(frame, "kind"), Training(device="cpu", holdout=0.3)
        module = nn.Linear(4, 3).double()
        backbone = assess(frame, schema, module, training)
        encoded = backbone.encoder.encode(frame, "float64")
        generator = torch.Generator().manual_seed(training.seed)
        held_out = torch.randperm(200, generator=generator)[:60]
        x = torch.tensor(np.concatenate([encoded.cells, encoded.context], axis=1))[held_out]
        y = torch.arange(200)[held_out] % 3
        share = torch.bincount(y) / 60
        log_p = module(x).detach().log_softmax(dim=1)[torch.arange(60), y]
        assert backbone.skill["kind"] == pytest.approx(1 - float(log_p.mean() / (share * share.log()).sum()), rel=1e-6)
        assert backbone.residual_scale == pytest.approx(float(log_p.square().mean().sqrt()), rel=1e-6)


class TestSeries:
    @pytest.fixture
    def frame(self):
        """What the machine does next shows in the current."""
        random = np.random.default_rng(3)
        busy = np.repeat(random.random(70) < 0.5, 6)
        current = np.where(np.roll(busy, -1), 5.0, 1.0) + random.normal(0, 0.4, len(busy))
        heat = 30 + random.normal(size=len(busy))
        return pd.DataFrame({"t": np.arange(420.0), "current": current, "heat": heat, "state": busy})

    def test_windows_predict_the_class_of_a_step_and_the_rest_moves(self, frame):
        schema = infer_schema(frame, "state", series=Series("t", window=4))
        backbone = train(frame, schema, "lstm", {"hidden": 8}, Training(epochs=25, learning_rate=1e-2, device="cpu"))
        assert backbone.skill["state"] > 0.5
        result = refined(frame, backbone, max_epochs=50)
        assert_same_cells(frame["state"], result.frame["state"])
        assert_same_cells(frame["t"], result.frame["t"])
        assert (result.rows["status"] == "skipped").sum() == 4
        assert result.totals.residual_after < result.totals.residual_before
        assert (result.frame["current"] != frame["current"]).sum() > 20

    def test_a_window_whose_class_is_missing_does_not_count(self, frame):
        holed = frame.assign(state=frame["state"].astype("boolean"))
        holed.loc[[50, 51], "state"] = pd.NA
        schema = infer_schema(holed, "state", series=Series("t", window=3))
        weight = np.random.default_rng(0).normal(size=(2, 6))
        result = refined(holed, fitted(holed, schema, linear(weight)), max_epochs=20)
        assert (result.rows["status"] == "skipped").to_numpy().nonzero()[0].tolist() == [0, 1, 2, 50, 51]

    def test_one_step_of_every_window_by_hand(self, frame):
        schema = infer_schema(frame, "state", series=Series("t", window=2, future=2))
        backbone = fitted(frame, schema, linear(np.random.default_rng(0).normal(size=(2, 4))))
        result = refined(frame, backbone, eta=0.1, tau=0.3, max_epochs=1)
        z = backbone.encoder.encode(frame, "float64").cells
        weight = backbone.module[1].weight.detach().numpy()
        G, C = np.zeros_like(z), np.zeros_like(z)
        for start in range(len(z) - 3):
            logits = weight @ z[start : start + 2].ravel()
            p = np.exp(logits) / np.exp(logits).sum()
            given = int(frame["state"].iloc[start + 3])
            g = weight.T @ (p - np.eye(2)[given])
            C[start : start + 2] += 1
            if -np.log(p[given]) > 0.3:
                G[start : start + 2] += (g / np.linalg.norm(g)).reshape(2, 2)
        moved = -0.1 * G / np.maximum(C, 1) * backbone.encoder.spreads
        expected = frame[["current", "heat"]].to_numpy() + moved
        np.testing.assert_allclose(result.frame[["current", "heat"]], expected, atol=1e-9)


class TestErrors:
    def refused(self, kind, call, *parts):
        with pytest.raises(kind) as caught:
            call()
        for part in parts:
            assert part in str(caught.value)

    def test_two_targets_one_of_which_holds_classes(self):
        self.refused(
            SchemaError, lambda: infer_schema(blobs(), ["a", "kind"]), "classes are predicted alone", "a, kind"
        )

    def test_too_many_or_too_few_classes(self):
        many = blobs(MOST_CLASSES + 1).assign(kind=lambda f: [f"name {at}" for at in f.index])
        for frame, found in ((many, f"{MOST_CLASSES + 1:,}"), (blobs().assign(kind="ant"), "1")):
            schema = infer_schema(frame, "kind")
            self.refused(
                SchemaError,
                lambda f=frame, s=schema: Encoder.fit(f, s),
                "does not hold classes that can be learnt",
                f"2 to {MOST_CLASSES}",
                f"found: {found}",
            )

    def test_several_horizons(self):
        frame = blobs().assign(t=np.arange(300.0))
        self.refused(
            SchemaError,
            lambda: infer_schema(frame, "kind", series=Series("t", window=3, future=(1, 2))),
            "classes are predicted at one horizon",
            "series.future",
        )

    @pytest.mark.parametrize(("target", "criterion"), [("kind", "mse"), ("kind", "huber"), ("a", "cross_entropy")])
    def test_a_criterion_that_does_not_fit(self, target, criterion):
        frame = blobs()
        schema = infer_schema(frame, target)
        training = Training(criterion=criterion, epochs=1, device="cpu")
        self.refused(
            ConfigError,
            lambda: train(frame, schema, training=training),
            "the criterion does not fit the targets",
            "cross_entropy for classes",
            repr(criterion),
        )
        backbone = soft(frame, schema) if target == "kind" else fitted(frame, schema, linear(np.ones((1, 6))))
        self.refused(ConfigError, lambda: refined(frame, replace(backbone, criterion=criterion)), "does not fit")

    def test_a_target_column_that_is_gone(self):
        frame = blobs()
        backbone = soft(frame, infer_schema(frame, "kind"))
        self.refused(SchemaError, lambda: refined(frame.drop(columns="kind"), backbone), "there is no column 'kind'")


@pytest.mark.parametrize(
    "series",
    [None, Series("t", window=3), Series("t", ("site",), 4, 2, 2, "9", False, True)],
    ids=["table", "series", "flat series"],
)
@pytest.mark.parametrize("target", ["kind", "a"])
def test_a_scaling_goes_through_json_and_comes_back(target, series):
    frame = blobs().assign(t=np.arange(300.0))
    if series is not None and target == "a":
        series = replace(series, future=(2, 5))
    frame.loc[3, "b"] = np.nan
    schema = infer_schema(frame, target, ["b"], ignored=["t"] * (series is None), series=series, noise={"b": 0.2})
    encoder = Encoder.fit(frame, replace(schema))
    plain = json.loads(json.dumps(encoder.to_dict()))
    read = Encoder.from_dict(plain)
    assert read == encoder
    assert hash(read) == hash(encoder)
    for one, other in zip(vars(read.encode(frame)).values(), vars(encoder.encode(frame)).values(), strict=True):
        np.testing.assert_array_equal(one, other)
