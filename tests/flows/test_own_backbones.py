"""Backbones that are not ours: a class in a file beside the configuration, and a model out of the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHED = ["ingest", "check_input", "train_backbone", "refine", "check_fidelity", "report"]
NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, outputs, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_shape[0], width), nn.{}(), nn.Linear(width, outputs))

    def forward(self, x):
        return self.layers(x)
"""
QUICK = {"epochs": 30, "learning_rate": 0.02}


def test_a_network_beside_the_configuration_is_trained_once_and_again_when_it_was_edited(
    denograd: Any, config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(NETS.format("Tanh"))
    path = config(backbone={"kind": "nets.py:Net", "arguments": {"width": 8}, "training": QUICK})
    first = denograd("run", path, "--json")
    assert first.code == 0, first.err
    assert first.json["status"] == "published"
    shown = denograd("show", "readings@1", "--json").json
    assert shown["model"]["kind"] == "nets.py:Net"
    assert [Path(file["path"]).name for file in shown["model"]["files"]] == [
        "model.pt2",
        "encoder.json",
        "architecture.json",
    ]
    assert sorted(one.name for one in tmp_path.iterdir() if one.suffix == ".py") == ["nets.py"]

    again = denograd("run", path, "--json")
    assert again.json["reused"] == CACHED
    assert again.json["status"] == "already_published"

    (tmp_path / "nets.py").write_text(NETS.format("SiLU"))
    planned = denograd("run", path, "--dry-run", "--json").json
    assert [step["stage"] for step in planned if step["action"] == "reuse"] == ["ingest", "check_input"]
    edited = denograd("run", path, "--json")
    assert edited.json["reused"] == ["ingest", "check_input"]
    assert edited.json["version"] == 2, edited.json["gates"]

    (tmp_path / "nets.py").write_text(NETS.format("Tanh"))
    assert denograd("run", path, "--json").json["reused"] == CACHED
    assert "reuse train_backbone  nets.py:Net, held-out R2" in denograd("run", path, "--dry-run").out

    (tmp_path / "nets.py").unlink()
    again = denograd("reproduce", "readings@2", "--json").json
    assert (again["outcome"], again["code"]) == ("identical", [])


def test_a_network_that_is_not_there_is_bad_configuration(denograd: Any, config: Callable[..., Path]) -> None:
    ran = denograd("run", config(backbone={"kind": "nets.py:Net"}))
    assert ran.code == 2
    assert "the file of the backbone cannot be read" in ran.err
    assert "nets.py" in ran.err
    assert "Traceback" not in ran.err


def test_the_model_of_an_earlier_run_is_used_as_it_is(denograd: Any, config: Callable[..., Path], home: Path) -> None:
    from mlflow import MlflowClient

    trained = denograd("run", config(), "--json").json
    path = config(backbone={"kind": "models:/readings@champion"}, refine={"max_epochs": 20, "tau": 0.2})
    adopted = denograd("run", path, "--json")
    assert adopted.code == 0, adopted.err
    assert adopted.json["version"] == 2
    assert adopted.json["skill"] == trained["skill"]
    model = denograd("show", "readings@2", "--json").json["model"]
    assert model["uri"] == "models:/readings/1"
    assert model["kind"] == "mlp"

    tracked = MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    assert len(tracked.search_model_versions("name = 'readings'")) == 1
    assert str(tracked.get_model_version_by_alias("readings", "champion").version) == "1"
    run = tracked.get_run(model["mlflow_run_id"])
    assert run.data.params["kind"] == "models:/readings/1"
    assert run.data.tags["denograd.version"] == "readings@2"
    assert len(run.inputs.model_inputs) == 1

    by_number = config(backbone={"kind": "models:/readings/1"}, refine={"max_epochs": 20, "tau": 0.2})
    assert "train_backbone" in denograd("run", by_number, "--json").json["reused"]
    assert "models:/readings/1 as it is" in denograd("run", by_number, "--dry-run").out


def test_a_model_that_is_not_registered_is_bad_configuration(denograd: Any, config: Callable[..., Path]) -> None:
    ran = denograd("run", config(backbone={"kind": "models:/nothing/1"}))
    assert ran.code == 2
    assert "there is no model 'models:/nothing/1' in the registry" in ran.err
