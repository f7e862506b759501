"""What every backbone promises: shapes, independent items, a true gradient to every cell, export, and learning."""

from __future__ import annotations

import copy
import io
import sys
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from support import TABPFN, tabpfn_checkpoint

from denograd_engine.backbones import REGISTRY, build
from denograd_engine.backbones.dlinear import moving_average
from denograd_engine.devices import frozen
from denograd_engine.errors import ConfigError
from denograd_engine.schema import Series, infer_schema
from denograd_engine.training import Training, train

TABLE, SERIES = (5,), (12, 3)
FOR_SERIES = {"lstm", "gru", "cnn", "cnn_lstm", "dlinear", "xlstm"}
SCANNING = {"cnn", "cnn_lstm", "dlinear"}
SMALL = {
    "mlp": {"hidden": (8, 4)},
    "lstm": {"hidden": 5},
    "gru": {"hidden": 5, "layers": 2},
    "cnn": {"channels": (4, 3), "hidden": 4},
    "cnn_lstm": {"channels": (4, 3), "hidden": 4},
    "transformer": {"width": 8, "heads": 2},
    "xlstm": {"width": 8, "heads": 2},
}
CPU = torch.device("cpu")


def needs(kind):
    absent = kind == "xlstm" and find_spec(kind) is None
    return pytest.mark.skipif(absent, reason=f"the package {kind!r} is not installed")


KINDS = [pytest.param(kind, marks=needs(kind)) for kind in REGISTRY if kind != "tabpfn"]
CASES = [
    pytest.param(kind, shape, marks=needs(kind), id=f"{kind} on {'series' if shape == SERIES else 'table'}")
    for kind in REGISTRY
    for shape in (TABLE, SERIES)
    if kind != "tabpfn" and (shape == SERIES or kind not in FOR_SERIES)
]


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def small(kind, shape, outputs=2, dtype=torch.float64):
    """A network of few weights, as refinement sees it."""
    torch.manual_seed(3)
    module = build(kind, shape, outputs, SMALL.get(kind, {}))
    return module.to(dtype).eval().requires_grad_(False)


def gradient(module, x, weight):
    """Of the weighted sum of all outputs."""
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((module(leaf) * weight).sum(), leaf)
    return found


class TestForward:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("outputs", [1, 3])
    @pytest.mark.parametrize(("kind", "shape"), CASES)
    def test_maps_items_to_outputs_in_its_own_type(self, kind, shape, outputs, dtype):
        module = build(kind, shape, outputs).to(dtype)
        predicted = module(numbers(4, *shape, dtype=dtype))
        assert predicted.shape == (4, outputs)
        assert predicted.dtype == dtype
        assert predicted.isfinite().all()

    @pytest.mark.parametrize(("kind", "shape"), CASES)
    def test_an_item_knows_nothing_of_the_others(self, kind, shape):
        module, x = small(kind, shape), numbers(6, *shape)
        predicted = module(x)
        torch.testing.assert_close(module(x[2:3])[0], predicted[2])
        others = x.clone()
        others[torch.arange(6) != 2] += 100.0
        torch.testing.assert_close(module(others)[2], predicted[2])
        assert (module(others)[3] - predicted[3]).abs().max() > 1e-6

    @pytest.mark.parametrize(("kind", "shape"), CASES)
    def test_comes_back_from_its_arguments_and_its_state(self, kind, shape):
        module, other = small(kind, shape), build(kind, shape, 2, SMALL.get(kind)).double().eval()
        other.load_state_dict(module.state_dict())
        torch.testing.assert_close(other(numbers(3, *shape)), module(numbers(3, *shape)))

    @pytest.mark.parametrize(("kind", "shape"), CASES)
    def test_the_seed_decides_the_weights(self, kind, shape):
        one, same = small(kind, shape), small(kind, shape)
        other = build(kind, shape, 2, SMALL.get(kind)).double().eval()
        x = numbers(3, *shape)
        assert torch.equal(one(x), same(x))
        assert not torch.equal(one(x), other(x))


class TestGradient:
    @pytest.mark.parametrize(("kind", "shape"), CASES)
    def test_is_that_of_finite_differences(self, kind, shape):
        module = small(kind, shape)
        assert torch.autograd.gradcheck(module, (numbers(2, *shape).requires_grad_(),))

    @pytest.mark.parametrize(("kind", "shape"), CASES)
    def test_reaches_every_cell(self, kind, shape):
        torch.manual_seed(3)
        module = build(kind, shape, 2).double().eval()
        found = gradient(module, numbers(8, *shape), numbers(8, 2, seed=1))
        assert found.shape == (8, *shape)
        assert (found.abs().amax(dim=0) > 1e-9).all()


