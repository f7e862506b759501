"""The command in ordinary use: one table, from a file to a version that can be looked at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from denograd_engine import __version__
from denograd_flows.cli import app


def test_a_table_becomes_a_version_and_can_be_looked_at(
    denograd: Any, config: Callable[..., Path], table: Path
) -> None:
    ran = denograd("run", config())
    assert ran.code == 0, ran.err
    assert "published as version 1" in ran.out

    observed = pd.read_parquet(table)
    refined = pd.read_parquet(denograd("path", "readings").out.strip())
    assert list(refined.dtypes) == list(observed.dtypes)
    assert list(refined.columns) == list(observed.columns)
    pd.testing.assert_frame_equal(refined[["site", "rooms"]], observed[["site", "rooms"]])
    assert not refined["y"].equals(observed["y"])

    assert "readings@1" in denograd("versions").out
    assert "at least 0.1" in denograd("show", "readings@1").out
    page = Path(denograd("report", "readings@1").out.strip())
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert denograd("show", "readings", "--json").json["number"] == 1
    assert denograd("versions", "readings", "--json").json[0]["gates_passed"] == 11


def test_the_same_again_recomputes_nothing(denograd: Any, config: Callable[..., Path]) -> None:
    first = denograd("run", config(), "--json")
    again = denograd("run", config(), "--json")
    assert first.json["status"] == "published"
    assert again.json["status"] == "already_published"
    assert again.json["version"] == 1
    assert again.json["reused"] == ["ingest", "check_input", "train_backbone", "refine", "check_fidelity", "report"]
    assert "already published as version 1" in denograd("run", config()).out


def test_changed_refinement_reuses_the_backbone(denograd: Any, config: Callable[..., Path]) -> None:
    denograd("run", config())
    planned = denograd("run", config(refine={"tau": 0.2}), "--dry-run", "--json").json
    assert [step["action"] for step in planned] == ["reuse"] * 3 + ["run"] * 4
    changed = denograd("run", config(refine={"tau": 0.2}), "--json").json
    assert changed["reused"] == ["ingest", "check_input", "train_backbone"]
    assert changed["version"] == 2
    assert denograd("versions", "readings", "--json").json[1]["version"] == 2


def test_going_back_to_earlier_settings_publishes_their_result_again(
    denograd: Any, config: Callable[..., Path]
) -> None:
    first = denograd("run", config(), "--json").json
    denograd("run", config(refine={"tau": 0.2}))
    back = denograd("run", config(), "--json").json
    assert back["version"] == 3
    assert back["path"] == first["path"]


def test_a_dry_run_does_nothing(denograd: Any, config: Callable[..., Path], home: Path) -> None:
    ran = denograd("run", config(), "--dry-run")
    assert ran.code == 0
    assert "ingest" in ran.out
    assert not (home / "published").exists()
    assert not (home / "mlflow").exists()


def test_a_refusal_names_gate_value_bound_and_remedy(denograd: Any, config: Callable[..., Path], home: Path) -> None:
    ran = denograd("run", config(gates={"swd": {"max": 1e-9}}))
    assert ran.code == 3
    for words in ("refused, in quarantine", "swd is 0.", "at most 1e-09", "try: raise refine.tau"):
        assert words in ran.out
    kept = {path.name for path in (home / "published/readings/quarantine").rglob("*") if path.is_file()}
    assert kept == {"part-00000.parquet", "verdict.json", "report.html", "manifest.json"}
    assert not list((home / "published/readings").glob("data/*/*"))
    assert not list(home.rglob("versions/*.json"))

    again = denograd("run", config(gates={"swd": {"max": 1e-9}}), "--json")
    assert again.code == 3
    assert again.json["status"] == "refused"
    assert "check_fidelity" in again.json["reused"]

    released = denograd("run", config(), "--json").json
    assert released["status"] == "published"
    assert "refine" in released["reused"]
    assert len(pd.read_parquet(released["path"])) == 400


def test_a_network_that_spoils_what_is_trained_on_its_work_is_refused(
    denograd: Any, config: Callable[..., Path]
) -> None:
    short = {"training": {"epochs": 5}}
    ran = denograd("run", config(backbone=short, gates={"skill": {"min": None}, "harm": {"max": 1.02}}))
    assert ran.code == 3
    for words in ("harm is ", "at most 1.02", "declare columns.noise"):
        assert words in ran.out
    long = {"training": {"epochs": 60, "batch_size": 32}}
    kept = denograd("run", config(backbone=long, gates={"harm": {"max": 1.02}}), "--json")
    assert kept.code == 0, kept.err
    assert next(gate["value"] for gate in kept.json["gates"] if gate["name"] == "harm") < 1.02


def test_a_warning_does_not_refuse(denograd: Any, config: Callable[..., Path]) -> None:
    ran = denograd("run", config(gates={"swd": {"max": 1e-9, "severity": "warning"}}))
    assert ran.code == 0
    assert "warning: swd is" in ran.out


def test_a_backbone_without_skill_is_refused(denograd: Any, tmp_path: Path, config: Callable[..., Path]) -> None:
    import numpy as np

    noise = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=["a", "b", "y"])
    noise.to_parquet(tmp_path / "noise.parquet", index=False)
    ran = denograd("run", config(source=str(tmp_path / "noise.parquet")), "--json")
    assert ran.code == 3
    assert next(gate["name"] for gate in ran.json["gates"] if not gate["passed"]) == "skill"


@pytest.mark.parametrize("suffix", ["csv", "arrow", "parquet"])
def test_every_format_is_read(denograd: Any, config: Callable[..., Path], table: Path, suffix: str) -> None:
    frame = pd.read_parquet(table).astype({"b": "float64"})
    path = table.with_name(f"same.{suffix}")
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "arrow":
        frame.to_feather(path)
    else:
        frame.to_parquet(path, index=False)
    assert denograd("run", config(source=str(path))).code == 0


def test_init_writes_a_configuration_that_runs(denograd: Any, table: Path, tmp_path: Path) -> None:
    ran = denograd("init", table, "--target", "y")
    assert ran.code == 0, ran.err
    written = (tmp_path / "denograd.yaml").read_text()
    for line in ("    - 'y'", "    - rooms  # whole numbers", "    - site   # category", "# gates:"):
        assert line in written
    assert denograd("run").code == 0


def test_init_does_not_overwrite(denograd: Any, table: Path, tmp_path: Path) -> None:
    (tmp_path / "denograd.yaml").write_text("mine")
    ran = denograd("init", table)
    assert ran.code == 2
    assert "--force" in ran.err
    assert (tmp_path / "denograd.yaml").read_text() == "mine"


def test_doctor_says_what_is_there(denograd: Any, config: Callable[..., Path]) -> None:
    ran = denograd("doctor", config())
    assert ran.code == 0
    for what in ("torch", "device", "publishing root", "tracking", "prefect"):
        assert what in ran.out


def test_doctor_names_a_server_that_does_not_answer(denograd: Any, config: Callable[..., Path]) -> None:
    ran = denograd("doctor", config(tracking={"uri": "http://127.0.0.1:9"}), "--json")
    assert ran.code == 1
    wrong = [one for one in ran.json if not one["ok"]]
    assert [one["what"] for one in wrong] == ["tracking"]
    assert "127.0.0.1:9" in wrong[0]["detail"]


@pytest.mark.parametrize(
    "name", [str(one.name or one.callback.__name__) for one in app.registered_commands if one.callback]
)
def test_every_command_has_help_with_an_example(denograd: Any, name: str) -> None:
    ran = denograd(name, "--help")
    assert ran.code == 0
    assert f"denograd {name}" in ran.out
    assert "--json" in ran.out


def test_help_and_version_answer_without_loading_the_stack(home: Path) -> None:
    probe = (
        "import sys; from denograd_flows import cli; sys.argv = ['denograd', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'prefect', 'mlflow', 'great_expectations', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_version(denograd: Any) -> None:
    assert denograd("--version").out.strip() == __version__


def test_the_flow_is_called_from_python_too(prefect_server: None, config: Callable[..., Path], home: Path) -> None:
    from denograd_flows import clean
    from denograd_tasks import load_settings

    outcome = clean(load_settings(config()))
    assert outcome.status == "published"
    assert len(pd.read_parquet(outcome.path)) == outcome.rows == 400


def test_the_run_can_be_followed_in_prefect_and_mlflow(denograd: Any, config: Callable[..., Path], home: Path) -> None:
    from mlflow import MlflowClient
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId

    denograd("run", config(dataset="followed"))
    manifest = denograd("show", "followed", "--json").json
    run_id = manifest["run"]["flow_run_id"]
    with get_client(sync_client=True) as server:
        (run,) = server.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        left = server.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id])))
    assert run.name == f"followed-{manifest['source']['snapshot'][:8]}" == manifest["run"]["flow_run_name"]
    assert run.state is not None
    assert run.state.is_completed()
    assert {(one.key, one.type) for one in left} == {
        ("refinement", "progress"),
        ("gates", "table"),
        ("report", "markdown"),
    }

    tracked = MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    training = tracked.get_run(manifest["model"]["mlflow_run_id"])
    assert training.data.tags["denograd.snapshot"] == manifest["source"]["snapshot"]
    assert training.data.tags["denograd.version"] == "followed@1"
    assert training.data.tags["denograd.flow_run"] == run_id
    champion = tracked.get_model_version_by_alias("followed", "champion")
    assert champion.run_id == training.info.run_id
    assert len(tracked.get_metric_history(training.info.run_id, "holdout_loss")) >= 5


def test_credentials_are_not_written_down(denograd: Any, config: Callable[..., Path], tmp_path: Path) -> None:
    from denograd_tasks.settings import load_settings

    settings = load_settings(config(tracking={"uri": "https://me:secret@mlflow.example"}))
    assert "secret" not in str(settings.public())
    assert settings.public()["tracking"]["uri"] == "https://mlflow.example"
