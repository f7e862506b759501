"""`compat.DenoGrad` against hand-computed linear models, and what it promises about the caller's things."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.compat import DenoGrad
from denograd_engine.errors import ConfigError, DataError, TimeAxisError

RANDOM = np.random.default_rng(20)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    RANDOM.bit_generator.state = np.random.default_rng(20).bit_generator.state


def linear(weight, bias=0.0, dtype=torch.float64):
    weight = torch.as_tensor(np.atleast_2d(weight), dtype=dtype)
    model = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.fill_(bias)
    return model


def denoise(model, X, y, criterion=None, series=None, **transform):
    return DenoGrad(model, criterion or nn.MSELoss(), "cpu").fit(X, y, **(series or {})).transform(**transform)


def unit_by_hand(weight, x, y):
    """(gx, gy, |r|) of the squared error of a linear model at one row or flattened window."""
    r = weight @ x - y
    gx, gy = weight.T @ r, -r
    norm = np.sqrt(gx @ gx + gy @ gy)
    return gx / norm, gy / norm, np.abs(r).max()


def rows_by_hand(weight, X, Y, eta, tau, epochs):
    X, Y = X.copy(), Y.copy()
    for _ in range(epochs):
        for i in range(len(X)):
            gx, gy, residual = unit_by_hand(weight, X[i], Y[i])
            if residual > tau:
                X[i] -= eta * gx
                Y[i] -= eta * gy
    return X, Y


def series_by_hand(weight, X, Y, W, future, stride, eta, tau, epochs):
    X, Y = X.copy(), Y.copy()
    for _ in range(epochs):
        Gx, Gy, Cx, Cy = np.zeros_like(X), np.zeros_like(Y), np.zeros(len(X)), np.zeros(len(Y))
        s = 0
        while s + W + future - 1 <= len(X) - 1:
            t = s + W + future - 1
            gx, gy, residual = unit_by_hand(weight, X[s : s + W].ravel(), Y[t])
            Cx[s : s + W] += 1
            Cy[t] += 1
            if residual > tau:
                Gx[s : s + W] += gx.reshape(W, -1)
                Gy[t] += gy
            s += stride
        X -= eta * Gx / np.maximum(Cx, 1)[:, None]
        Y -= eta * Gy / np.maximum(Cy, 1)[:, None]
    return X, Y


class TestTable:
    def test_one_target_walks_straight_to_the_gate(self):
        w, eta, tau = np.array([1.0, 2.0, -0.5]), 0.01, 0.05
        X, r = RANDOM.normal(size=(40, 3)), RANDOM.normal(size=40)
        y = X @ w - r
        x_new, y_new, *_ = denoise(linear(w), X, y, nrr=eta, nr_threshold=tau, max_epochs=1000)
        length = np.sqrt(w @ w + 1)
        steps = np.ceil(np.maximum(np.abs(r) - tau, 0) / (eta * length))
        np.testing.assert_allclose(x_new, X - (steps * eta * np.sign(r) / length)[:, None] * w, atol=1e-9)
        np.testing.assert_allclose(y_new, y + steps * eta * np.sign(r) / length, atol=1e-9)
        assert np.abs(x_new @ w - y_new).max() <= tau

    def test_several_targets_move_while_any_is_outside(self):
        weight = RANDOM.normal(size=(3, 4))
        X = RANDOM.normal(size=(30, 4))
        Y = X @ weight.T - RANDOM.normal(size=(30, 3)) * [1.0, 0.001, 0.5]
        x_new, y_new, *_ = denoise(linear(weight), X, Y, nrr=0.05, nr_threshold=0.2, max_epochs=12)
        x_hand, y_hand = rows_by_hand(weight, X, Y, 0.05, 0.2, 12)
        np.testing.assert_allclose(x_new, x_hand, atol=1e-9)
        np.testing.assert_allclose(y_new, y_hand, atol=1e-9)

    def test_the_gate_is_strict(self):
        X, y = np.zeros((4, 2)), np.array([0.5, -0.5, 0.75, 0.0])
        _, y_new, *_ = denoise(linear([1.0, 1.0]), X, y, nr_threshold=0.5, max_epochs=1)
        assert (y_new != y).tolist() == [False, False, True, False]

    def test_stops_after_an_epoch_within_the_gate_and_keeps_its_gradients(self):
        X, y = RANDOM.normal(size=(5, 2)), RANDOM.normal(size=5)
        x_new, y_new, gradients_x, gradients_y = denoise(linear([1.0, 1.0]), X, y, nr_threshold=100.0, batch_size=2)
        assert [len(part) for part in gradients_x] == [2, 2, 1] == [len(part) for part in gradients_y]
        np.testing.assert_array_equal(x_new, X)
        np.testing.assert_array_equal(y_new, y)
        joint = np.column_stack([np.concatenate(gradients_x), np.concatenate(gradients_y)])
        np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1.0)

    def test_gradients_have_the_sign_of_the_criterions(self):
        _, _, (gradient_x,), (gradient_y,) = denoise(linear([3.0]), np.array([[1.0]]), np.array([1.0]), max_epochs=1)
        np.testing.assert_allclose([gradient_x.item(), gradient_y.item()], [3 / np.sqrt(10), -1 / np.sqrt(10)])

    def test_a_fixed_target_still_counts_in_the_norm(self):
        X, y = np.array([[1.0]]), np.array([1.0])
        x_new, y_new, gradients_x, gradients_y = denoise(linear([3.0]), X, y, max_epochs=1, denoise_y=False)
        np.testing.assert_allclose(x_new, [[1 - 0.05 * 3 / np.sqrt(10)]])
        assert y_new.tolist() == [1.0]
        assert (len(gradients_x), gradients_y) == (1, [])

    def test_a_vanishing_gradient_moves_nothing(self):
        X, y = np.ones((2, 2)), np.zeros(2)
        x_new, y_new, gradients_x, _ = denoise(linear([0.0, 0.0]), X, y, nr_threshold=-1.0, max_epochs=3)
        np.testing.assert_array_equal(x_new, X)
        np.testing.assert_array_equal(y_new, y)
        assert len(gradients_x) == 3
        assert not np.concatenate(gradients_x).any()

    def test_three_dimensional_rows(self):
        weight = RANDOM.normal(size=(1, 6))
        X, y = RANDOM.normal(size=(9, 2, 3)), RANDOM.normal(size=9)
        x_new, y_new, *_ = denoise(nn.Sequential(nn.Flatten(), linear(weight)), X, y, max_epochs=4)
        x_hand, y_hand = rows_by_hand(weight, X.reshape(9, 6), y[:, None], 0.05, 0.01, 4)
        np.testing.assert_allclose(x_new.reshape(9, 6), x_hand, atol=1e-9)
        np.testing.assert_allclose(y_new, y_hand[:, 0], atol=1e-9)


class TestSeries:
    W, COLUMNS, STEPS = 3, 2, 17

    def problem(self, targets):
        weight = RANDOM.normal(size=(targets, self.W * self.COLUMNS))
        X, Y = RANDOM.normal(size=(self.STEPS, self.COLUMNS)), RANDOM.normal(size=(self.STEPS, targets))
        return weight, nn.Sequential(nn.Flatten(), linear(weight)), X, Y

    @pytest.mark.parametrize(("stride", "future"), [(1, 1), (2, 2), (1, 0), (5, 1)])
    @pytest.mark.parametrize("targets", [1, 2])
    def test_steps_move_by_the_mean_of_all_their_windows(self, stride, future, targets):
        weight, model, X, Y = self.problem(targets)
        series = {"is_ts": True, "window_size": self.W, "stride": stride, "future": future}
        by_hand = series_by_hand(weight, X, Y, self.W, future, stride, 0.05, 0.4, 15)
        for save_gradients in (True, False):
            found = denoise(
                model, X, Y, None, series, nr_threshold=0.4, max_epochs=15, save_gradients=save_gradients, batch_size=4
            )
            np.testing.assert_allclose(found[0], by_hand[0], atol=1e-9)
            np.testing.assert_allclose(found[1], by_hand[1], atol=1e-9)

    def test_steps_that_no_window_covers_or_predicts_stay(self):
        _, model, X, Y = self.problem(1)
        series = {"is_ts": True, "window_size": 3, "stride": 4}
        x_new, y_new, *_ = denoise(model, X, Y[:, 0], None, series, max_epochs=1)
        assert np.flatnonzero((x_new != X).any(axis=1)).tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]
        assert np.flatnonzero(y_new != Y[:, 0]).tolist() == [3, 7, 11, 15]

    def test_flattened_windows_are_step_after_step(self):
        weight, model, X, Y = self.problem(1)
        series = {"is_ts": True, "window_size": self.W}
        plain = denoise(model, X, Y, None, series, max_epochs=5)
        flat = denoise(linear(weight), X, Y, None, {**series, "flattening": True}, max_epochs=5)
        for one, other in zip(plain[:2], flat[:2], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)
        assert (plain[2][0].shape, flat[2][0].shape) == ((14, 3, 2), (14, 6))

    def test_a_series_of_one_dimension(self):
        x, y = RANDOM.normal(size=10), RANDOM.normal(size=10)
        weight = RANDOM.normal(size=(1, 4))
        x_new, y_new, gradients_x, _ = denoise(
            linear(weight), x, y, None, {"is_ts": True, "window_size": 4}, max_epochs=3
        )
        x_hand, y_hand = series_by_hand(weight, x[:, None], y[:, None], 4, 1, 1, 0.05, 0.01, 3)
        np.testing.assert_allclose(x_new, x_hand[:, 0], atol=1e-9)
        np.testing.assert_allclose(y_new, y_hand[:, 0], atol=1e-9)
        assert gradients_x[0].shape == (6, 4)

    def test_gradients_come_one_array_a_batch(self):
        _, model, X, Y = self.problem(1)
        series = {"is_ts": True, "window_size": self.W}
        *_, gradients_x, gradients_y = denoise(model, X, Y[:, 0], None, series, max_epochs=2, batch_size=5)
        assert [part.shape for part in gradients_x] == 2 * [(5, 3, 2), (5, 3, 2), (4, 3, 2)]
        assert [part.shape for part in gradients_y] == 2 * [(5,), (5,), (4,)]

    def test_only_a_model_that_is_a_convolution_gets_channels_first(self):
        class Convolution(nn.Conv1d):
            def forward(self, x):
                return super().forward(x).tanh().mean(dim=(1, 2))

        class Turning(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                return self.inner(x.transpose(1, 2))

        convolution = Convolution(2, 4, 2, dtype=torch.float64)
        _, _, X, Y = self.problem(1)
        series = {"is_ts": True, "window_size": self.W}
        itself = denoise(convolution, X, Y, None, series, max_epochs=5)
        inside = denoise(Turning(convolution), X, Y, None, series, max_epochs=5)
        np.testing.assert_array_equal(itself[0], inside[0])
        assert itself[2][0].shape == (14, 3, 2)


class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.items = inner, 0

    def forward(self, x):
        self.items += len(x)
        return self.inner(x)


class TestCost:
    @pytest.mark.parametrize("series", [None, {"is_ts": True, "window_size": 4}])
    def test_what_rests_within_the_gate_is_left_out_and_changes_nothing(self, series):
        w = RANDOM.normal(size=(1, 4))
        X = RANDOM.normal(size=300) if series else RANDOM.normal(size=(300, 4))
        windows = np.lib.stride_tricks.sliding_window_view(X, 4)[:-1] if series else X
        y = np.concatenate([np.zeros(4 if series else 0), windows @ w[0]])
        y[[40, 41, 200]] += 1.0
        settings = {"nrr": 0.02, "nr_threshold": 0.1, "max_epochs": 200}
        everything, active = Counting(linear(w)), Counting(linear(w))
        saved = denoise(everything, X, y, None, series, **settings)
        left_out = denoise(active, X, y, None, series, save_gradients=False, **settings)
        np.testing.assert_allclose(left_out[0], saved[0], atol=1e-12)
        np.testing.assert_allclose(left_out[1], saved[1], atol=1e-12)
        assert left_out[2:] == ([], [])
        assert active.items < everything.items / 3

    @pytest.mark.parametrize("series", [None, {"is_ts": True, "window_size": 4, "flattening": True}])
    def test_the_batch_size_does_not_matter(self, series):
        X, y = RANDOM.normal(size=(60, 3)), RANDOM.normal(size=60)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12 if series else 3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        whole = denoise(model, X, y, None, series, max_epochs=20)
        for batch_size in (1, 7, 60, 10**6):
            batches = denoise(model, X, y, None, series, max_epochs=20, batch_size=batch_size)
            np.testing.assert_allclose(batches[0], whole[0], atol=1e-10)
            np.testing.assert_allclose(batches[1], whole[1], atol=1e-10)


class TestInputs:
    X, y = RANDOM.normal(size=(12, 3)), RANDOM.normal(size=12)

    def expected(self):
        return denoise(linear([1.0, -1.0, 2.0]), self.X, self.y, max_epochs=5)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
    @pytest.mark.parametrize("shape", [(12,), (12, 1)])
    @pytest.mark.parametrize("model_dtype", [torch.float32, torch.float64])
    def test_shape_and_floating_type_come_back(self, dtype, shape, model_dtype):
        model = linear([1.0, -1.0, 2.0], dtype=model_dtype)
        x_new, y_new, *_ = denoise(model, self.X.astype(dtype), self.y.astype(dtype).reshape(shape), max_epochs=5)
        assert (x_new.dtype, y_new.dtype) == (np.dtype(dtype), np.dtype(dtype))
        assert (x_new.shape, y_new.shape) == ((12, 3), shape)
        atol = 0.02 if dtype == "float16" else 1e-5
        np.testing.assert_allclose(x_new.astype(float), self.expected()[0], atol=atol)

    def test_double_data_stay_double_in_a_single_model(self):
        X = self.X + 1e-12
        y = X @ [1.0, -1.0, 2.0]
        y[0] += 1.0
        x_new, y_new, *_ = denoise(linear([1.0, -1.0, 2.0], dtype=torch.float32), X, y, max_epochs=3)
        assert x_new[0, 0] != X[0, 0]
        np.testing.assert_array_equal(x_new[1:], X[1:])
        np.testing.assert_array_equal(y_new[1:], y[1:])

    @pytest.mark.parametrize("kind", ["int64", "bool", "list"])
    def test_whole_numbers_come_back_as_float64(self, kind):
        whole = RANDOM.integers(0, 2, size=(6, 3))
        X = whole.tolist() if kind == "list" else whole.astype(kind)
        x_new, y_new, *_ = denoise(linear([1.0, -1.0, 2.0]), X, np.arange(6), max_epochs=2)
        same = denoise(linear([1.0, -1.0, 2.0]), whole.astype(float), np.arange(6.0), max_epochs=2)
        assert (x_new.dtype, y_new.dtype) == (np.float64, np.float64)
        np.testing.assert_array_equal(x_new, same[0])

    @pytest.mark.parametrize("name", ["t", ["t"]])
    def test_a_named_target_stays_in_the_frame_that_the_model_sees(self, name):
        frame = pd.DataFrame({"a": self.X[:, 0], "t": self.y, "b": self.X[:, 1]}, index=range(100, 112))
        before = frame.copy()
        x_new, y_new, *_ = denoise(linear([1.0, -1.0, 2.0]), frame, name, max_epochs=5)
        same = denoise(linear([1.0, -1.0, 2.0]), frame.to_numpy(), self.y, max_epochs=5)
        assert (type(x_new), x_new.shape, y_new.shape) == (np.ndarray, (12, 3), (12, 1))
        np.testing.assert_array_equal(x_new, same[0])
        np.testing.assert_array_equal(y_new[:, 0], same[1])
        pd.testing.assert_frame_equal(frame, before)

    def test_several_named_targets(self):
        frame = pd.DataFrame(self.X, columns=list("abc"))
        weight = RANDOM.normal(size=(2, 3))
        x_new, y_new, *_ = denoise(linear(weight), frame, ["c", "a"], max_epochs=3)
        x_hand, y_hand = rows_by_hand(weight, self.X, self.X[:, [2, 0]], 0.05, 0.01, 3)
        np.testing.assert_allclose(x_new, x_hand, atol=1e-9)
        np.testing.assert_allclose(y_new, y_hand, atol=1e-9)

    @pytest.mark.parametrize("beside", [np.array, pd.Series, torch.tensor, lambda y: pd.DataFrame({"y": y})])
    def test_targets_beside_a_frame(self, beside):
        frame = pd.DataFrame(self.X, columns=list("abc")).astype({"a": "Float64"})
        x_new, y_new, *_ = denoise(linear([1.0, -1.0, 2.0]), frame, beside(self.y), max_epochs=5)
        np.testing.assert_array_equal(x_new, self.expected()[0])
        np.testing.assert_array_equal(y_new.ravel(), self.expected()[1])

    def test_tensors_of_every_kind(self):
        X, y = torch.tensor(self.X, requires_grad=True), torch.tensor(self.y)
        np.testing.assert_array_equal(denoise(linear([1.0, -1.0, 2.0]), X, y, max_epochs=5)[0], self.expected()[0])
        assert X.grad is None
        half = denoise(linear([1.0, -1.0, 2.0]), X.bfloat16(), y.bfloat16(), max_epochs=5)
        assert half[0].dtype == np.float32

    def test_a_low_precision_model(self):
        model = linear([1.0, -1.0, 2.0], dtype=torch.bfloat16)
        x_new, _, gradients_x, _ = denoise(model, self.X, self.y, max_epochs=5)
        assert (x_new.dtype, gradients_x[0].dtype) == (np.float64, np.float32)
        np.testing.assert_allclose(x_new, self.expected()[0], atol=0.1)

    @pytest.mark.parametrize("column", [True, False])
    @pytest.mark.parametrize("squeezed", [True, False])
    def test_one_column_and_none_are_the_same_shape(self, column, squeezed):
        model = nn.Sequential(linear([1.0, -1.0, 2.0]), nn.Flatten(0)) if squeezed else linear([1.0, -1.0, 2.0])
        y = self.y[:, None] if column else self.y
        x_new, y_new, *_ = denoise(model, self.X, y, max_epochs=5)
        np.testing.assert_allclose(x_new, self.expected()[0], atol=1e-12)
        np.testing.assert_allclose(y_new, self.expected()[1].reshape(y.shape), atol=1e-12)

    @pytest.mark.parametrize("max_epochs", [0, -1])
    def test_no_epochs_return_the_data(self, max_epochs):
        x_new, y_new, *gradients = denoise(linear([1.0, -1.0, 2.0]), self.X, self.y, max_epochs=max_epochs)
        np.testing.assert_array_equal(x_new, self.X)
        np.testing.assert_array_equal(y_new, self.y)
        assert gradients == [[], []]

    @pytest.mark.parametrize("series", [None, {"is_ts": True, "window_size": 2}])
    def test_what_is_not_finite_stays_and_spoils_nothing_else(self, series):
        X, y = self.X.copy(), self.y.copy()
        X[2, 1], y[6] = np.nan, np.inf
        model = nn.Sequential(nn.Flatten(), linear(RANDOM.normal(size=(1, 6 if series else 3))))
        x_new, y_new, *_ = denoise(model, X, y, None, series, max_epochs=1)
        assert np.isnan(x_new).sum() == 1
        assert np.isnan(y_new).sum() == 0
        assert y_new[6] == np.inf
        assert (x_new[8:11] != X[8:11]).all()


class TestCriterion:
    X, y = RANDOM.normal(size=(12, 3)), RANDOM.normal(size=12)

    @pytest.mark.parametrize(
        "criterion",
        [
            nn.MSELoss(reduction="sum"),
            nn.L1Loss(),
            nn.functional.mse_loss,
            lambda predicted, y: ((predicted - y) ** 2).mean(),
            lambda predicted, y: ((predicted - y) ** 2).mean(dim=0, keepdim=True),
        ],
    )
    def test_only_its_direction_matters(self, criterion):
        model = linear([1.0, -1.0, 2.0])
        found = denoise(model, self.X, self.y, criterion, max_epochs=5)
        np.testing.assert_allclose(found[0], denoise(model, self.X, self.y, max_epochs=5)[0], atol=1e-12)

    def test_it_gets_the_prediction_first(self):
        """Its derivatives to both arguments are taken as they are, not assumed to be opposite."""

        def lopsided(predicted, y):
            return (predicted * 2 - y).square().mean()

        _, _, (gradient_x,), (gradient_y,) = denoise(
            linear([3.0]), np.array([[1.0]]), np.array([1.0]), lopsided, max_epochs=1
        )
        np.testing.assert_allclose([gradient_x.item(), gradient_y.item()], np.array([6, -1]) / np.sqrt(37))

    def test_it_may_ignore_the_target(self):
        def detached(predicted, y):
            return (predicted - y.detach()).square().mean()

        x_new, y_new, *_ = denoise(linear([1.0, -1.0, 2.0]), self.X, self.y, detached, max_epochs=1)
        np.testing.assert_allclose(np.linalg.norm(x_new - self.X, axis=1), 0.05)
        np.testing.assert_array_equal(y_new, self.y)

    def test_its_own_weights_stay(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

            def forward(self, predicted, y):
                assert not self.training
                return (self.scale * (predicted - y)).square().mean()

        criterion = Scaled()
        denoise(linear([1.0, -1.0, 2.0]), self.X, self.y, criterion, max_epochs=2)
        assert criterion.training
        assert criterion.scale.requires_grad
        assert criterion.scale.grad is None


class Delicate(nn.Module):
    """Everything that a careless run would change: modes, flags, buffers, gradients, random numbers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
        self.layers[0].bias.requires_grad_(False)
        self.layers[0].weight.grad = torch.full_like(self.layers[0].weight, 7.0)
        self.layers[1].eval()
        self.calls_left = None

    def forward(self, x):
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise ArithmeticError("out of calls")
        return self.layers(x)


