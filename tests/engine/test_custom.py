"""A backbone of the user's own, by name: what is found, what is run, and what a wrong one is answered."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.backbones import build
from denograd_engine.errors import ConfigError
from denograd_engine.schema import infer_schema
from denograd_engine.training import Training, assess, train
from denograd_engine.user_code import BACKBONE, is_custom, load, source_digest

NETS = """
from torch import nn

DEPTH = 2


class Net(nn.Module):
    def __init__(self, input_shape, outputs, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_shape[0], width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, x):
        return self.layers(x)


def factory(input_shape, outputs, **arguments):
    return Net(input_shape, outputs, **arguments)


def number(input_shape, outputs):
    return 5


def failing(input_shape, outputs, secret=None):
    raise ValueError(f"no network for {input_shape}\\nand more")


def short(input_shape):
    return None
"""


@pytest.fixture
def nets(tmp_path):
    """The path of a file with networks, before the colon."""
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of an importable module with networks."""
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("from own_package.nets import Net as Again\n")
    (folder / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_package.nets"
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


@pytest.fixture
def frame():
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(200, 2)), columns=["a", "b"])
    return frame.assign(y=frame["a"] - frame["b"] + 0.1 * random.normal(size=200))


def refused(call):
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.where.startswith("backbone.")
    return caught.value


@pytest.mark.parametrize(
    ("kind", "custom"),
    [
        ("nets.py:Net", True),
        ("/a b/nets.py:Net", True),
        ("../nets.py:Net", True),
        ("pkg.nets:Net", True),
        ("nets:Net", True),
        ("mlp", False),
        ("nets.py", False),
        ("nets.py:", False),
        (":Net", False),
        ("my nets:Net", False),
        ("pkg/nets:Net", False),
        ("nets.py:Net()", False),
        ("models:/name/3", False),
        ("models:/name@champion", False),
    ],
)
def test_names_of_classes_are_told_from_others(kind, custom):
    assert is_custom(kind) is custom


@pytest.mark.parametrize("name", ["Net", "factory"])
def test_a_class_or_factory_is_constructed_from_a_file_and_from_a_package(nets, package, name):
    for place in (nets, package):
        network = build(f"{place}:{name}", (3,), 2, {"width": 5})
        assert network(torch.zeros(7, 3)).shape == (7, 2)
        assert network.layers[0].out_features == 5


def test_a_network_is_trained_by_its_name(nets, frame):
    training = Training(epochs=20, learning_rate=0.02, device="cpu")
    backbone = train(frame, infer_schema(frame, "y"), f"{nets}:Net", {"width": 16}, training)
    assert backbone.skill["y"] > 0.5
    assert type(backbone.module).__name__ == "Net"


def test_a_file_is_executed_once_and_again_when_it_was_edited(nets):
    first = load(f"{nets}:Net", BACKBONE)
    assert load(f"{nets}:factory", BACKBONE).__globals__["Net"] is first
    nets.write_text(NETS.replace("DEPTH = 2", "DEPTH = 3"))
    assert load(f"{nets}:Net", BACKBONE) is not first
    nets.write_text(NETS)
    assert load(f"{nets}:Net", BACKBONE) is first


def test_a_file_leaves_nothing_beside_it(nets):
    load(f"{nets}:Net", BACKBONE)
    assert list(nets.parent.iterdir()) == [nets]


def test_the_digest_is_of_the_source(nets, package):
    digest = source_digest(f"{nets}:Net", BACKBONE)
    assert source_digest(f"{nets}:factory", BACKBONE) == digest
    assert source_digest(f"{package}:Net", BACKBONE) == digest
    assert source_digest("own_package:Again", BACKBONE) not in (digest, source_digest("torch.nn:Linear", BACKBONE))
    nets.write_text(NETS + "\n")
    assert source_digest(f"{nets}:Net", BACKBONE) != digest


