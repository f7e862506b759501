"""The exported backbone: the same function and gradient as in memory, loaded without running any code in it."""

import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from denograd_engine.devices import frozen
from denograd_engine.errors import StoreError
from denograd_engine.frames import Encoder
from denograd_engine.problem import pose
from denograd_engine.training import train
from denograd_tasks.models import encoder_json, load_backbone, require_weights, weights_digest
from denograd_tasks.roles import schema_of, training_of
from denograd_tasks.store import Store
from denograd_tasks.tables import read_table, to_frame
from denograd_tasks.tracking import fluent

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # Prefect leaves its clients' open


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
    import pickle

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


def test_the_record_comes_back_with_the_backbone(ran, trained):
    exported = load_backbone(ran.backbone, "cpu")
    assert exported.encoder == trained.encoder
    assert exported.skill == trained.skill == ran.backbone.skill
    assert exported.residual_scale == trained.residual_scale


def test_training_again_gives_the_same_weights_and_digest(ran, trained):
    assert weights_digest(trained.module, trained.encoder) == ran.backbone.digest


def test_the_digest_is_of_weights_and_scaling(ran, trained):
    digest = ran.backbone.digest
    exported = load_backbone(ran.backbone, "cpu")
    assert weights_digest(exported.module, exported.encoder) == digest
    name, weight = next(iter(trained.module.named_parameters()))
    with torch.no_grad():
        before = weight.flatten()[0].clone()
        weight.flatten()[0] = torch.nextafter(before, before + 1)
        assert weights_digest(trained.module, trained.encoder) != digest, name
        weight.flatten()[0] = before
        assert weights_digest(trained.module, trained.encoder) == digest
    scale = trained.encoder.scales[0]
    scales = (type(scale)(scale.center, np.nextafter(scale.spread, 2), scale.imputed), *trained.encoder.scales[1:])
    other = Encoder(trained.encoder.schema, scales, trained.encoder.contexts, trained.encoder.flagged)
    assert weights_digest(trained.module, other) != digest


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