def state(model):
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "flags": [weight.requires_grad for weight in model.parameters()],
        "gradients": [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()],
        "modes": [part.training for part in model.modules()],
    }


def assert_same_state(model, before):
    after = state(model)
    assert (after["flags"], after["modes"]) == (before["flags"], before["modes"])
    for name, value in after["weights"].items():
        assert torch.equal(value, before["weights"][name])
    for one, other in zip(after["gradients"], before["gradients"], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


class TestNothingOfTheCallersChanges:
    X, y = RANDOM.normal(size=(12, 3)).astype(np.float32), RANDOM.normal(size=12).astype(np.float32)

    def test_the_model(self):
        model = Delicate()
        before = state(model)
        denoise(model, self.X, self.y, max_epochs=3, batch_size=5)
        assert_same_state(model, before)

    def test_the_model_after_it_failed(self):
        model = Delicate()
        before = state(model)
        model.calls_left = 4
        with pytest.raises(ArithmeticError, match="out of calls"):
            denoise(model, self.X, self.y, max_epochs=3, batch_size=5)
        assert_same_state(model, before)

    def test_dropout_is_off_and_no_random_numbers_are_drawn(self):
        model = Delicate()
        random = torch.get_rng_state()
        first, second = (denoise(model, self.X, self.y, max_epochs=3)[0] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, denoise(copy.deepcopy(model).eval(), self.X, self.y, max_epochs=3)[0])
        assert torch.equal(random, torch.get_rng_state())

    @pytest.mark.parametrize("kind", ["array", "shared tensor", "frame"])
    @pytest.mark.parametrize("series", [None, {"is_ts": True, "window_size": 1, "flattening": True}])
    def test_the_data(self, kind, series):
        X, y = self.X.copy(), self.y.copy()
        wrap = {"array": np.asarray, "shared tensor": torch.from_numpy, "frame": lambda data: data}[kind]
        given = (pd.DataFrame(X), pd.Series(y)) if kind == "frame" else (wrap(X), wrap(y))
        x_new, y_new, *_ = denoise(linear([1.0, -1.0, 2.0], dtype=torch.float32), *given, series=series, max_epochs=3)
        np.testing.assert_array_equal(np.asarray(given[0]), self.X)
        np.testing.assert_array_equal(np.asarray(given[1]), self.y)
        assert not np.shares_memory(x_new, X)
        assert not np.shares_memory(y_new, y)
        assert (x_new != self.X).any()

    def test_read_only_and_strided_arrays(self):
        X, y = np.asfortranarray(self.X)[::2], self.y[::-2]
        X.flags.writeable = y.flags.writeable = False
        found = denoise(linear([1.0, -1.0, 2.0]), X, y, max_epochs=3)
        same = denoise(linear([1.0, -1.0, 2.0]), np.ascontiguousarray(X), np.ascontiguousarray(y), max_epochs=3)
        np.testing.assert_array_equal(found[0], same[0])
        np.testing.assert_array_equal(found[1], same[1])
        assert found[0].flags.writeable

    def test_every_transform_starts_from_the_fitted_data(self):
        X, y = self.X.copy(), self.y.copy()
        denoiser = DenoGrad(linear([1.0, -1.0, 2.0]), nn.MSELoss(), "cpu").fit(X, y)
        first = denoiser.transform(max_epochs=3)
        kept = first[0].copy()
        X[:], y[:] = 0, 0
        first[0][:] = 0
        np.testing.assert_array_equal(denoiser.transform(max_epochs=3)[0], kept)

    def test_nothing_is_printed(self, capfd):
        denoise(Delicate(), self.X, self.y, max_epochs=3)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_gradients_flow_where_the_caller_switched_them_off(self, mode):
        model = linear([1.0, -1.0, 2.0])
        expected = denoise(model, self.X, self.y, max_epochs=3)[0]
        with mode():
            np.testing.assert_array_equal(denoise(model, self.X, self.y, max_epochs=3)[0], expected)
            assert not torch.is_grad_enabled()

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_recurrent_model_on_a_gpu_comes_home(self):
        class Recurrent(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.LSTM(3, 4, batch_first=True, dropout=0.5, num_layers=2)
                self.head = nn.Linear(4, 1)

            def forward(self, x):
                return self.head(self.layer(x)[0][:, -1])

        model = Recurrent()
        before = state(model)
        on_gpu = DenoGrad(model, nn.MSELoss(), "cuda").fit_transform(self.X, self.y, True, 4, max_epochs=3)
        on_cpu = DenoGrad(model, nn.MSELoss(), "cpu").fit_transform(self.X, self.y, True, 4, max_epochs=3)
        np.testing.assert_allclose(on_gpu[0], on_cpu[0], atol=1e-5)
        assert {weight.device.type for weight in model.parameters()} == {"cpu"}
        assert_same_state(model, before)


class TestFace:
    def test_the_published_signatures(self):
        def defaults(function):
            return [
                (name, None if one.default is one.empty else one.default)
                for name, one in inspect.signature(function).parameters.items()
                if name != "self"
            ]

        transform = [
            ("nrr", 0.05),
            ("nr_threshold", 0.01),
            ("max_epochs", 100),
            ("denoise_y", True),
            ("batch_size", 1000),
            ("save_gradients", True),
        ]
        data = [("X", None), ("y", None), ("is_ts", False), ("window_size", None)]
        assert defaults(DenoGrad) == [("model", None), ("criterion", None), ("device", None)]
        assert defaults(DenoGrad.fit) == [*data, ("future", 1), ("stride", 1), ("flattening", False)]
        assert defaults(DenoGrad.transform) == transform
        assert defaults(DenoGrad.fit_transform) == [
            *data,
            ("stride", 1),
            ("flattening", False),
            *transform,
            ("future", 1),
        ]

    def test_fit_returns_itself_and_attributes_can_be_read(self):
        model, criterion = linear([1.0]), nn.MSELoss()
        denoiser = DenoGrad(model, criterion, torch.device("cpu"))
        assert denoiser.fit(np.ones((2, 1)), np.ones(2)) is denoiser
        assert denoiser.model is model
        assert denoiser.criterion is criterion
        assert denoiser.device == torch.device("cpu")

    def test_fit_transform_passes_every_argument_on(self):
        X, y = RANDOM.normal(size=(20, 2)), RANDOM.normal(size=20)
        model = linear(RANDOM.normal(size=(1, 6)))
        at_once = DenoGrad(model, nn.MSELoss()).fit_transform(
            X, y, True, 3, 2, True, 0.1, 0.05, 7, False, 4, True, future=2
        )
        fitted = DenoGrad(model, nn.MSELoss()).fit(X, y, True, 3, 2, 2, True)
        apart = fitted.transform(0.1, 0.05, 7, False, 4, True)
        np.testing.assert_array_equal(at_once[0], apart[0])
        assert [part.shape for part in at_once[2]] == [part.shape for part in apart[2]] == 7 * [(4, 6), (4, 6)]


class TestMistakes:
    X, y = np.ones((6, 2)), np.zeros(6)

    def denoiser(self, model=None, criterion=None):
        return DenoGrad(model or linear([1.0, 1.0]), criterion or nn.MSELoss(), "cpu")

    def test_transform_before_fit(self):
        with pytest.raises(RuntimeError, match="call fit"):
            self.denoiser().transform()

    def test_no_targets(self):
        with pytest.raises(ValueError, match="needs targets"):
            self.denoiser().fit(self.X)

    def test_a_series_without_a_window(self):
        with pytest.raises(ValueError, match="window_size"):
            self.denoiser().fit(self.X, self.y, is_ts=True)

    @pytest.mark.parametrize(("rows", "targets"), [(6, 5), (0, 0)])
    def test_lengths(self, rows, targets):
        with pytest.raises(DataError, match=f"{rows} rows of X and {targets} of y"):
            self.denoiser().fit(self.X[:rows], self.y[:targets])

    def test_an_unknown_target_column(self):
        with pytest.raises(DataError, match="found: 'z'"):
            self.denoiser().fit(pd.DataFrame(self.X, columns=["a", "b"]), ["a", "z"])

    @pytest.mark.parametrize(
        "y", ["t", np.array(list("abcdef")), pd.Series(list("abcdef")), np.zeros(6, dtype=complex), [[1], [2, 3]]]
    )
    def test_what_is_not_a_number(self, y):
        with pytest.raises(DataError, match="y does not hold numbers"):
            self.denoiser().fit(self.X, y)

    def test_a_series_too_short(self):
        with pytest.raises(TimeAxisError, match="at least 8 steps"):
            self.denoiser().fit(self.X, self.y, is_ts=True, window_size=6, future=2)

    @pytest.mark.parametrize("setting", [{"window_size": 0}, {"stride": 0}, {"future": -1}])
    def test_impossible_windows(self, setting):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            self.denoiser().fit(self.X, self.y, **{"is_ts": True, "window_size": 2, **setting})

    def test_an_impossible_batch(self):
        with pytest.raises(ConfigError, match="batch_size"):
            self.denoiser().fit(self.X, self.y).transform(batch_size=0)

    def test_predictions_of_another_shape(self):
        with pytest.raises(DataError, match="shape"):
            self.denoiser().fit(self.X, np.zeros((6, 2))).transform()

    def test_a_criterion_without_a_mean(self):
        with pytest.raises(ConfigError, match="one number"):
            self.denoiser(criterion=nn.MSELoss(reduction="none")).fit(self.X, self.y).transform()

    def test_a_model_that_returns_more_than_a_tensor(self):
        with pytest.raises(ConfigError, match="one tensor"):
            self.denoiser(nn.LSTM(2, 1, dtype=torch.float64)).fit(self.X, self.y).transform()

    def test_a_model_without_a_gradient(self):
        class Cut(nn.Module):
            def forward(self, x):
                return x.detach().sum(dim=1)

        with pytest.raises(ConfigError, match="does not depend"):
            self.denoiser(Cut()).fit(self.X, self.y).transform()

    def test_an_unknown_device(self):
        with pytest.raises(ConfigError, match="device"):
            DenoGrad(linear([1.0, 1.0]), nn.MSELoss(), "abacus")
