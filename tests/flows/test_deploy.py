"""Deployments: as the configuration says, twice the same, and gone when they are removed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from support import clean_environment, command

CRASHED, TOLD, CLEANED = (
    "denograd readings: runs that died are crashed",
    "denograd readings: tell of runs that failed",
    "denograd readings: clean after drift",
)
NIGHTLY = {"cron": "0 3 * * *", "timezone": "Europe/Zurich"}


@pytest.fixture
def server(denograd: Any) -> Iterator[SyncPrefectClient]:
    """The session's server, with a pool of processes, and nothing deployed before or after."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name="denograd", type="process"))
        yield client
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        for automation in client.read_automations():
            client.delete_automation(automation.id)


def changes(ran: Any) -> dict[str, str]:
    assert ran.code == 0, ran.err
    return {one["name"]: one["action"] for one in ran.json}


def test_deploying_twice_changes_nothing(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient, tmp_path: Path
) -> None:
    settings = config(schedule=NIGHTLY, watch={"interval": "15m"})
    everything = {"clean/readings", "watch/readings", CRASHED, CLEANED}
    assert changes(denograd("deploy", settings, "--json")) == dict.fromkeys(everything, "created")
    before = server.read_deployments()
    assert changes(denograd("deploy", settings, "--json")) == dict.fromkeys(everything, "unchanged")
    assert server.read_deployments() == before

    clean, watch = (server.read_deployment_by_name(f"{name}/readings") for name in ("clean", "watch"))
    (nightly,), (often,) = clean.schedules, watch.schedules
    assert (nightly.schedule.cron, nightly.schedule.timezone) == ("0 3 * * *", "Europe/Zurich")
    assert often.schedule.interval.total_seconds() == 900
    assert clean.entrypoint == "denograd_flows.clean_flow.clean"
    assert clean.global_concurrency_limit.limit == 1
    assert clean.concurrency_options.collision_strategy == "ENQUEUE"
    assert clean.work_pool_name == "denograd"
    assert clean.job_variables["working_dir"] == str(tmp_path)


def test_the_server_plans_the_runs_of_a_schedule(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient
) -> None:
    denograd("deploy", config(schedule=NIGHTLY))
    clean = server.read_deployment_by_name("clean/readings")
    assert server._client.post(f"/deployments/{clean.id}/schedule", json={"min_runs": 2}).is_success
    planned = [run for run in server.read_flow_runs() if run.deployment_id == clean.id]
    assert len(planned) >= 2
    assert all(run.auto_scheduled and run.state_name == "Scheduled" for run in planned)


def test_a_dry_run_says_what_would_change_and_changes_nothing(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient
) -> None:
    everything = dict.fromkeys(("clean/readings", "watch/readings", CRASHED, CLEANED), "created")
    assert changes(denograd("deploy", config(), "--dry-run", "--json")) == everything
    assert (server.read_deployments(), server.read_automations()) == ([], [])
    denograd("deploy", config())
    before = (server.read_deployments(), server.read_automations())
    ran = denograd("deploy", config(schedule=NIGHTLY), "--dry-run")
    assert ran.out.splitlines()[:2] == [
        "readings: what deploying would do",
        "  updated    deployment  clean/readings",
    ]
    assert (server.read_deployments(), server.read_automations()) == before


@pytest.mark.parametrize("command", ["deploy", "undeploy"])
def test_a_deployment_of_another_publishing_root_is_left_alone(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient, tmp_path: Path, command: str
) -> None:
    denograd("deploy", config("other.yaml", publish={"root": str(tmp_path / "elsewhere")}))
    before = (server.read_deployments(), server.read_automations())
    ran = denograd(command, config())
    assert ran.code == 2
    assert "the deployment clean/readings on this Prefect server publishes elsewhere" in ran.err
    assert f"expected: {tmp_path / 'elsewhere'}" in ran.err
    assert "prefect deployment delete clean/readings" in ran.err
    assert (server.read_deployments(), server.read_automations()) == before


def test_what_changed_is_updated_and_the_rest_is_left(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient
) -> None:
    denograd("deploy", config(schedule=NIGHTLY))
    paused = server.read_automations_by_name(CLEANED)[0]
    server.pause_automation(paused.id)
    changed = changes(denograd("deploy", config(on_conflict="cancel"), "--json"))
    assert changed == {"clean/readings": "updated", "watch/readings": "updated"} | dict.fromkeys(
        (CRASHED, CLEANED), "unchanged"
    )
    clean = server.read_deployment_by_name("clean/readings")
    assert clean.schedules == []
    assert clean.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert not server.read_automation(paused.id).enabled


def test_a_change_by_hand_is_taken_back(denograd: Any, config: Callable[..., Path], server: SyncPrefectClient) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate

    denograd("deploy", config())
    deployed = server.read_deployment_by_name("clean/readings")
    server.update_deployment(deployed.id, DeploymentUpdate(tags=["mine"]))
    changed = changes(denograd("deploy", config(), "--json"))
    assert (changed["clean/readings"], changed["watch/readings"]) == ("updated", "unchanged")
    assert server.read_deployment(deployed.id).tags == ["denograd", "dataset:readings"]


def test_undeploying_removes_what_was_deployed_and_nothing_else(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient
) -> None:
    denograd("deploy", config("other.yaml", dataset="other"))
    denograd("deploy", config())
    assert set(changes(denograd("undeploy", config(), "--json"))) == {
        "clean/readings",
        "watch/readings",
        CRASHED,
        CLEANED,
    }
    assert {one.name for one in server.read_deployments()} == {"other"}
    assert all("denograd other: " in one.name for one in server.read_automations())
    assert denograd("undeploy", config()).out == "There is nothing to remove.\n"