@pytest.mark.filterwarnings("ignore")
class TestExport:
    @pytest.fixture
    def exported(self, kind, shape):
        module, stored = small(kind, shape, dtype=torch.float32), io.BytesIO()
        with frozen(module, CPU), torch.no_grad():
            example = (numbers(2, *shape, dtype=torch.float32),)
            program = torch.export.export(module, example, dynamic_shapes=[{0: torch.export.Dim.AUTO}])
        torch.export.save(program, stored)
        stored.seek(0)
        return module, torch.export.load(stored).module()

    @pytest.mark.parametrize(("kind", "shape"), CASES)
    def test_predicts_and_leads_back_alike(self, exported, shape):
        module, loaded = exported
        for items in (1, 2, 7):
            x, weight = numbers(items, *shape, dtype=torch.float32), numbers(items, 2, seed=1, dtype=torch.float32)
            with frozen(loaded, CPU):
                torch.testing.assert_close(loaded(x), module(x))
                torch.testing.assert_close(gradient(loaded, x, weight), gradient(module, x, weight))

    @pytest.mark.parametrize(("kind", "shape"), CASES)
    def test_holds_the_same_weights(self, exported):
        module, loaded = exported
        kept, found = module.state_dict(), loaded.state_dict()
        assert sorted(found) == sorted(kept)
        for name, weight in kept.items():
            assert torch.equal(found[name], weight)


