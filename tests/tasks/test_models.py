"""The exported backbone: the same function and gradient as in memory, loaded without running any code in it."""

import io
import json
import pickle
import re
import shutil
import sys
import warnings
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from denograd_engine.backbones import REGISTRY, build
from denograd_engine.devices import frozen
from denograd_engine.errors import ConfigError, StoreError
from denograd_engine.frames import Encoder
from denograd_engine.problem import pose
from denograd_engine.schema import infer_schema
from denograd_engine.training import train
from denograd_engine.user_code import BACKBONE, is_custom, source_digest
from denograd_tasks.exports import export
from denograd_tasks.models import encoder_json, load_backbone, load_module, require_weights, weights_digest
from denograd_tasks.records import Architecture
from denograd_tasks.roles import schema_of, training_of
from denograd_tasks.store import Store
from denograd_tasks.tables import read_table, to_frame
from denograd_tasks.tracking import fluent


@pytest.fixture(params=["table", "series"])
def ran(request):
    return request.getfixturevalue(f"{request.param}_run")


@pytest.fixture
def frame(ran):
    return to_frame(read_table(Store(ran.snapshot.root), ran.snapshot.files[0].path))


@pytest.fixture
def trained(ran, frame):
    """The backbone of the run, trained once more in memory."""
    backbone = ran.settings.backbone
    schema = schema_of(frame, ran.settings)
    return train(frame, schema, backbone.kind, backbone.arguments, training_of(ran.settings))


def gradient(module, x):
    x = x.clone().requires_grad_()
    with frozen(module, torch.device("cpu")) as lent:
        predicted = lent(x)
        (found,) = torch.autograd.grad(predicted.square().sum(), x)
    return predicted.detach(), found


def items(frame, encoder, count):
    problem = pose(frame, encoder, torch.device("cpu"), torch.float32)
    return problem.gather(problem.known[:count])[0]


@contextmanager
def unpickled():
    """Names that unpickling looks up meanwhile, beyond those that torch allows for weights."""
    found, active = [], True

    def hook(event, arguments):
        if active and event == "pickle.find_class":
            found.append(".".join(map(str, arguments)))

    sys.addaudithook(hook)
    try:
        yield found
    finally:
        active = False


def test_the_audit_notices_a_pickle():
    with unpickled() as found:
        pickle.loads(pickle.dumps(Path("x")))
    assert found


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_export_has_the_gradient_of_the_trained_model(ran, frame, trained, count):
    exported = load_backbone(ran.backbone, "cpu")
    x = items(frame, trained.encoder, count)
    for one, other in zip(gradient(trained.module, x), gradient(exported.module, x), strict=True):
        assert torch.equal(one, other)


def test_mlflow_gives_back_the_same_model(ran, frame):
    with fluent(ran.settings.tracking.uri):
        loaded = mlflow.pytorch.load_model(ran.backbone.model_uri)
    exported = load_backbone(ran.backbone, "cpu")
    x = items(frame, exported.encoder, 5)
    for one, other in zip(gradient(exported.module, x), gradient(loaded, x), strict=True):
        assert torch.equal(one, other)


def test_loading_unpickles_nothing(ran):
    with fluent(ran.settings.tracking.uri), unpickled() as found:
        load_backbone(ran.backbone, "cpu")
        mlflow.pytorch.load_model(ran.backbone.model_uri)
    assert found == []


def test_threads_that_export_and_load_at_once_are_kept_apart(tmp_path, racing):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=["a", "b", "y"])
    encoder, x = Encoder.fit(table, infer_schema(table, target="y")), torch.randn(5, 2)
    architecture = Architecture(kind="mlp", arguments={}, input_shape=(2,), outputs=1)
    networks = [build("mlp", (2,), 1) for _ in range(4)]

    def one(at):
        with frozen(networks[at], torch.device("cpu")) as module:
            exported = export(module, encoder, architecture, x, tmp_path / str(at))
        loaded = load_module(exported.weights, architecture.model_copy(update={"rebuilt": False}), "cpu")
        return exported.weights.name, loaded

    for network, (name, loaded) in zip(networks, racing(one, len(networks)), strict=True):
        assert name == "model.pt2"  # and not weights alone, because the network could not be traced
        for found, expected in zip(gradient(loaded, x), gradient(network, x), strict=True):
            torch.testing.assert_close(found, expected)


