"""A Prefect server, an MLflow server and a worker on this machine, on PostgreSQL or SQLite, without containers.

`python -m infra.stack up` starts them, and `down` ends them; `make stack` and `make stack-down` call it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import httpx
import typer
from filelock import FileLock, Timeout
from rich.console import Console

from denograd_engine.errors import ConfigError, DenogradError, ServiceError
from infra.postgres import Cluster
from infra.processes import Account, Interrupted, Processes, stopping

ORDER = ("postgres", "prefect", "mlflow", "worker")
TITLES = {
    "postgres": "PostgreSQL",
    "prefect": "Prefect server",
    "mlflow": "MLflow server",
    "worker": "Prefect worker",
}
ENDED_BY = {"postgres": signal.SIGINT}  # a fast shutdown, which does not wait for clients
DRIVERS = {"prefect": "+asyncpg", "mlflow": "+psycopg"}
"""With which the servers reach PostgreSQL."""
LEASES = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
"""A server that kept them in memory, as it does by itself, would never free what was taken before it started anew."""
POOL = "denograd"
SILENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "GX_ANALYTICS_ENABLED": "false",
}

app = typer.Typer(name="stack", help=__doc__.splitlines()[0], add_completion=False, pretty_exceptions_enable=False)
console = Console(soft_wrap=True, highlight=False)
Folder = Annotated[Path, typer.Option("--folder", help="Where everything is kept: data, logs, records.")]


class Database(StrEnum):
    """What keeps the servers' data."""

    postgres = "postgres"
    sqlite = "sqlite"


@dataclass(frozen=True)
class Service:
    """A process of the stack.

    Attributes:
        name: One of `ORDER`.
        command: What runs it.
        address: Where it answers.
        ready: Whether it does.
        environment: Variables of its own.
        account: Whom it runs as; None is who runs this.
        cwd: Its working folder.
    """

    name: str
    command: list[str]
    address: str
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None
    cwd: Path | None = None


class Stack:
    """The services of a folder.

    Args:
        folder: Of data, logs and records.
        database: For those that do not run yet.
        ports: Where they listen, by name; 0 is any that is free.
    """

    def __init__(self, folder: Path, database: Database, ports: Mapping[str, int]) -> None:
        self.folder, self.database, self.ports = folder.absolute(), database, ports
        self.processes = Processes(self.folder)
        self.started: list[str] = []

    def up(self) -> bool:
        """Start what does not run, and wait until all of it answers; returns whether anything had to be started.

        Raises:
            DenogradError: If it does not work, or the user stops it: what was started is ended again.
        """
        try:
            databases: dict[str, str] = {}
            if self.database is Database.postgres:
                cluster = Cluster(self.folder / "postgres", self._port("postgres"))
                with console.status("Creating the PostgreSQL cluster"):
                    cluster.create()
                self._bring_up(_postgres(cluster))
                databases = {name: cluster.address(name, driver) for name, driver in DRIVERS.items()}
            prefect, mlflow = (f"http://127.0.0.1:{self._port(name)}" for name in ("prefect", "mlflow"))
            self._bring_up(
                prefect_server(self.folder, prefect, databases.get("prefect")),
                mlflow_server(self.folder, mlflow, databases.get("mlflow")),
            )
            self._bring_up(_worker(prefect, mlflow))
        except DenogradError:
            for name in reversed(self.started):
                self.processes.end(name, ENDED_BY.get(name, signal.SIGTERM))
            raise
        return bool(self.started)

    def down(self) -> list[str]:
        """End whatever runs; returns the titles."""
        return [
            TITLES[name] for name in reversed(ORDER) if self.processes.end(name, ENDED_BY.get(name, signal.SIGTERM))
        ]

    def _port(self, name: str) -> int:
        """Where a service listens, or will."""
        running = self.processes.address(name)
        if running is not None:
            return int(running.rsplit(":", 1)[1])
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.ports[name]))
            except OSError:
                raise ConfigError(
                    f"port {self.ports[name]} is taken by another process",
                    where=TITLES[name],
                    remedy=f"make stack {name.upper()}_PORT=NUMBER",
                ) from None
            return int(probe.getsockname()[1])

    def _bring_up(self, *services: Service) -> None:
        from denograd_flows.leftovers import OWNER  # marks temporary servers, which the next run ends as orphans

        since, waiting = time.monotonic(), []
        for one in services:
            if self.processes.address(one.name) is None:
                self.started.append(one.name)
                environment = {name: value for name, value in os.environ.items() if name != OWNER} | SILENT
                self.processes.start(
                    one.name, one.command, {**environment, **one.environment}, one.address, one.account, one.cwd
                )
                waiting.append(one)
        for one in waiting:
            with console.status(f"Waiting for the {TITLES[one.name]}"):
                self.processes.wait(one.name, one.ready)
            console.print(f"  [green]✓[/green] {TITLES[one.name]:<15} {time.monotonic() - since:5.1f} s  {one.address}")


