"""Cross-fitted backbones in every stage: tracked, exported without pickle, read back, and each for its own rows."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from support import make_series

from denograd_engine.crossfit import train_folds
from denograd_engine.errors import ConfigError, StoreError
from denograd_engine.refinement import refine
from denograd_tasks import train_backbone
from denograd_tasks.models import load_backbone, require_weights, weights_digest
from denograd_tasks.roles import refining_of, schema_of, training_of
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store, sha256_of
from denograd_tasks.tables import read_table, to_frame
from denograd_tasks.tracking import client, fluent
from denograd_tasks.versions import resolve

CACHED = {"ingest", "check_input", "train_backbone", "refine", "check_fidelity", "report"}
NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, outputs, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_shape[0], width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, x):
        return self.layers(x)


class Forgetful(Net):
    def __init__(self, input_shape, outputs, width=8):
        super().__init__(input_shape, outputs, width)
        self.scale = 1.0

    def forward(self, x):
        if self.training:
            self.scale = 1.5
        return self.scale * super().forward(x)
"""


def make_table(rows=300):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(rows, 2))
    return pa.table({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] + x[:, 1] + 0.3 * generator.normal(size=rows)})


@pytest.fixture(scope="module")
def folded_table(clean, make_settings, tmp_path_factory):
    training = {"epochs": 15, "batch_size": 32, "learning_rate": 0.01, "folds": 3}
    return clean(
        make_settings(make_table(), tmp_path_factory.mktemp("table"), dataset="folded", backbone={"training": training})
    )


@pytest.fixture(scope="module")
def folded_series(clean, make_settings, tmp_path_factory):
    return clean(
        make_settings(
            make_series(),
            tmp_path_factory.mktemp("series"),
            dataset="folded-waves",
            columns={"target": "load"},
            series={"time": "time", "entity": "entity", "window": 8},
            backbone={
                "arguments": {"hidden": 16},
                "training": {"epochs": 10, "batch_size": 32, "learning_rate": 0.01, "folds": 2},
            },
        )
    )


@pytest.fixture(params=["table", "series"])
def ran(request):
    return request.getfixturevalue(f"folded_{request.param}")


def observed(run):
    return to_frame(read_table(Store(run.snapshot.root), run.snapshot.files[0].path))


def again(run, **changes):
    return Settings.model_validate(run.settings.model_dump(mode="json") | changes)


def test_it_publishes_a_version_that_says_how_many_networks_there_were(ran):
    assert set(ran.states) == CACHED | {"publish"}
    content = resolve(Store(ran.version.root), ran.settings.dataset).content
    folds = ran.settings.backbone.training.folds
    assert content["model"]["architecture"]["folds"] == folds
    assert content["settings"]["backbone"]["training"]["folds"] == folds
    assert f"{folds} folds, held-out R2" in ran.backbone.describe()
    assert [Path(file["path"]).name for file in content["model"]["files"]] == [
        "model.safetensors",
        "encoder.json",
        "architecture.json",
    ]


def test_the_export_is_what_was_trained_and_refines_alike(ran):
    frame, settings = observed(ran), ran.settings
    backbone, training = settings.backbone, training_of(settings)
    trained = train_folds(
        frame, schema_of(frame, settings), backbone.training.folds, backbone.kind, backbone.arguments, training
    )
    loaded = load_backbone(ran.backbone, "cpu")
    assert len(loaded.networks) == backbone.training.folds
    assert weights_digest(trained.module, trained.encoder, ran.backbone.architecture) == ran.backbone.digest
    assert weights_digest(loaded.module, loaded.encoder, ran.backbone.architecture) == ran.backbone.digest
    assert loaded.skill == trained.skill == ran.backbone.skill
    assert tuple(ran.backbone.history) == tuple((e.epoch, e.train_loss, e.holdout_loss) for e in trained.history)
    expected = refine(frame, trained, refining_of(settings)).frame
    stored = to_frame(read_table(Store(ran.refined.root), ran.refined.located().path))
    pd.testing.assert_frame_equal(stored, expected, check_exact=True)


def test_every_fold_is_tracked_and_the_model_registered_without_pickle(ran):
    server, folds = client(ran.settings.tracking.uri), ran.settings.backbone.training.folds
    run = server.get_run(ran.backbone.run_id)
    assert run.data.params["folds"] == str(folds)
    for fold in range(1, folds + 1):
        for loss in ("train_loss", "holdout_loss"):
            assert server.get_metric_history(run.info.run_id, f"{loss}/fold {fold}")
    for target, skill in ran.backbone.skill.items():
        assert run.data.metrics[f"skill/{target}"] == skill
    with fluent(ran.settings.tracking.uri):
        folder = Path(mlflow.artifacts.download_artifacts(ran.backbone.model_uri))
    files = {path.name: path for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "architecture.json", "encoder.json", "MLmodel"} <= files.keys()
    assert not [name for name in files if name.endswith((".pth", ".pkl", ".pickle"))]
    for file in ran.backbone.files:
        assert sha256_of(files[Path(file.path).name]) == file.sha256


def test_the_same_again_computes_nothing(folded_table, clean):
    run = clean(folded_table.settings)
    assert run.reused == CACHED
    assert run.version.already


def test_an_export_with_another_weight_is_refused(folded_table, tmp_path):
    import shutil

    folder = Path(folded_table.backbone.weights.path).parent
    shutil.copytree(Path(folded_table.backbone.root) / folder, tmp_path / folder)
    copied = folded_table.backbone.model_copy(update={"root": str(tmp_path)})
    require_weights(copied)
    path = tmp_path / copied.weights.path
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 0x40
    path.write_bytes(bytes(raw))
    with pytest.raises(StoreError, match="the exported model is damaged"):
        require_weights(copied)


def test_the_architecture_of_one_network_is_written_as_it_was_before_folds(table_run):
    written = json.loads(Store(table_run.backbone.root).read(table_run.backbone.file("architecture.json").path))
    assert "folds" not in written


def test_an_earlier_run_s_folds_are_no_model_for_others(folded_table, clean):
    adopting = again(folded_table, dataset="other", backbone={"kind": "models:/folded@champion"})
    with pytest.raises(ConfigError, match="is not one network") as caught:
        train_backbone.fn(folded_table.snapshot, adopting)
    assert "3 networks" in caught.value.found


@pytest.fixture
def own(make_settings, tmp_path):
    """Settings with a network of the user's own, in folds."""
    (tmp_path / "nets.py").write_text(NETS)

    def make(name):
        backbone = {"kind": f"{tmp_path / 'nets.py'}:{name}", "training": {"epochs": 15, "batch_size": 32, "folds": 2}}
        return make_settings(make_table(), tmp_path, dataset="own", backbone=backbone, gates={"skill": {"min": None}})

    return make


def test_a_network_of_the_user_s_own_comes_back_from_its_class(own, clean):
    run = clean(own("Net"))
    assert run.backbone.architecture.rebuilt
    loaded = load_backbone(run.backbone, "cpu")
    with torch.no_grad():
        one, other = (network(torch.ones(1, 2)) for network in loaded.networks)
    assert not torch.equal(one, other)


def test_one_that_does_not_is_refused(own, clean):
    with pytest.raises(ConfigError, match="cannot be exported in folds") as caught:
        clean(own("Forgetful"))
    assert caught.value.where == "backbone.training.folds"
    assert "remove folds" in caught.value.remedy