def test_the_record_comes_back_with_the_backbone(ran, trained):
    exported = load_backbone(ran.backbone, "cpu")
    assert exported.encoder == trained.encoder
    assert exported.skill == trained.skill == ran.backbone.skill
    assert exported.residual_scale == trained.residual_scale


def test_training_again_gives_the_same_weights_and_digest(ran, trained):
    assert weights_digest(trained.module, trained.encoder, ran.backbone.architecture) == ran.backbone.digest


def test_the_digest_is_of_architecture_weights_and_scaling(ran, trained):
    digest, architecture = ran.backbone.digest, ran.backbone.architecture
    exported = load_backbone(ran.backbone, "cpu")
    assert weights_digest(exported.module, exported.encoder, architecture) == digest
    name, weight = next(iter(trained.module.named_parameters()))
    with torch.no_grad():
        before = weight.flatten()[0].clone()
        weight.flatten()[0] = torch.nextafter(before, before + 1)
        assert weights_digest(trained.module, trained.encoder, architecture) != digest, name
        weight.flatten()[0] = before
        assert weights_digest(trained.module, trained.encoder, architecture) == digest
    scale = trained.encoder.scales[0]
    wider = replace(scale, spread=float(np.nextafter(scale.spread, 2)))
    other = replace(trained.encoder, scales=(wider, *trained.encoder.scales[1:]))
    assert weights_digest(trained.module, other, architecture) != digest
    edited = architecture.model_copy(update={"source": "0" * 64})
    assert weights_digest(trained.module, trained.encoder, edited) != digest


def test_the_scaling_survives_json(ran, frame):
    encoder = Encoder.fit(frame, schema_of(frame, ran.settings))
    raw = encoder_json(encoder)
    assert Encoder.from_dict(json.loads(raw)) == encoder
    assert encoder_json(Encoder.from_dict(json.loads(raw))) == raw
    stored = Store(ran.backbone.root).read(ran.backbone.file("encoder.json").path)
    assert stored == raw


@pytest.fixture
def copied(ran, tmp_path):
    """The record of a copy of the run's export, to be damaged."""
    folder = Path(ran.backbone.file("model.pt2").path).parent
    shutil.copytree(Path(ran.backbone.root) / folder, tmp_path / folder)
    return ran.backbone.model_copy(update={"root": str(tmp_path)})


def test_a_whole_export_is_accepted(copied):
    require_weights(copied)


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x40
    path.write_bytes(bytes(raw))


def weights_at(path, module):
    """Where the bytes of the longest weight lie in the export."""
    weight = max(module.state_dict().values(), key=lambda one: one.numel())
    found = path.read_bytes().find(weight.detach().numpy().tobytes())
    assert found > 0
    return found


def test_an_export_with_another_weight_is_refused(copied):
    path = Path(copied.root) / copied.file("model.pt2").path
    flip(path, weights_at(path, load_backbone(copied, "cpu").module) + 2)
    with pytest.raises(StoreError, match="damaged") as caught:
        require_weights(copied)
    assert caught.value.where == str(path.parent)


@pytest.mark.parametrize("name", ["model.pt2", "encoder.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half"])
def test_an_export_that_is_not_whole_is_refused(copied, name, damage):
    path = Path(copied.root) / copied.file(name).path
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "half" else 0])
    with pytest.raises(StoreError, match="damaged"):
        require_weights(copied)


def test_an_export_with_another_scaling_is_refused(copied):
    path = Path(copied.root) / copied.file("encoder.json").path
    plain = json.loads(path.read_text())
    plain["scales"][0]["spread"] *= 2
    path.write_text(json.dumps(plain))
    with pytest.raises(StoreError, match="damaged"):
        require_weights(copied)


def test_a_backbone_whose_files_are_gone_cannot_be_loaded(ran, tmp_path):
    with pytest.raises(StoreError, match="missing"):
        load_backbone(ran.backbone.model_copy(update={"root": str(tmp_path)}), "cpu")