def test_people_are_told_by_the_block_that_is_named(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient
) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    block = CustomWebhookNotificationBlock(name="here", url="http://127.0.0.1:1/", json_data={"text": "{{body}}"})
    kept = block.save("here", overwrite=True, _sync=True)
    assert changes(denograd("deploy", config(notify="custom-webhook/here"), "--json"))[TOLD] == "created"
    (told,) = server.read_automations_by_name(TOLD)
    assert told.actions[0].block_document_id == kept
    assert told.trigger.expect == {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
    assert changes(denograd("deploy", config(), "--json"))[TOLD] == "removed"
    assert server.read_automations_by_name(TOLD) == []


def test_a_run_without_signs_of_life_counts_as_crashed(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient
) -> None:
    denograd("deploy", config())
    (crashed,) = server.read_automations_by_name(CRASHED)
    assert crashed.trigger.within.total_seconds() == 90
    env = server.read_deployment_by_name("clean/readings").job_variables["env"]
    assert int(env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) * 3 == 90


def test_parameters_are_the_configuration_and_explain_themselves(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient
) -> None:
    from denograd_tasks.settings import Settings, load_settings

    path = config(source="readings.parquet", columns={"target": ["y"], "noise": {"a": 0.1}}, backbone={}, refine={})
    denograd("deploy", path)
    deployed = server.read_deployment_by_name("clean/readings")
    assert Settings.model_validate(deployed.parameters["settings"]) == load_settings(path)
    assert Path(deployed.parameters["settings"]["source"]).is_absolute()
    assert "input" not in deployed.parameters["settings"]
    schema = deployed.parameter_openapi_schema
    assert all(one["description"] for one in schema["properties"].values())
    for name in ("ColumnSettings", "SeriesSettings", "TrainingSettings", "RefineSettings", "ScheduleSettings"):
        assert all(
            one.get("description") or "$ref" in str(one) for one in schema["definitions"][name]["properties"].values()
        )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tracking": {"uri": "http://me:pass-word@mlflow:5000"}}, "tracking.uri: a deployed configuration is shown"),
        ({"work_pool": "elsewhere"}, "prefect worker start --type process --pool elsewhere"),
        ({"notify": "slack-webhook/nobody"}, "notify: there is no such block"),
    ],
    ids=["secret", "pool", "block"],
)
def test_what_cannot_be_deployed_is_bad_input_and_nothing_is_made(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient, wrong: dict[str, Any], said: str
) -> None:
    ran = denograd("deploy", config(**wrong))
    assert ran.code == 2
    assert said in ran.err
    assert "pass-word" not in ran.err
    assert (server.read_deployments(), server.read_automations()) == ([], [])


def test_without_a_server_nothing_is_deployed(process: Any, config: Callable[..., Path]) -> None:
    ran = process("deploy", config())
    assert ran.code == 2
    assert "make stack" in ran.err
    assert "prefect server start" in ran.err


def test_a_worker_runs_it_by_hand_and_after_drift(
    denograd: Any, config: Callable[..., Path], server: SyncPrefectClient, home: Path
) -> None:
    from prefect.events import emit_event

    for dataset in ("moved", "asked"):
        assert denograd("deploy", config(dataset=dataset, refine={"max_epochs": 3})).code == 0
    server.create_flow_run_from_deployment(server.read_deployment_by_name("clean/asked").id)
    event = emit_event("denograd.drift.detected", {"prefect.resource.id": "denograd.dataset.moved"})
    until = time.monotonic() + 60
    moved = server.read_deployment_by_name("clean/moved").id
    while not any(run.deployment_id == moved for run in server.read_flow_runs()) and time.monotonic() < until:
        time.sleep(0.3)
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", "denograd"]
    environment = clean_environment(home) | {"PREFECT_API_URL": str(server.api_url).rstrip("/")}
    done = subprocess.run(
        [*worker, "--run-once"], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {path.parts[-3]: json.loads(path.read_text())["run"] for path in home.glob("published/*/versions/*.json")}
    assert {name: (run["trigger"], run["event"]) for name, run in found.items()} == {
        "moved": ("drift", str(event.id)),
        "asked": ("deployment", None),
    }, done.stdout
    tags = server.read_flow_run(found["asked"]["flow_run_id"]).tags
    assert set(tags) == {"denograd", "dataset:asked"}


def test_serving_ends_with_ctrl_c_and_pauses_its_schedules(
    config: Callable[..., Path], server: SyncPrefectClient, home: Path
) -> None:
    environment = clean_environment(home) | {"PREFECT_API_URL": str(server.api_url).rstrip("/")}
    serving = subprocess.Popen(
        command("serve", config(schedule=NIGHTLY)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline().split() == ["created", "deployment", "clean/readings"]
        until = time.monotonic() + 60
        while server.read_deployment_by_name("clean/readings").status != "READY" and time.monotonic() < until:
            time.sleep(0.3)
        deployed = server.read_deployment_by_name("clean/readings")
        assert (deployed.paused, deployed.work_pool_name) == (False, None)
        serving.send_signal(signal.SIGINT)
        _, err = serving.communicate(timeout=60)
    finally:
        serving.kill()
    assert serving.returncode == 0, err
    assert "Traceback" not in err
    assert server.read_deployment_by_name("clean/readings").paused
