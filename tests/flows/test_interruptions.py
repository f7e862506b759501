"""kill -9, Ctrl-C and a full disk at the real process: the next run goes on, and nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from support import HASTY, clean_environment, command, make_table

STAGES = ["Ingest", "Check input", "Train backbone", "Refine", "Check fidelity", "Report", "Publish"]
A_FEW = ["Train backbone", "Publish"]
START = "Start"
SPANS = {START: 10.0, "Train backbone": 8.0, "Publish": 0.3}
"""Seconds of a part in which it is killed; 1 of others. MLflow's database is created in training, too."""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A configuration whose stages take long enough to be hit."""
    make_table(60_000).to_parquet(tmp_path / "large.parquet", index=False)
    config = tmp_path / "denograd.yaml"
    plain = {
        "dataset": "large",
        "source": str(tmp_path / "large.parquet"),
        "columns": {"target": ["y"]},
        "backbone": {"training": {"epochs": 4}},
        "refine": {"max_epochs": 30, "tau": 0.02},
        "gates": HASTY,
    }
    config.write_text(json.dumps(plain))
    return config


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_in_every_stage_it_still_publishes_one_whole_version(large: Path, home: Path, times: int) -> None:
    chance = random.Random(7)
    done: set[str] = set()
    for stage in A_FEW if times == 1 else (START, *STAGES):
        for _ in range(times):
            finished = _killed_in(stage, large, home, chance.uniform(0, SPANS.get(stage, 1.0)))
            repeated = {one for one, how in finished if how != "reused"} & done
            assert not repeated, f"finished stages ran again: {repeated}"
            done |= {one for one, _ in finished if one != "Publish"}

    last = subprocess.run(
        command("run", large, "--json"), capture_output=True, text=True, env=clean_environment(home), check=False
    )
    assert last.returncode == 0, last.stderr
    outcome = json.loads(last.stdout)
    assert outcome["version"] == 1
    _assert_whole_and_tidy(home, outcome)


def _killed_in(stage: str, config: Path, home: Path, delay: float) -> list[tuple[str, str]]:
    """Run until a stage begins, wait, kill; returns the stages that finished, and how."""
    log = config.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            command("run", config), stdout=out, stderr=subprocess.DEVNULL, env=clean_environment(home)
        )
    while process.poll() is None and stage != START and not _begun(stage, process.pid, log):
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return _finished(log)


def _begun(stage: str, pid: int, log: Path) -> bool:
    """Whether the stage before is done; the first begins when the run has its lock."""
    if stage != STAGES[0]:
        return len(_finished(log)) >= STAGES.index(stage)
    try:
        return any(one.path.endswith("large.lock") for one in psutil.Process(pid).open_files())
    except psutil.Error:
        return False


def _finished(log: Path) -> list[tuple[str, str]]:
    found = re.finditer(r"[✓↻] (.{16})\s+(reused|[\d.]+ s)", log.read_text())
    return [(one.group(1).strip(), one.group(2)) for one in found]


def _assert_whole_and_tidy(home: Path, outcome: dict[str, object]) -> None:
    import hashlib

    root = home / "published"
    manifests = list(root.glob("large/versions/*.json"))
    assert [path.name for path in manifests] == ["00000001.json"]
    manifest = json.loads(manifests[0].read_text())
    named = [*manifest["files"], *manifest["evidence"], *manifest["source"]["files"], *manifest["model"]["files"]]
    for file in named:
        assert hashlib.sha256((root / file["path"]).read_bytes()).hexdigest() == file["sha256"], file["path"]
    present = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert present == {file["path"] for file in named} | {"large/versions/00000001.json"}
    left = [path for path in (home / "tmp").rglob("*") if path.is_file() and not psutil.pid_exists(int(path.parts[-2]))]
    assert not left
    assert not _servers_of(home), "a temporary Prefect server was left behind"
    assert _flow_runs_in_state(home, "RUNNING") == 0
    assert _mlflow_runs_in_state(home, "RUNNING") == 0


def _servers_of(home: Path) -> list[int]:
    found = []
    for _ in range(50):
        found = [
            process.pid
            for process in psutil.process_iter()
            if _environment(process).get("PREFECT_HOME") == str(home / "prefect") and process.pid != os.getpid()
        ]
        if not found:
            break
        time.sleep(0.2)
    return found


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _flow_runs_in_state(home: Path, state: str) -> int:
    import sqlite3

    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        count: int = database.execute("select count(*) from flow_run where state_type = ?", (state,)).fetchone()[0]
    return count


def _mlflow_runs_in_state(home: Path, state: str) -> int:
    import sqlite3

    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        count: int = database.execute("select count(*) from runs where status = ?", (state,)).fetchone()[0]
    return count


FINALISING = """
import os, signal, threading, time
from denograd_flows.shell import repeat_lost_interrupts

class Slow:
    def __del__(self):
        time.sleep(0.6)

repeat_lost_interrupts()
slow = Slow()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    del slow
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_that_lands_in_a_finaliser_is_not_lost() -> None:
    ran = subprocess.run([sys.executable, "-c", FINALISING], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "interrupted", "")


EXECUTING = """
import sys, typer
from denograd_flows.shell import opened
try:
    with opened(as_json=False, verbose=False):
        exec("raise KeyboardInterrupt")
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


def test_an_interrupt_that_lands_in_executed_text_ends_with_the_code_of_one(tmp_path: Path) -> None:
    (tmp_path / "executing.py").write_text(EXECUTING)
    ran = subprocess.run([sys.executable, "-m", "executing"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 130, ran.stderr


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_leaves_things_clean_and_says_how_to_go_on(large: Path, home: Path, presses: int) -> None:
    log = large.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            command("run", large), stdout=out, stderr=subprocess.PIPE, text=True, env=clean_environment(home)
        )
    while process.poll() is None and "Check input" not in log.read_text():
        time.sleep(0.02)
    time.sleep(1.0)
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "The next run goes on" in err
    assert "Traceback" not in err
    assert not _servers_of(home)
    assert not list(home.rglob("versions/*.json"))
    FileLock(home / "locks" / "large.lock", timeout=0).acquire().lock.release()


def test_a_full_disk_is_named_and_nothing_half_written_stays(tmp_path: Path, home: Path) -> None:
    make_table(400_000).to_parquet(tmp_path / "large.parquet", index=False)
    plain = {"dataset": "large", "source": str(tmp_path / "large.parquet"), "columns": {"target": ["y"]}}
    (tmp_path / "denograd.yaml").write_text(json.dumps(plain))
    room = (tmp_path / "large.parquet").stat().st_size // 2  # more than the databases need
    ran = subprocess.run(
        command("run", tmp_path / "denograd.yaml", "--json"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        capture_output=True,
        text=True,
        env=clean_environment(home),
        check=False,
    )
    assert ran.returncode == 1
    assert "there is no room" in json.loads(ran.stdout)["problem"]
    assert "Traceback" not in ran.stderr
    assert not [path for path in (home / "published").rglob("*") if path.is_file()]
    assert not [path for path in (home / "tmp").rglob("*") if path.is_file()]
    assert not _servers_of(home)
    FileLock(home / "locks" / "large.lock", timeout=0).acquire().lock.release()
