"""Real servers that are away at the start of a run or in the middle of it, for a while or for good."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import clean_environment, command, make_table

from denograd_tasks.audit.verify import verify
from denograd_tasks.store import Store
from infra.processes import Processes
from infra.stack import mlflow_server, prefect_server

MINUTE = 60
SERVERS = {"mlflow": mlflow_server, "prefect": prefect_server}
BEFORE = {"mlflow": "Check input", "prefect": "Ingest"}
"""The stage after which an outage begins: training asks MLflow, and the stages after it ask Prefect."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Servers:
    """A Prefect and an MLflow server, each started when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, Processes(folder)
        self.addresses = {name: f"http://127.0.0.1:{free_port()}" for name in SERVERS}

    @property
    def environment(self) -> dict[str, str]:
        return {"PREFECT_API_URL": f"{self.addresses['prefect']}/api", "MLFLOW_TRACKING_URI": self.addresses["mlflow"]}

    def start(self, name: str) -> None:
        one = SERVERS[name](self.folder, self.addresses[name])
        if self.processes.address(name) is None:
            self.processes.start(name, one.command, {**os.environ, **one.environment}, one.address)
        self.processes.wait(name, one.ready)

    def send(self, name: str, what: signal.Signals) -> None:
        self.processes.send(name, what)

    def end(self, name: str) -> None:
        self.processes.end(name, signal.SIGKILL)


@pytest.fixture(scope="module")
def everything() -> Iterator[Servers]:
    folder = Path(tempfile.mkdtemp(prefix="outages-"))
    servers = Servers(folder)
    yield servers
    for name in SERVERS:
        servers.end(name)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def servers(everything: Servers) -> Servers:
    """Both of them, up."""
    for name in SERVERS:
        everything.start(name)
    return everything


class Run:
    """A run of the command, followed from outside."""

    def __init__(self, config: Path, home: Path, environment: dict[str, str]) -> None:
        self.log = config.with_suffix(".log")
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                command("run", config),
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
                env=clean_environment(home) | environment,
            )

    def after(self, stage: str) -> None:
        """Wait until a stage is done, and a moment of the next."""
        while self.process.poll() is None and stage not in self.finished:
            time.sleep(0.05)
        time.sleep(2)

    @property
    def finished(self) -> dict[str, str]:
        found = re.finditer(r"[✓↻] (.{16})\s+(reused|[\d.]+ s)", self.log.read_text())
        return {one.group(1).strip(): one.group(2) for one in found}

    def end(self) -> tuple[int, str]:
        err = self.process.communicate(timeout=900)[1]
        return self.process.returncode, err


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path, home: Path, config: Callable[..., Path]) -> Callable[..., Run]:
    """Starts a run whose training takes some seconds."""
    make_table(20_000).to_parquet(tmp_path / "large.parquet", index=False)
    plain = {
        "dataset": re.sub(r"[^a-z0-9]+", "-", request.node.name),
        "source": str(tmp_path / "large.parquet"),
        "backbone": {"training": {"epochs": 12, "patience": 12}},
        "refine": {"max_epochs": 10, "tau": 0.02},
        "publish": {"root": str(home / "published")},
    }

    def start(environment: dict[str, str], elsewhere: str = "", **changes: object) -> Run:
        return Run(config(f"denograd{elsewhere}.yaml", **plain | changes), Path(f"{home}{elsewhere}"), environment)

    return start


def versions(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("published/*/versions/*"))


def half_written(home: Path) -> list[Path]:
    return [*home.glob("published/**/*#*"), *(path for path in home.glob("tmp/**/*") if path.is_file())]


def assert_named(name: str, code: int, err: str, address: str) -> None:
    assert code == 1, err
    assert {"mlflow": "the MLflow tracking server", "prefect": "the Prefect server"}[name] in err
    assert address in err
    assert "what to do: " in err
    assert "Traceback" not in err


def test_mlflow_that_is_away_is_named_and_nothing_is_published(
    denograd: Any, config: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = f"http://127.0.0.1:{free_port()}"
    ran = denograd("run", config(tracking={"uri": address}))
    assert_named("mlflow", ran.code, ran.err, address)
    assert not versions(home)
    assert not half_written(home)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_away_and_never_coming_it_is_waited_for_and_named(
    name: str, servers: Servers, run: Callable[..., Run], home: Path
) -> None:
    servers.end(name)
    code, err = run(servers.environment).end()
    assert_named(name, code, err, servers.addresses[name])
    assert not versions(home)
    assert not half_written(home)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_away_for_a_minute_at_the_start_it_is_waited_for(
    name: str, servers: Servers, run: Callable[..., Run], home: Path
) -> None:
    servers.end(name)
    started = run(servers.environment)
    threading.Timer(MINUTE, servers.start, [name]).start()
    code, err = started.end()
    assert code == 0, err
    assert versions(home) == ["00000001.json"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("name", SERVERS)
def test_away_for_a_minute_in_between_nothing_is_lost(
    name: str, how: str, servers: Servers, run: Callable[..., Run], home: Path
) -> None:
    started = run(servers.environment)
    started.after(BEFORE[name])
    if how == "killed":
        servers.end(name)
        time.sleep(MINUTE)
        servers.start(name)
    else:
        servers.send(name, signal.SIGSTOP)
        time.sleep(MINUTE)
        servers.send(name, signal.SIGCONT)
    code, err = started.end()
    assert code == 0, err
    assert "reused" not in started.finished.values()
    assert versions(home) == ["00000001.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_gone_for_good_it_is_named_and_the_next_run_goes_on(
    name: str, servers: Servers, run: Callable[..., Run], home: Path
) -> None:
    first = run(servers.environment)
    first.after(BEFORE[name])
    servers.end(name)
    code, err = first.end()
    assert_named(name, code, err, servers.addresses[name])
    assert not versions(home)
    assert not half_written(home)

    done = set(first.finished)
    servers.start(name)
    again = run(servers.environment)
    code, err = again.end()
    assert code == 0, err
    assert {stage for stage, how in again.finished.items() if how == "reused"} == done
    assert versions(home) == ["00000001.json"]


@pytest.mark.slow
def test_a_run_that_slept_through_its_lease_and_the_next_one_get_a_number_each(
    servers: Servers, run: Callable[..., Run], home: Path
) -> None:
    first = run(servers.environment)
    first.after("Check input")
    first.process.send_signal(signal.SIGSTOP)
    code, err = run(servers.environment, elsewhere="-elsewhere", seed=1).end()
    assert code == 0, err
    assert versions(home) == ["00000001.json"]
    first.process.send_signal(signal.SIGCONT)
    code, err = first.end()
    assert code == 0, err
    manifests = [json.loads(path.read_text()) for path in sorted(home.glob("published/*/versions/*"))]
    assert [one["settings"]["seed"] for one in manifests] == [1, 0]
    (dataset,) = {one["dataset"] for one in manifests}
    assert verify(Store(str(home / "published")), dataset, every=True, expect_head=None, public_key=None).intact
