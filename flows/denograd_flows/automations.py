"""What a Prefect server does by itself about the deployed runs of a data set.

runs that died      no sign of life for a while: the run is marked as crashed
runs that failed    somebody is told, if `notify` names a block
drift               the data set is cleaned again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from denograd_engine.errors import ConfigError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.actions import ActionTypes
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    from denograd_tasks.settings import Settings

HEARTBEAT = 30
"""Seconds between the signs of life of a deployed run, the least that Prefect allows."""
DEAD_AFTER = 3 * HEARTBEAT
"""Seconds without one until a run counts as dead."""
DRIFT = "denograd.drift.detected"
"""The event, on the resource `denograd.dataset.NAME`, that has a data set cleaned again."""
COOL_DOWN = 3600
"""Seconds after such an event in which further ones start nothing."""
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


@dataclass(frozen=True)
class Subject:
    """What automations are made for.

    Attributes:
        settings: The configuration.
        deployments: Ids of its deployments, by the name of the flow.
        server: The Prefect server.
    """

    settings: Settings
    deployments: Mapping[str, UUID]
    server: SyncPrefectClient

    @property
    def runs(self) -> list[str]:
        """The resources that events of these deployments' runs are related to."""
        return [f"prefect.deployment.{one}" for one in self.deployments.values()]


def named(dataset: str) -> dict[str, Callable[[Subject], AutomationCore | None]]:
    """Makers of the automations of a data set, by name; a maker returns None where there is nothing to do."""
    return {
        f"denograd {dataset}: runs that died are crashed": _crashed,
        f"denograd {dataset}: tell of runs that failed": _told,
        f"denograd {dataset}: clean after drift": _cleaned,
    }


def _crashed(subject: Subject) -> AutomationCore:
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture

    heartbeat = "prefect.flow-run.heartbeat"
    trigger = EventTrigger(
        after={heartbeat},
        expect={heartbeat, *(f"prefect.flow-run.{state}" for state in ENDED)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "deployment", "prefect.resource.id": subject.runs},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=DEAD_AFTER),
    )
    message = f"No sign of life for {DEAD_AFTER} s: the process of this run or its machine is gone."
    return _automation(
        "Runs without signs of life", trigger, ChangeFlowRunState(state=StateType.CRASHED, message=message)
    )


def _told(subject: Subject) -> AutomationCore | None:
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import EventTrigger
    from prefect.exceptions import ObjectNotFound

    if subject.settings.notify is None:
        return None
    kind, name = subject.settings.notify.split("/")
    try:
        block = subject.server.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        raise ConfigError(
            "notify: there is no such block on the Prefect server",
            expected="TYPE/NAME of a notification block, such as slack-webhook/team",
            found=subject.settings.notify,
            remedy="create it in Prefect's UI, or see: prefect block ls",
        ) from None
    trigger = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "deployment", "prefect.resource.id": subject.runs},
        for_each={"prefect.resource.id"},
    )
    action = SendNotification(
        block_document_id=block.id,
        subject="denograd: {{ flow_run.name }} is {{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
    )
    return _automation("Runs that failed, crashed, or were refused by a gate", trigger, action)


def _cleaned(subject: Subject) -> AutomationCore:
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import EventTrigger

    trigger = EventTrigger(
        expect={DRIFT},
        match={"prefect.resource.id": f"denograd.dataset.{subject.settings.dataset}"},
        within=timedelta(seconds=COOL_DOWN),
    )
    event = {"__prefect_kind": "jinja", "template": "{{ event.id }}"}
    action = RunDeployment(deployment_id=subject.deployments["clean"], parameters={"event": event})
    return _automation(f"At most once in {COOL_DOWN // 60} minutes", trigger, action)


def _automation(description: str, trigger: EventTrigger, action: ActionTypes) -> AutomationCore:
    from prefect.events.schemas.automations import AutomationCore

    return AutomationCore(name="denograd", description=description, trigger=trigger, actions=[action])