NETS = """
import torch
from torch import nn


class Exportable(nn.Module):
    def __init__(self, input_shape, outputs, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, outputs)
        )
        self.layers(torch.zeros(2, *input_shape))

    def forward(self, x):
        return self.layers(x)


class Branching(Exportable):
    def forward(self, x):
        y = self.layers(x)
        return 2 * y if float(y.detach().sum()) > 0 else y


class Fixed(Exportable):
    def forward(self, x):
        return torch.cat([self.layers(x[at : at + 1]) for at in range(x.shape[0])])


class Remembering(Branching):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs)
        self.register_buffer("rows", torch.empty(0, *input_shape))

    def condition(self, x, y):
        self.rows = x.detach()

    def forward(self, x):
        return super().forward(x) + (x @ self.rows.T).mean(dim=1, keepdim=True)


class Forgetful(Branching):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs)
        self.register_buffer("kept", torch.rand(1), persistent=False)

    def forward(self, x):
        return super().forward(x) + self.kept
"""


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture(scope="module")
def encoder():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 4)), columns=["a", "b", "c", "y"])
    return Encoder.fit(frame, infer_schema(frame, "y"))


@pytest.fixture
def exported(tmp_path, encoder):
    """Exports a network; returns it with the export."""

    def exported(kind, arguments=None, shape=(3,)):
        source = source_digest(kind, BACKBONE) if is_custom(kind) else None
        plain = Architecture(kind=kind, arguments=arguments or {}, input_shape=shape, outputs=1, source=source)
        module = build(kind, shape, 1, arguments)
        if is_custom(kind):
            module.layers(torch.randn(20, *shape))  # batch statistics of its own
        if hasattr(module, "condition"):
            module.condition(torch.randn(9, *shape), torch.randn(9, 1))
        inputs = torch.randn(5, *shape)
        with frozen(module, torch.device("cpu")):
            return module, export(module, encoder, plain, inputs, tmp_path / "model")

    return exported


def same(module, other, shape=(3,), equal=torch.equal):
    """Whether predictions and gradients to the input are equal, bit by bit, for several numbers of items."""
    return all(
        equal(one, another)
        for count in (1, 2, 7)
        for x in [torch.randn(count, *shape)]
        for one, another in zip(gradient(module, x), gradient(other, x), strict=True)
    )


def readable(kind):
    """The shape of an input that this kind reads; skips where its package is not installed."""
    problems = []
    for shape in ((24, 3), (5,)):
        try:
            build(kind, shape, 1)
        except ConfigError as error:
            problems.append(error.problem)
        else:
            return shape
    return pytest.skip("; ".join(problems))


@pytest.mark.parametrize("kind", REGISTRY)
def test_a_network_of_ours_comes_back_as_itself(exported, kind):
    shape = readable(kind)
    module, written = exported(kind, None, shape)
    assert written.weights.name == "model.pt2"
    assert written.architecture.rebuilt
    back = load_module(written.weights, written.architecture, "cpu")
    assert type(back) is type(module)
    assert same(module, back, shape)
    program = load_module(written.weights, written.architecture.model_copy(update={"rebuilt": False}), "cpu")
    assert same(module, program, shape, equal=torch.allclose)


def test_a_network_of_the_users_comes_back_as_its_program_without_its_code(exported, nets):
    module, written = exported(f"{nets}:Exportable", {"width": 4})
    assert written.weights.name == "model.pt2"
    assert not written.architecture.rebuilt
    nets.unlink()
    assert same(module, load_module(written.weights, written.architecture, "cpu"))


@pytest.mark.parametrize("name", ["Branching", "Fixed", "Remembering"])
def test_a_network_that_cannot_be_exported_keeps_its_weights_and_comes_back_by_its_code(exported, nets, name, capfd):
    module, written = exported(f"{nets}:{name}")
    assert capfd.readouterr() == ("", "")
    assert written.weights.name == "model.safetensors"
    assert written.architecture.rebuilt
    assert {path.name for path in written.folder.rglob("*") if path.is_file()} == {
        "MLmodel",
        "model.safetensors",
        "encoder.json",
        "architecture.json",
    }
    assert same(module, load_module(written.weights, written.architecture, "cpu"))
    nets.write_text(NETS + "\n")
    with pytest.raises(ConfigError, match="has changed since it was trained"):
        load_module(written.weights, written.architecture, "cpu")


def test_a_network_that_nothing_brings_back_is_refused(exported, nets):
    with pytest.raises(ConfigError, match="cannot be exported") as caught:
        exported(f"{nets}:Forgetful")
    assert "other predictions" in caught.value.found


