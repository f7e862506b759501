"""`prefect deploy` with our file makes what `denograd deploy` makes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from support import clean_environment, command, ignored_leaks

INFRA = Path(__file__).resolve().parents[2] / "infra"
CONFIG = """
dataset: readings
source: readings.parquet
columns: {target: temperature}
schedule: {cron: "0 3 * * *", timezone: Europe/Zurich}
watch: {interval: 15m}
"""
COMPARED = (
    "entrypoint",
    "parameters",
    "tags",
    "work_pool_name",
    "job_variables",
    "concurrency_options",
    "parameter_openapi_schema",
)


@pytest.fixture
def server(prefect_server: None) -> Iterator[SyncPrefectClient]:
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="denograd", type="process"), overwrite=True)
        yield client
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        for automation in client.read_automations():
            client.delete_automation(automation.id)
    with ignored_leaks():
        pass


def test_both_ways_come_to_the_same(server: SyncPrefectClient, tmp_path: Path) -> None:
    environment = clean_environment(tmp_path / ".denograd") | {
        "PREFECT_API_URL": str(server.api_url).rstrip("/"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PWD": str(tmp_path),
    }

    def call(*arguments: str) -> None:
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    prefect = (sys.executable, "-m", "prefect", "--no-prompt")
    call(*prefect, "deploy", "--all", "--prefect-file", os.fspath(INFRA / "prefect.yaml"))
    theirs = facts(server)
    call(*prefect, "automation", "create", "--from-file", os.fspath(INFRA / "automations.yaml"))
    died = server.read_automations_by_name("denograd: runs that died are crashed")
    for automation in server.read_automations_by_name("denograd readings: clean after drift"):
        server.delete_automation(automation.id)

    (tmp_path / "denograd.yaml").write_text(CONFIG)
    call(*command("deploy", tmp_path / "denograd.yaml"))
    assert facts(server) == theirs
    ours = server.read_automations_by_name("denograd readings: runs that died are crashed")
    same = {"match_related"}
    assert died[0].trigger.model_dump(exclude=same | {"id"}) == ours[0].trigger.model_dump(exclude=same | {"id"})
    assert died[0].actions == ours[0].actions


def facts(server: SyncPrefectClient) -> dict[str, Any]:
    """What `clean` and `watch` are deployed as, and what starts `clean` after drift."""
    found: dict[str, Any] = {}
    for name in ("clean", "watch"):
        one = server.read_deployment_by_name(f"{name}/readings")
        found[name] = {key: one.model_dump(mode="json")[key] for key in COMPARED}
        found[name]["schedules"] = [each.schedule for each in one.schedules]
        found[name]["limit"] = one.global_concurrency_limit and one.global_concurrency_limit.limit
    (cleaned,) = server.read_automations_by_name("denograd readings: clean after drift")
    return found | {"trigger": cleaned.trigger.model_dump(exclude={"id"}), "actions": cleaned.actions}
