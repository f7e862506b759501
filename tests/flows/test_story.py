"""The whole story on real servers: a schedule, deliveries like those before, one that is not, and what comes of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pandas as pd
import pytest
from stacks import FREE, exported, require_postgres, stack_command, stack_folder
from support import clean_environment, command

from denograd_tasks.store import Store
from denograd_tasks.watch.history import past_looks

T = TypeVar("T")
LONGEST = 240
"""Seconds until what is waited for has failed to come."""
SOON = timedelta(seconds=40)
"""From now to the earliest start of the schedule: by then, everything is deployed."""
LINES = 40
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def delivery(rows: int, seed: int, exchanged: bool = False) -> pd.DataFrame:
    """Pumps, and what they draw; with another gauge, which reads another pressure."""
    generator = np.random.default_rng(seed)
    pressure, flow, speed = generator.normal(size=(3, rows))
    power = 2 * pressure + flow + 0.5 * speed + 0.5 * generator.normal(size=rows)
    read = 4 + 0.4 * pressure if exchanged else pressure
    return pd.DataFrame({"pressure": 6 + read, "flow": 40 + 5 * flow, "speed": 1450 + 30 * speed, "power": 30 + power})


@dataclass(frozen=True)
class Stage:
    """Where the story takes place.

    Attributes:
        folder: Of the stack; the home folder and the source are below it.
        environment: Of a shell that uses the stack.
    """

    folder: Path
    environment: dict[str, str]

    @property
    def published(self) -> Path:
        return self.folder / "home" / "published"

    def denograd(self, *arguments: object) -> Any:
        """What a command answers."""
        ran = subprocess.run(
            command(*arguments, "--json"),
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            timeout=LONGEST,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def deliver(self, number: int, rows: int, exchanged: bool = False) -> None:
        made = self.folder / "home" / f"delivery-{number}.parquet"
        delivery(rows, number, exchanged).to_parquet(made, index=False)
        made.rename(self.folder / "pumps" / made.name)

    def prefect(self, method: str, path: str, plain: Any = None) -> Any:
        answer = httpx.request(method, self.environment["PREFECT_API_URL"] + path, json=plain, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """The runs of a flow that are not yet to come, oldest first."""
        asked = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            "sort": "START_TIME_ASC",
        }
        found: list[dict[str, Any]] = self.prefect("POST", "/flow_runs/filter", asked)
        return found

    def drifts(self) -> list[dict[str, Any]]:
        """The events of drift."""
        wanted = {"event": {"name": ["denograd.drift.detected"]}, "occurred": {"since": "2000-01-01T00:00:00Z"}}
        found: list[dict[str, Any]] = self.prefect("POST", "/events/filter", {"filter": wanted})["events"]
        return found

    def log(self, name: str) -> str:
        """What a service of the stack said last."""
        lines = (self.folder / "logs" / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-LINES:])

    def until(self, what: str, found: Callable[[], T | None]) -> T:
        """Wait for something."""
        end = time.monotonic() + LONGEST
        while time.monotonic() < end:
            got = found()
            if got is not None:
                return got
            time.sleep(0.5)
        states = [f"{run['name']}: {run['state_name']}" for flow in ("clean", "watch") for run in self.runs(flow)]
        logs = [f"{name}:\n{self.log(name)}" for name in ("prefect", "worker")]
        pytest.fail("\n".join([f"{what} did not come within {LONGEST} s; runs: {states or 'none'}", *logs]))

    def ended(self, what: str, which: Callable[[], list[dict[str, Any]]]) -> dict[str, Any]:
        """The only one of these runs, once it has ended well."""
        (run,) = self.until(what, lambda: [run for run in which() if run["state_type"] in ENDED] or None)
        assert run["state_type"] == "COMPLETED", f"{what}: {run['state']}\n{self.log('worker')}"
        return run

    def look(self) -> None:
        """Have the worker look for drift, as its schedule would."""
        watch = self.prefect("GET", "/deployments/name/watch/pumps")["id"]
        asked = self.prefect("POST", f"/deployments/{watch}/create_flow_run", {})["id"]
        self.ended("a look for drift", lambda: [run for run in self.runs("watch") if run["id"] == asked])


@pytest.fixture
def stage() -> Iterator[Stage]:
    require_postgres()
    with stack_folder() as folder:
        try:
            environment = exported(stack_command(folder, "up", *FREE))
            (folder / "pumps").mkdir()
            yield Stage(folder, clean_environment(folder / "home") | environment)
        finally:
            stack_command(folder, "down")


@pytest.mark.slow
def test_from_a_delivery_that_drifted_to_a_version_that_knows_it(
    stage: Stage, record_property: Callable[[str, object], None]
) -> None:
    from mlflow import MlflowClient

    stage.deliver(0, 3000)
    start = datetime.now(UTC) + SOON + timedelta(minutes=1)
    config = stage.folder / "denograd.yaml"
    config.write_text(
        "{dataset: pumps, source: pumps, columns: {target: power}, backbone: {training: {epochs: 30}},"
        f" schedule: {{cron: '{start:%M %H} * * *'}}}}"
    )
    deployed = {one["name"] for one in stage.denograd("deploy", config) if one["action"] == "created"}
    assert {"clean/pumps", "watch/pumps", "denograd pumps: clean after drift"} <= deployed

    scheduled = stage.ended("the run on schedule", lambda: stage.runs("clean"))
    assert scheduled["auto_scheduled"]
    assert datetime.fromisoformat(scheduled["expected_start_time"]) == start.replace(second=0, microsecond=0)
    first = stage.denograd("show", "pumps@1")
    assert (first["run"]["trigger"], first["run"]["flow_run_id"]) == ("schedule", scheduled["id"])

    for number in (1, 2, 3):
        stage.deliver(number, 400)
        stage.look()
    looks = past_looks(Store(str(stage.published)), "pumps")
    assert [(look.arrived, look.drift) for look in looks] == [(400, False)] * 3
    assert (stage.drifts(), len(stage.runs("clean")), len(stage.denograd("versions"))) == ([], 1, 1)

    stage.deliver(4, 1000, exchanged=True)
    stage.look()
    (event,) = stage.until("the event of drift", lambda: stage.drifts() or None)
    assert event["resource"]["prefect.resource.id"] == "denograd.dataset.pumps"
    assert {"pressure", "residual of power"} <= set(event["payload"]["columns"])
    answer = stage.ended(
        "the run after drift", lambda: [run for run in stage.runs("clean") if run["id"] != scheduled["id"]]
    )
    assert answer["parameters"]["event"] == event["id"]
    waited = datetime.fromisoformat(answer["start_time"]) - datetime.fromisoformat(event["occurred"])
    record_property("seconds from the event to its run", waited.total_seconds())
    print(f"from the event to its run: {waited.total_seconds():.1f} s")
    assert timedelta(0) < waited < timedelta(seconds=LONGEST)

    second = stage.denograd("lineage", "pumps")
    assert (second["number"], second["run"]["flow_run"]) == (2, answer["id"])
    assert (second["run"]["trigger"], second["run"]["event"]) == ("drift", event["id"])
    model = second["model"]
    assert (model["uri"], model["start"]["model"], model["start"]["reason"]) == ("models:/pumps/2", "pumps/1", None)
    contest = model["contest"]
    assert (contest["model"], contest["champion"], contest["new"]) == ("pumps/2", "pumps/1", True)
    assert contest["skill"] > contest["champion_skill"] + 0.1
    server = MlflowClient(stage.environment["MLFLOW_TRACKING_URI"])
    champion = server.get_model_version_by_alias("pumps", "champion")
    assert (champion.version, champion.run_id) == ("2", model["run"])
    assert server.get_run(champion.run_id).data.tags["denograd.event"] == event["id"]
    assert len(pd.read_parquet(stage.denograd("path", "pumps")["path"])) == 3000 + 3 * 400 + 1000
    assert stage.denograd("verify", "pumps", "--all")["findings"] == []

    stage.look()
    assert not past_looks(Store(str(stage.published)), "pumps")[-1].drift
    assert (len(stage.drifts()), len(stage.runs("clean"))) == (1, 2)
