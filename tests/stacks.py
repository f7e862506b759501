"""Stacks of real servers for tests: each in a folder of its own, of which nothing is left running afterwards."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support import clean_environment

from denograd_engine.errors import ConfigError
from infra.postgres import programs
from infra.processes import MARK

ROOT = Path(__file__).resolve().parents[1]
FREE = ("--prefect-port", "0", "--mlflow-port", "0")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str


def require_postgres() -> None:
    try:
        programs()
    except ConfigError:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")


def marked(folder: Path) -> list[str]:
    """The command lines of what runs with a mark of this folder."""
    marks = {json.loads(path.read_text())["mark"] for path in (folder / "run").glob("*.json")}
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) in marks:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@contextmanager
def stack_folder() -> Iterator[Path]:
    """Where everybody may pass through, as PostgreSQL's own account must where the tests run as root."""
    made = Path(tempfile.mkdtemp(prefix="stack-"))
    made.chmod(0o755)
    yield made
    assert marked(made) == []
    shutil.rmtree(made)


def stack_command(folder: Path, *arguments: str) -> Ran:
    """The command, as the Makefile calls it."""
    done = subprocess.run(
        [sys.executable, "-m", "infra.stack", *arguments, "--folder", str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean_environment(folder / "home"),
        timeout=300,
        check=False,
    )
    return Ran(done.returncode, done.stdout + done.stderr)


def exported(started: Ran) -> dict[str, str]:
    """What a shell that uses the stack is to export."""
    assert started.code == 0, started.out
    exports = dict(re.findall(r"^  export (\w+)=(\S+)$", started.out, flags=re.M))
    assert set(exports) == {"PREFECT_API_URL", "MLFLOW_TRACKING_URI"}
    return exports
