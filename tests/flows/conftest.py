"""A fresh home for each flow test, and the command called two ways."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import HASTY, clean_environment, command, make_table

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home folder, and a working folder beside it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("DENOGRAD_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def denograd(home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """The command, called in this process against the session's Prefect API."""
    from typer.testing import CliRunner

    from denograd_flows.cli import app

    for name in ("PREFECT_HOME", "DENOGRAD_OWNER"):
        monkeypatch.setenv(name, os.environ.get(name, str(home / "prefect")))

    def call(*arguments: object) -> Ran:
        result = CliRunner().invoke(app, [str(one) for one in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def process(home: Path) -> Callable[..., Ran]:
    """The command as a user runs it: a process of its own, with a temporary Prefect server."""

    def call(*arguments: object, **environment: str) -> Ran:
        done = subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            env=clean_environment(home) | environment,
            timeout=600,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with a learnable target and noise, as Parquet."""
    path = tmp_path / "readings.parquet"
    make_table(400).to_parquet(path, index=False)
    return path


@pytest.fixture
def config(table: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration for the table, with changes."""

    def write(name: str = "denograd.yaml", **changes: Any) -> Path:
        plain = {
            "dataset": "readings",
            "source": str(table),
            "columns": {"target": ["y"]},
            "backbone": {"training": {"epochs": 15}},
            "refine": {"max_epochs": 20},
            **changes,
            "gates": HASTY | changes.get("gates", {}),
        }
        path = tmp_path / name
        path.write_text(json.dumps(plain))
        return path

    return write


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """A shared data set; its absence skips the test, unless the folder is there without it."""

    def find(name: str) -> Path:
        if not SHARED.is_dir():
            pytest.skip(f"the shared data are not beside this checkout ({SHARED})")
        path = SHARED / name
        assert path.is_file(), f"{path} is missing from the shared data"
        return path

    return find
