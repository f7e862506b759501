"""What the flow run at work is, and what started it, as manifests and reports say it."""

from __future__ import annotations

from typing import Any

from denograd_tasks.home import person
from denograd_tasks.records import Snapshot
from denograd_tasks.settings import Settings


def run_facts(settings: Settings, snapshot: Snapshot) -> dict[str, Any]:
    """The flow run at work, and who or what started it."""
    from prefect.runtime import flow_run

    event = flow_run.get_parameters().get("event")
    return {
        "flow_run_id": flow_run.get_id(),
        "flow_run_name": snapshot.run_name(settings.dataset),
        "trigger": "drift" if event else _started_by(),
        "event": event,
        "user": person(),
    }


def _started_by() -> str:
    from prefect.runtime import deployment, flow_run

    if "auto-scheduled" in flow_run.get_tags():
        return "schedule"
    return "deployment" if deployment.get_id() else "command"