def test_loading_leaves_the_random_state_alone(exported):
    _, written = exported("mlp")
    before = torch.get_rng_state()
    load_module(written.weights, written.architecture, "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_network_are_refused(exported):
    _, written = exported("mlp", {"hidden": [4]})
    other = written.architecture.model_copy(update={"arguments": {"hidden": [5]}})
    with pytest.raises(StoreError, match="do not fit the network"):
        load_module(written.weights, other, "cpu")


class Trap:
    """Leaves a proof where it was unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return (Path.touch, (self.proof,))


def rewritten(path, change):
    """Change the records of an archive, by name within it."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(records)).partition("/")[0]
    inner = {name.partition("/")[2]: content for name, content in records.items()}
    change(inner)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in inner.items():
            archive.writestr(f"{top}/{name}", content)


def pickled(proof):
    buffer = io.BytesIO()
    torch.save(Trap(proof), buffer)
    return buffer.getvalue()


def edit_json(records, name, change):
    plain = json.loads(records[name])
    change(plain)
    records[name] = json.dumps(plain).encode()


GRAPH, WEIGHTS_OF = "models/model.json", "data/weights/model_weights_config.json"
EVIL = "__import__('pathlib').Path('{proof}').touch()"


def as_weight(records, proof):
    records["data/weights/weight_0"] = pickled(proof)

    def mark(plain):
        next(iter(plain["config"].values()))["use_pickle"] = True

    edit_json(records, WEIGHTS_OF, mark)


def as_example(records, proof):
    records["data/sample_inputs/model.pt"] = pickled(proof)


def as_constant(records, proof):
    records["data/constants/opaque_obj_0"] = pickle.dumps(Trap(proof))
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit_json(records, "data/constants/model_constants_config.json", lambda plain: plain["config"].update(c=entry))


def as_legacy_weights(records, proof):
    records["data/weights/model.pt"] = pickled(proof)


def as_expression(records, proof):
    text = records[GRAPH].decode()
    match = re.search(r'"expr_str": "[^"]*"', text)
    records[GRAPH] = text.replace(match[0], '"expr_str": ' + json.dumps(EVIL.format(proof=proof))).encode()


def as_operator(records, proof):
    def call(plain):
        plain["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"

    edit_json(records, GRAPH, call)


def as_guard(records, proof):
    edit_json(records, GRAPH, lambda plain: plain.update(guards_code=[EVIL.format(proof=proof)]))


def as_name(records, proof):
    records[GRAPH] = records[GRAPH].replace(b'"name": "x"', b'"name": "x=__import__(1)"')


def as_container(records, proof):
    def nest(plain):
        signature = plain["graph_module"]["module_call_graph"][0]["signature"]
        signature["out_spec"] = json.dumps(
            [1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]
        )

    edit_json(records, GRAPH, nest)


def as_library(records, proof):
    records["data/aotinductor/model/evil.so"] = b"\x7fELF"


TRAPS = [
    as_weight,
    as_example,
    as_constant,
    as_legacy_weights,
    as_expression,
    as_operator,
    as_guard,
    as_name,
    as_container,
    as_library,
]


@pytest.mark.parametrize("rebuilt", [True, False])
@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_in_a_program_is_not_sprung(exported, tmp_path, trap, rebuilt):
    _, written = exported("mlp", {"hidden": [4]})
    proof = tmp_path / "proof"
    rewritten(written.weights, lambda records: trap(records, proof))
    with unpickled() as found, pytest.raises(StoreError, match="could run code"):
        load_module(written.weights, written.architecture.model_copy(update={"rebuilt": rebuilt}), "cpu")
    assert not proof.exists()
    assert [name for name in found if "touch" in name] == []


@pytest.mark.parametrize("name", ["model.pt2", "model.safetensors"])
def test_a_pickle_in_the_place_of_a_model_is_not_read(exported, tmp_path, name):
    _, written = exported("mlp", {"hidden": [4]})
    proof, path = tmp_path / "proof", tmp_path / name
    for content in (pickle.dumps(Trap(proof)), pickled(proof)):
        path.write_bytes(content)
        with pytest.raises(StoreError):
            load_module(path, written.architecture, "cpu")
        assert not proof.exists()


def test_the_trap_springs_where_nothing_is_looked_at(exported, tmp_path):
    _, written = exported("mlp", {"hidden": [4]})
    proof = tmp_path / "proof"
    rewritten(written.weights, lambda records: as_weight(records, proof))
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.load(written.weights)
    assert proof.exists()