class TestScan:
    def test_is_offered_by_networks_that_share_work_between_windows(self):
        torch.manual_seed(3)
        kinds = [one.values[0] for one in KINDS if not any(mark.args[0] for mark in one.marks)]
        assert {kind for kind in kinds if hasattr(build(kind, SERIES, 1), "scan")} == SCANNING

    @pytest.mark.parametrize("starts", [range(29), range(0, 29, 3), [28], [17, 3, 4]], ids=str)
    @pytest.mark.parametrize("kind", sorted(SCANNING))
    def test_gives_what_forward_gives_for_the_windows(self, kind, starts):
        module, steps, starts = small(kind, SERIES), numbers(40, 3).requires_grad_(), torch.tensor(list(starts))
        covered = starts[:, None] + torch.arange(12)
        predicted = module.scan(steps, starts)
        torch.testing.assert_close(predicted, module(steps[covered]))
        weight = numbers(len(starts), 2, seed=1)
        (found,) = torch.autograd.grad((predicted * weight).sum(), steps)
        expected = torch.zeros(40, 3, dtype=torch.float64)
        pieces = gradient(module, steps.detach()[covered], weight)
        expected.index_add_(0, covered.flatten(), pieces.flatten(0, 1))
        torch.testing.assert_close(found, expected)
        assert (expected != 0).any(dim=1).tolist() == [bool((covered == step).any()) for step in range(40)]

    @pytest.mark.parametrize("kind", sorted(SCANNING))
    def test_is_as_exact_in_single_precision(self, kind):
        torch.manual_seed(3)
        module = build(kind, (24, 3), 2).eval()
        steps, starts = 50 + numbers(300, 3, dtype=torch.float32), torch.arange(277)
        windows = steps[starts[:, None] + torch.arange(24)]
        with torch.no_grad():
            torch.testing.assert_close(module.scan(steps, starts), module(windows), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("window", [1, 3, 7, 8, 15, 40])
    @pytest.mark.parametrize("kind", sorted(SCANNING))
    def test_fits_any_window(self, kind, window):
        if window < 3 and kind != "dlinear":
            with pytest.raises(ConfigError, match="reaches beyond the window"):
                build(kind, (window, 2), 1)
            return
        module = build(kind, (window, 2), 1).double().eval()
        steps = numbers(window + 1, 2)
        torch.testing.assert_close(
            module.scan(steps, torch.tensor([0, 1])), module(torch.stack([steps[:-1], steps[1:]]))
        )


class TestDLinear:
    @pytest.mark.parametrize("kernel", [1, 5, 11])
    def test_is_the_published_decomposition(self, kernel):
        torch.manual_seed(3)
        module, x = build("dlinear", SERIES, 2, {"kernel": kernel}).double(), numbers(4, *SERIES)
        ends = [x[:, :1]] * (kernel // 2), [x[:, -1:]] * (kernel // 2)
        padded = torch.cat([*ends[0], x, *ends[1]], dim=1).transpose(1, 2)
        trend = torch.nn.functional.avg_pool1d(padded, kernel, stride=1)
        remainder = x.transpose(1, 2) - trend
        expected = torch.einsum("ics,ocs->io", trend, module.trend)
        expected = expected + torch.einsum("ics,ocs->io", remainder, module.remainder) + module.bias
        torch.testing.assert_close(module(x), expected, rtol=1e-6, atol=1e-6)

    def test_its_average_is_short_for_short_windows_and_the_published_one_for_long_ones(self):
        lengths = [int((build("dlinear", (window, 1), 1).average[window // 2] > 0).sum()) for window in (1, 4, 24, 96)]
        assert lengths == [1, 3, 13, 25]

    def test_averages_of_a_constant_are_that_constant(self):
        torch.testing.assert_close(moving_average(9, 5).sum(dim=1), torch.ones(9))


@pytest.mark.skipif(find_spec("tabpfn") is None, reason="the package 'tabpfn' is not installed")
@pytest.mark.filterwarnings("ignore:Importing from 'tabpfn.model.loading':DeprecationWarning")
class TestTabPFN:
    """On random weights of the package's own architectures, in files such as its own."""

    @pytest.fixture
    def weights(self, request, tmp_path):
        return str(tabpfn_checkpoint(tmp_path, getattr(request, "param", "tabpfn_v2")))

    def shown(self, weights, outputs=2, dtype=torch.float64, **arguments):
        module = build("tabpfn", TABLE, outputs, {"weights": weights, **arguments}).to(dtype).eval()
        module.requires_grad_(False).condition(numbers(40, 5, dtype=dtype), numbers(40, outputs, seed=1, dtype=dtype))
        return module

    every = pytest.mark.parametrize("weights", list(TABPFN), indirect=True)

    @every
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("outputs", [1, 3])
    def test_maps_items_to_outputs_in_its_own_type(self, weights, outputs, dtype):
        predicted = self.shown(weights, outputs, dtype)(numbers(4, 5, seed=2, dtype=dtype))
        assert predicted.shape == (4, outputs)
        assert predicted.dtype == dtype
        assert predicted.isfinite().all()

    @every
    def test_a_row_knows_the_context_and_no_other_row(self, weights):
        module, x = self.shown(weights), numbers(6, 5, seed=2)
        predicted = module(x)
        torch.testing.assert_close(module(x[2:3])[0], predicted[2], rtol=1e-4, atol=1e-6)
        module.condition(module.rows, -module.labels)
        assert (module(x) - predicted).abs().max() > 1e-3

    @every
    def test_the_gradient_reaches_every_column_and_is_that_of_finite_differences(self, weights, request):
        module, x = self.shown(weights), numbers(3, 5, seed=2)
        weight = numbers(3, 2, seed=3)
        found = gradient(module, x, weight)
        assert (found.abs().amax(dim=0) > 1e-6).all()
        step = 1e-4 * found / found.norm()
        with torch.no_grad():
            ahead, behind = ((module(x + sign * step) * weight).sum() for sign in (1, -1))
        assert float(ahead - behind) / 2e-4 == pytest.approx(float(found.norm()), rel=1e-2)

    def test_each_target_is_predicted_by_itself_in_its_own_units(self, weights):
        module, x = self.shown(weights), numbers(4, 5, seed=2)
        together, rows, labels = module(x), module.rows, module.labels
        alone = build("tabpfn", TABLE, 1, {"weights": weights}).double().eval()
        alone.condition(rows, 10 * labels[:, 1:] + 3)
        torch.testing.assert_close(alone(x), 10 * together[:, 1:] + 3)

    def test_constant_columns_of_the_context_do_not_count(self, weights):
        module, x = self.shown(weights), numbers(4, 5, seed=2)
        rows = module.rows.clone()
        rows[:, 3] = 1.0
        module.condition(rows, module.labels)
        found = gradient(module, x, numbers(4, 2, seed=3))
        assert (found[:, 3] == 0).all()
        assert (found[:, [0, 1, 2, 4]] != 0).any(dim=0).all()

    @pytest.mark.parametrize("weights", ["tabpfn_v3_5"], indirect=True)
    def test_a_copy_or_a_move_remembers_the_context(self, weights):
        module, x = self.shown(weights), numbers(4, 5, seed=2)
        predicted = module(x)
        torch.testing.assert_close(copy.deepcopy(module)(x), predicted)
        torch.testing.assert_close(module.float()(x.float()), predicted.float(), rtol=1e-3, atol=1e-4)

    def test_a_state_brings_its_context_with_it(self, weights):
        module, x = self.shown(weights), numbers(4, 5, seed=2)
        other = build("tabpfn", TABLE, 2, {"weights": weights}).double().eval()
        other.condition(numbers(7, 5, seed=5), numbers(7, 2, seed=6))
        assert (other(x) - module(x)).abs().max() > 1e-3
        other.load_state_dict(module.state_dict())
        torch.testing.assert_close(other(x), module(x))

    def test_training_shows_it_rows_and_moves_no_weight(self, weights):
        random = np.random.default_rng(0)
        frame = pd.DataFrame(random.normal(size=(200, 5)), columns=list("abcde"))
        frame["y"] = frame["a"] + random.normal(size=200)
        arguments = {"weights": weights, "context": 60}
        backbone = train(frame, infer_schema(frame, "y"), "tabpfn", arguments, Training(device="cpu"))
        assert backbone.history == ()
        assert backbone.module.rows.shape == (60, 5)
        assert np.isfinite(backbone.skill["y"])
        fresh = build("tabpfn", TABLE, 1, arguments)
        for one, other in zip(backbone.module.parameters(), fresh.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_before_it_was_shown_anything_it_predicts_the_mean(self, weights):
        module = build("tabpfn", TABLE, 3, {"weights": weights})
        assert torch.equal(module(numbers(2, 5, dtype=torch.float32)), torch.zeros(2, 3))

    def test_absent_weights_are_not_downloaded(self, tmp_path, monkeypatch):
        from tabpfn.settings import settings

        monkeypatch.setattr(settings.tabpfn, "model_cache_dir", tmp_path)
        for arguments, name in (({}, "tabpfn-v2-regressor.ckpt"), ({"weights": str(tmp_path / "mine.ckpt")}, "mine")):
            with pytest.raises(ConfigError, match="are not downloaded without your consent") as caught:
                build("tabpfn", TABLE, 1, arguments)
            assert name in caught.value.found
            assert "backbone.arguments.weights" in caught.value.remedy
        assert not list(tmp_path.iterdir())

    def test_a_damaged_file_and_an_unknown_version_are_refused(self, tmp_path):
        (tmp_path / "broken.ckpt").write_bytes(b"not a checkpoint")
        with pytest.raises(ConfigError, match="cannot be read"):
            build("tabpfn", TABLE, 1, {"weights": str(tmp_path / "broken.ckpt")})
        with pytest.raises(ConfigError, match="no such TabPFN weights") as caught:
            build("tabpfn", TABLE, 1, {"version": "v9"})
        assert "v2 or v2.5" in caught.value.expected


class TestAbsentPackages:
    @pytest.mark.parametrize(("kind", "shape"), [("xlstm", SERIES), ("tabpfn", TABLE)])
    def test_are_named_with_the_command_that_installs_them(self, kind, shape, monkeypatch):
        for name in [kind, *(one for one in sys.modules if one.startswith(f"{kind}."))]:
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=f"needs the package {kind}") as caught:
            build(kind, shape, 1)
        assert caught.value.remedy == f"pip install 'prefect-denograd[{kind}]'"

    def test_a_package_that_wants_a_cuda_toolkit_says_so(self, monkeypatch):
        def refuse(name):
            raise OSError("CUDA_HOME environment variable is not set.\nMore.")

        monkeypatch.setattr("denograd_engine.backbones.xlstm.import_module", refuse)
        with pytest.raises(ConfigError, match="asks for a CUDA toolkit") as caught:
            build("xlstm", SERIES, 1)
        assert caught.value.found == "CUDA_HOME environment variable is not set."
        assert "set CUDA_HOME" in caught.value.remedy


class TestTransformer:
    @pytest.mark.parametrize(("window", "patches"), [(24, 6), (9, 3), (10, 5), (7, 7), (1, 1)])
    def test_patches_divide_the_window_unless_told(self, window, patches):
        assert build("transformer", (window, 3), 1).tokens.position.shape == (patches, 64)
        assert build("transformer", (window, 3), 1, {"patch": window}).tokens.position.shape == (1, 64)


class TestLearning:
    @pytest.mark.parametrize(("kind", "shape"), [case for case in CASES if case.values[1] == TABLE])
    def test_a_table(self, kind, shape):
        random = np.random.default_rng(0)
        frame = pd.DataFrame(random.normal(size=(500, 3)), columns=["a", "b", "c"])
        frame["y"] = np.sin(2 * frame["a"]) + frame["b"] + 0.1 * random.normal(size=500)
        training = Training(epochs=15, batch_size=64, learning_rate=5e-3, device="cpu")
        backbone = train(frame, infer_schema(frame, "y"), kind, training=training)
        assert backbone.skill["y"] > 0.8

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_series(self, kind):
        random, hours = np.random.default_rng(1), np.arange(700)
        frame = pd.DataFrame({"time": pd.Timestamp("2024-03-01") + pd.to_timedelta(hours, "h")})
        frame["load"] = 40 + 10 * np.sin(hours / 4) + random.normal(0, 0.3, 700)
        schema = infer_schema(frame, "load", series=Series("time", window=8))
        training = Training(epochs=10, batch_size=64, learning_rate=1e-2, device="cpu")
        assert train(frame, schema, kind, training=training).skill["load"] > 0.9


WRONG = [
    ("cnn", SERIES, {"kernel": 13}, "reaches beyond the window", "at most 12 steps", "found: 13 steps"),
    (
        "cnn",
        SERIES,
        {"channels": (4, 4, 4)},
        "reaches beyond the window",
        "found: 15 steps",
        "widen series.window to 15",
    ),
    ("cnn", SERIES, {"channels": (4, 0)}, "arguments.channels must be at least 1", "found: 0"),
    ("cnn", SERIES, {"dropout": 1.0}, "dropout must be at least 0 and below 1", "found: 1.0"),
    ("cnn_lstm", SERIES, {"kernel": 0}, "kernel must be at least 1", "found: 0"),
    ("cnn_lstm", SERIES, {"channels": (4,) * 6}, "reaches beyond the window", "found: 13 steps"),
    ("dlinear", SERIES, {"kernel": 13}, "reaches beyond the window", "choose a shorter moving average"),
    ("dlinear", SERIES, {"kernel": 4}, "must be odd", "found: 4"),
    ("gru", SERIES, {"layers": 0}, "layers must be at least 1", "backbone.arguments.layers"),
    ("lstm", SERIES, {"hidden": -3}, "hidden must be at least 1", "found: -3"),
    ("mlp", TABLE, {"hidden": (8, 0)}, "hidden must be at least 1", "found: 0"),
    ("mlp", TABLE, {"dropout": -0.1}, "dropout must be at least 0"),
    ("transformer", TABLE, {"heads": 3}, "heads must divide the width", "3, while the width is 64", "1, 2, 4, 8"),
    ("transformer", SERIES, {"patch": 5}, "patch must divide the window", "one of 1, 2, 3, 4, 6, 12"),
    ("transformer", TABLE, {"patch": 2}, "patch is for series", "leave it out"),
    ("transformer", TABLE, {"depth": 2}, "does not take these arguments", "depth"),
]


class TestWrongArguments:
    @pytest.mark.parametrize("kind", sorted(FOR_SERIES))
    def test_a_table_for_a_network_that_reads_series(self, kind):
        with pytest.raises(ConfigError, match=f"'{kind}' reads series") as caught:
            build(kind, TABLE, 1)
        assert caught.value.where == "backbone.kind"
        assert "choose 'mlp'" in caught.value.remedy

    def test_a_series_for_a_network_that_reads_tables(self):
        with pytest.raises(ConfigError, match="'tabpfn' reads tables") as caught:
            build("tabpfn", SERIES, 1)
        assert "choose 'lstm'" in caught.value.remedy

    @pytest.mark.parametrize(("kind", "shape", "arguments", "parts"), [(*one[:3], one[3:]) for one in WRONG])
    def test_say_what_is_wrong_with_them(self, kind, shape, arguments, parts):
        with pytest.raises(ConfigError) as caught:
            build(kind, shape, 1, arguments)
        for part in parts:
            assert part in str(caught.value)
        assert caught.value.where.startswith("backbone.arguments")