def prefect_server(folder: Path, address: str, database: str | None = None) -> Service:
    """A Prefect server that keeps its data, and the leases of runs, below a folder.

    Args:
        folder: Of the stack.
        address: Where it is to listen.
        database: The URL of its database, where that is not an SQLite file in the folder.
    """
    environment = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": f"{address}/api", **LEASES}
    if database is not None:
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    host, port = address.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", port]
    return Service("prefect", command, address, lambda: _answers(f"{address}/api/ready"), environment)


def mlflow_server(folder: Path, address: str, database: str | None = None) -> Service:
    """An MLflow server that keeps its artefacts below a folder.

    Args:
        folder: Of the stack.
        address: Where it is to listen.
        database: The URL of its database, where that is not an SQLite file in the folder.
    """
    kept = folder / "mlflow"
    kept.mkdir(parents=True, exist_ok=True)
    host, port = address.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port, "--workers", "1"]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": database or f"sqlite:///{kept / 'mlflow.db'}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command += ["--artifacts-destination", str(kept / "artifacts")]
    return Service("mlflow", command, address, lambda: _answers(f"{address}/health"), environment)


def _postgres(cluster: Cluster) -> Service:
    return Service(
        "postgres",
        cluster.command,
        f"127.0.0.1:{cluster.port}",
        lambda: cluster.databases("prefect", "mlflow"),
        account=cluster.account,
        cwd=cluster.folder,
    )


def _worker(prefect: str, mlflow: str) -> Service:
    """Runs deployments as `denograd run` would: with the same home folder, so that results are shared."""
    from denograd_tasks.home import home

    since = datetime.now(UTC)

    def ready() -> bool:
        try:
            answer = httpx.post(f"{prefect}/api/work_pools/{POOL}/workers/filter", json={})
        except httpx.HTTPError:
            return False
        workers = answer.json() if answer.is_success else []
        return any(
            one["status"] == "ONLINE" and datetime.fromisoformat(one["last_heartbeat_time"]) >= since for one in workers
        )

    (home() / "prefect").mkdir(parents=True, exist_ok=True)
    environment = {
        "PREFECT_API_URL": f"{prefect}/api",
        "MLFLOW_TRACKING_URI": mlflow,
        "DENOGRAD_HOME": str(home()),
        "PREFECT_HOME": str(home() / "prefect"),
    }
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--type",
        "process",
        "--pool",
        POOL,
        "--name",
        "stack",
    ]
    return Service("worker", command, f"pool {POOL}", ready, environment)


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).is_success
    except httpx.HTTPError:
        return False


@app.command()
def up(
    folder: Folder = Path(".stack"),
    database: Annotated[Database, typer.Option(help="What keeps the servers' data.")] = Database.postgres,
    prefect_port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 5000,
    postgres_port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 0,
) -> None:
    """Start the servers and a worker; what runs already is left as it is."""
    ports = {"prefect": prefect_port, "mlflow": mlflow_port, "postgres": postgres_port}
    with _opened(folder):
        stack = Stack(folder, database, ports)
        if not stack.up():
            console.print("The stack is running already.")
        prefect, mlflow = (stack.processes.address(name) for name in ("prefect", "mlflow"))
        console.print("\nIn each shell that is to use it:")
        console.print(f"  export PREFECT_API_URL={prefect}/api")
        console.print(f"  export MLFLOW_TRACKING_URI={mlflow}")
        console.print(f"\nThe logs are in {folder / 'logs'}. To end it: make stack-down")


@app.command()
def down(folder: Folder = Path(".stack")) -> None:
    """End the servers and the worker, and nothing else; their data stay."""
    with _opened(folder):
        ended = Stack(folder, Database.postgres, {}).down()
        console.print(f"Ended: {', '.join(ended)}." if ended else "The stack is not running.")


@contextmanager
def _opened(folder: Path) -> Iterator[None]:
    """One command at a time for a folder; signals ask, and errors are a message and an exit code."""
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, lambda *_: stopping.set())
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        typer.echo(f"Error: another command is at work in {folder}", err=True)
        raise typer.Exit(1) from None
    except Interrupted:
        typer.echo("Interrupted: nothing was left running.", err=True)
        raise typer.Exit(130) from None
    except (ConfigError, ServiceError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None


if __name__ == "__main__":
    app()
