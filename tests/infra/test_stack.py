"""The stack: real servers on free ports, a run against them, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from stacks import FREE, ROOT, exported, marked, require_postgres, stack_command, stack_folder
from support import clean_environment, command, make_table

from denograd_engine.errors import ConfigError, ServiceError
from infra.postgres import Cluster, programs
from infra.processes import Processes
from infra.stack import ORDER, Database, Stack


@pytest.fixture
def folder() -> Iterator[Path]:
    with stack_folder() as made:
        yield made


@pytest.fixture
def postgres() -> None:
    require_postgres()


@pytest.mark.usefixtures("postgres")
def test_a_run_on_real_servers(folder: Path) -> None:
    try:
        exports = exported(stack_command(folder, "up", *FREE))
        environment = clean_environment(folder / "home") | exports
        make_table(200).to_parquet(folder / "readings.parquet", index=False)
        config = folder / "denograd.yaml"
        config.write_text(
            "{dataset: readings, source: readings.parquet, columns: {target: y}, refine: {max_epochs: 5},"
            " backbone: {training: {epochs: 10}}, gates: {harm: {max: null}}}"
        )

        def denograd(*arguments: object) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command(*arguments), capture_output=True, text=True, env=environment, cwd=folder, check=False
            )

        ran = denograd("run", config, "--json")
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["status"] == "published"
        looked = denograd("doctor", config, "--json")
        found = {one["what"]: one for one in json.loads(looked.stdout)}
        assert looked.returncode == 0
        assert not any(one["warning"] for one in found.values())
        assert found["prefect"]["detail"].startswith(f"server {exports['PREFECT_API_URL']}, answers, version 3.")
        assert found["tracking"]["detail"].startswith(f"server {exports['MLFLOW_TRACKING_URI']}, answers, version 3.")
        assert found["tracking"]["detail"].endswith("2 experiments")  # MLflow's default, and ours
        assert "clocks" in found

        assert stack_command(folder, "up").out.startswith("The stack is running already.\n")
        password = (folder / "postgres" / "password").read_text()
        logs = {path.name: path.read_text() for path in (folder / "logs").iterdir()}
        assert set(logs) == {f"{name}.log" for name in ORDER}
        assert not [name for name, text in logs.items() if password in text]
        assert not [line for line in _command_lines() if password in line]
    finally:
        ended = stack_command(folder, "down")
    assert ended.out == "Ended: Prefect worker, MLflow server, Prefect server, PostgreSQL.\n"
    assert stack_command(folder, "down").out == "The stack is not running.\n"


@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize(
    ("database", "asked"), [("postgres", signal.SIGINT), ("sqlite", signal.SIGTERM)], ids=["postgres", "sqlite"]
)
def test_what_is_interrupted_leaves_nothing_behind(folder: Path, database: str, asked: signal.Signals) -> None:
    starting = subprocess.Popen(
        [sys.executable, "-m", "infra.stack", "up", *FREE, "--database", database, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=clean_environment(folder / "home"),
    )
    while not marked(folder) and starting.poll() is None:
        time.sleep(0.05)
    starting.send_signal(asked)
    out = starting.communicate(timeout=60)[0]
    assert starting.returncode == 130, out
    assert out.endswith("Interrupted: nothing was left running.\n")
    assert marked(folder) == []
    assert (folder / "postgres").exists() == (database == "postgres")


def test_a_missing_postgresql_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("infra.postgres.PACKAGED", tmp_path)
    with pytest.raises(ConfigError, match="PostgreSQL is not installed") as caught:
        programs()
    assert "apt-get install postgresql" in str(caught.value.remedy)
    assert "DATABASE=sqlite" in str(caught.value.remedy)


def test_the_newest_packaged_postgresql_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("infra.postgres.PACKAGED", tmp_path)
    for version in ("9.6", "16", "15"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "initdb").touch()
    assert programs() == tmp_path / "16" / "bin"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has PostgreSQL run by another account")
def test_a_folder_that_its_account_cannot_reach_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="cannot reach the folder") as caught:
        Cluster(tmp_path / "closed" / "postgres", 0).create()
    assert "STACK=" in str(caught.value.remedy)


def test_a_taken_port_is_named_and_nothing_is_started(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken") as caught:
            Stack(folder, Database.sqlite, {"prefect": 0, "mlflow": port}).up()
    assert caught.value.remedy == "make stack MLFLOW_PORT=NUMBER"
    assert not (folder / "run").exists()


NAPS = (
    "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], {more})\n"
)


@pytest.fixture
def processes(folder: Path) -> Processes:
    return Processes(folder)


def test_a_process_ends_with_its_children_and_no_other(processes: Processes, folder: Path) -> None:
    family = NAPS.format(more="start_new_session=True") + "time.sleep(600)"
    for name in ("first", "second"):
        processes.start(name, [sys.executable, "-c", family], os.environ, f"address of {name}")
    while len(marked(folder)) < 4:
        time.sleep(0.05)
    assert processes.end("first")
    assert processes.address("first") is None
    assert processes.address("second") == "address of second"
    assert len(marked(folder)) == 2
    assert processes.end("second")
    assert not processes.end("second")


def test_a_child_that_outlives_its_parent_is_ended(processes: Processes, folder: Path) -> None:
    processes.start("parent", [sys.executable, "-c", NAPS.format(more="")], os.environ, "")
    while not any("time.sleep(600)" in line and "subprocess" not in line for line in marked(folder)):
        time.sleep(0.05)
    assert processes.end("parent")
    assert marked(folder) == []


def test_a_process_that_does_not_end_when_asked_is_killed(
    processes: Processes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.processes.LONGEST_END", 0.5)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    processes.start("deaf", [sys.executable, "-c", deaf], os.environ, "")
    processes.wait("deaf", lambda: "deaf" in processes.log("deaf").read_text())
    assert processes.end("deaf")
    assert marked(folder) == []


def test_a_service_that_ends_while_it_starts_is_named_with_its_last_words(processes: Processes) -> None:
    processes.start("short", [sys.executable, "-c", "print('no room left')"], os.environ, "")
    with pytest.raises(ServiceError, match="short ended while it started") as caught:
        processes.wait("short", lambda: False)
    assert caught.value.found == "no room left"
    assert caught.value.where == str(processes.log("short"))


def test_a_record_of_an_earlier_time_is_of_nothing_that_runs_now(processes: Processes, folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "old.json").write_text(json.dumps({"mark": "old-mark", "address": "somewhere"}))
    assert processes.address("old") is None
    assert not processes.end("old")


def _command_lines() -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