@pytest.mark.parametrize(
    ("kind", "problem", "found", "remedy"),
    [
        ("nowhere.nets:Net", "no module 'nowhere.nets'", "no module 'nowhere'", "path/to/nets.py:MyNet"),
        ("own_package.other:Net", "no module 'own_package.other'", "'own_package.other'", "PYTHONPATH"),
        ("own_package.nets:Nett", "no backbone 'Nett' in own_package.nets", "its own classes are Net", None),
        ("own_package.nets:DEPTH", "no backbone 'DEPTH'", "a int", None),
        ("own_package.nets:number", "is not a network", "a int", None),
        ("own_package.nets:short", "does not take these arguments", "too many positional arguments", None),
        ("own_package.nets:failing", "cannot be constructed", "ValueError: no network for (3,)", "correct"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused(package, kind, problem, found, remedy):
    error = refused(lambda: build(kind, (3,), 1))
    assert problem in error.problem
    assert found in error.found
    assert "and more" not in error.found
    assert remedy is None or remedy in error.remedy


def test_an_argument_that_is_not_taken_is_named(nets):
    error = refused(lambda: build(f"{nets}:Net", (3,), 1, {"depth": 3}))
    assert "'depth'" in error.found
    assert error.where == "backbone.arguments"


def test_a_file_that_is_not_there_is_named(tmp_path):
    error = refused(lambda: build(f"{tmp_path}/gone.py:Net", (3,), 1))
    assert error.found == "No such file or directory"
    assert "gone.py" in error.where


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\nclass Net(:\n", "SyntaxError: invalid syntax, line 2"),
        ("import helpers_that_are_not_there", "No module named 'helpers_that_are_not_there'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = '\0'", "null bytes"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_with_the_reason(tmp_path, source, found):
    path = tmp_path / "nets.py"
    path.write_text(source)
    before = set(sys.modules)
    error = refused(lambda: build(f"{path}:Net", (3,), 1))
    assert "cannot be imported" in error.problem
    assert found in error.found
    assert not [name for name in set(sys.modules) - before if name.startswith("denograd_custom")]


def test_an_import_that_fails_inside_a_module_is_not_taken_for_its_absence(tmp_path, monkeypatch):
    (tmp_path / "own_broken.py").write_text("import nothing_like_it\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    error = refused(lambda: build("own_broken:Net", (3,), 1))
    assert "cannot be imported" in error.problem
    assert "nothing_like_it" in error.found


def test_an_unknown_name_is_answered_with_the_nearest(frame):
    error = refused(lambda: build("lstmm", (3,), 1))
    assert error.remedy == "did you mean 'lstm'?"
    assert "mypkg.nets:MyNet" in error.expected


class Refusing(nn.Linear):
    def forward(self, x):
        raise KeyError(float(x[0, 0]))


def test_a_network_that_fails_on_the_data_is_refused_without_its_words(frame):
    with pytest.raises(ConfigError) as caught:
        train(frame, infer_schema(frame, "y"), Refusing(2, 1), training=Training(epochs=1, device="cpu"))
    assert caught.value.found == "KeyError in its forward pass"


class TestAssessing:
    def test_a_trained_network_has_the_same_worth(self, frame):
        training = Training(epochs=3, device="cpu")
        trained = train(frame, infer_schema(frame, "y"), training=training)
        before = {name: weight.clone() for name, weight in trained.module.state_dict().items()}
        for schema in (trained.encoder, trained.encoder.schema):
            assessed = assess(frame, schema, trained.module, training)
            assert assessed.skill == trained.skill
            assert assessed.residual_scale == trained.residual_scale
            assert assessed.encoder == trained.encoder
            assert assessed.history == ()
        assert all(torch.equal(weight, before[name]) for name, weight in trained.module.state_dict().items())

    def test_a_network_of_another_shape_is_refused(self, frame):
        with pytest.raises(ConfigError, match="does not fit the data"):
            assess(frame, infer_schema(frame, "y"), nn.Linear(3, 1))
