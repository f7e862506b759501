"""Deployments of a configuration on a Prefect server: made, changed and removed so that they are as it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import BaseModel

from denograd_engine import __version__
from denograd_engine.errors import ConfigError, ServiceError
from denograd_flows.automations import HEARTBEAT, Subject, named
from denograd_flows.environment import PATIENT
from denograd_tasks.schedule import ScheduleSettings
from denograd_tasks.settings import Settings, without_credentials

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.deployments.runner import RunnerDeployment
    from prefect.events.schemas.automations import AutomationCore

Action = Literal["created", "updated", "unchanged", "removed"]
SIGNS_OF_LIFE = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT), **PATIENT}
"""Of the environment of deployed runs."""
NOWHERE = UUID(int=0)
"""Stands for the id of a deployment that there is not yet."""


@dataclass(frozen=True)
class Deployed:
    """A flow that is deployed for each configuration.

    Attributes:
        module: Where it is imported from, wherever it runs: no code is fetched.
        name: Of the flow, and of its function.
        schedule: Its schedule in the configuration.
    """

    module: str
    name: str
    schedule: Callable[[Settings], ScheduleSettings | None]

    @property
    def entrypoint(self) -> str:
        return f"{self.module}.{self.name}"

    def flow(self) -> Flow[..., Any]:
        """The flow itself."""
        found: Flow[..., Any] = getattr(import_module(self.module), self.name)
        return found


FLOWS = (
    Deployed("denograd_flows.clean_flow", "clean", lambda settings: settings.schedule),
    Deployed("denograd_flows.watch_flow", "watch", lambda settings: settings.watch),
)
"""The flows that are deployed."""


class Change(BaseModel):
    """What became of a deployment or an automation."""

    action: Action
    what: Literal["deployment", "automation"]
    name: str


def deploy(settings: Settings, pool: str | None, dry_run: bool = False) -> list[Change]:
    """Make the deployments and automations of a configuration, or change them to what it says.

    Args:
        settings: The configuration.
        pool: The work pool whose workers run them; None where this machine does, by `serve`.
        dry_run: Whether to find out what would be done, and do nothing.

    Raises:
        ConfigError: If there is no server, no such pool or block, a secret in the configuration, or a deployment of the
            same data set in another publishing root.
        ServiceError: If the server does not answer as it should.
    """
    require_no_secrets(settings)
    with connected() as server:
        _require_own(server, settings)
        changes = list(_deployed(server, settings, pool, dry_run=True))
        return changes if dry_run else list(_deployed(server, settings, pool, dry_run=False))


def undeploy(settings: Settings) -> list[Change]:
    """Remove what `deploy` made for a configuration, and nothing else.

    Raises:
        ConfigError: If there is no server, or the deployments are of another publishing root.
        ServiceError: If it does not answer as it should.
    """
    removed = []
    with connected() as server:
        _require_own(server, settings)
        for name in named(settings.dataset):
            if _automation(server, name, None):
                removed.append(Change(action="removed", what="automation", name=name))
        for one in FLOWS:
            name = f"{one.name}/{settings.dataset}"
            found = _read(server, name)
            if found is not None:
                server.delete_deployment(found.id)
                removed.append(Change(action="removed", what="deployment", name=name))
    return removed


def parameters(settings: Settings) -> dict[str, Any]:
    """What a deployed flow is called with: what differs from the defaults, where things are, and not when it runs."""
    plain = settings.model_dump(
        mode="json", exclude_defaults=True, exclude={"schedule", "watch", "work_pool", "notify"}
    )
    # a bound of null is the default of a bound, but not of the gate
    if "gates" in plain:
        plain["gates"] = {name: settings.gates.model_dump(mode="json")[name] for name in plain["gates"]}
    plain["publish"] = {**plain.get("publish", {}), "root": settings.publish.root}
    plain["tracking"] = {"uri": settings.tracking.uri}
    return {"settings": plain}


def content(one: Deployed, settings: Settings) -> dict[str, Any]:
    """What a deployment is, wherever it runs."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions

    schedule, flow = one.schedule(settings), one.flow()
    strategies = {"wait": ConcurrencyLimitStrategy.ENQUEUE, "cancel": ConcurrencyLimitStrategy.CANCEL_NEW}
    return {
        "name": settings.dataset,
        "version": __version__,
        "description": flow.description,
        "entrypoint": one.entrypoint,
        "parameters": parameters(settings),
        "schedules": [] if schedule is None else [DeploymentScheduleCreate(schedule=schedule.prefect())],
        "concurrency_limit": 1,
        "concurrency_options": ConcurrencyOptions(collision_strategy=strategies[settings.on_conflict]),
        "tags": ["denograd", f"dataset:{settings.dataset}"],
    }


def served(settings: Settings) -> list[RunnerDeployment]:
    """The deployments of a configuration, to be run by this process."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment

    made = []
    for one in FLOWS:
        facts = content(one, settings)
        limit, options = facts.pop("concurrency_limit"), facts.pop("concurrency_options")
        limits = ConcurrencyLimitConfig(limit=limit, collision_strategy=options.collision_strategy)
        made.append(RunnerDeployment.from_entrypoint(**facts, concurrency_limit=limits))
    return made


def require_no_secrets(settings: Settings) -> None:
    """Parameters of deployments are shown in Prefect's UI to whoever may see it.

    Raises:
        ConfigError: If an address carries a user and a password.
    """
    for path, value in _texts(settings.model_dump(mode="json")):
        if without_credentials(value) != value:
            raise ConfigError(
                f"{path}: a deployed configuration is shown to everybody who uses the Prefect server",
                expected="an address without credentials",
                found=without_credentials(value),
                remedy="keep the credentials in a block, and refer to it as block:NAME, or in the workers' environment",
            )


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server.

    Raises:
        ConfigError: If none is set.
        ServiceError: If it does not answer as it should.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    from denograd_flows.servers import require_prefect

    address = get_current_settings().api.url
    if not address:
        raise ConfigError(
            "deployments are kept by a Prefect server, and none is set",
            where="PREFECT_API_URL",
            remedy="start one with make stack, or with prefect server start, and set PREFECT_API_URL to its address",
        )
    require_prefect()
    try:
        with get_client(sync_client=True) as server:
            yield server
    except httpx.HTTPError as error:
        raise ServiceError(
            "the Prefect server does not do what it was asked",
            found=str(error).partition("\n")[0][:300] or type(error).__name__,
            where=without_credentials(address),
        ) from None


def _texts(plain: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(plain, str):
        yield path, plain
    elif isinstance(plain, list | dict):
        for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from _texts(value, f"{path}.{key}" if path else str(key))


def _deployed(server: SyncPrefectClient, settings: Settings, pool: str | None, dry_run: bool) -> Iterator[Change]:
    """Everything in turn; a dry run comes first, so that what cannot be deployed is refused before anything is made."""
    ids = {}
    for one in FLOWS:
        action, ids[one.name] = _deployment(server, one, settings, pool, dry_run)
        yield Change(action=action, what="deployment", name=f"{one.name}/{settings.dataset}")
    subject = Subject(settings, ids, server)
    for name, make in named(settings.dataset).items():
        done = _automation(server, name, make(subject), dry_run)
        if done:
            yield Change(action=done, what="automation", name=name)


def _require_own(server: SyncPrefectClient, settings: Settings) -> None:
    """Names of deployments are those of data sets, and one of this name may be of another publishing root."""
    for one in FLOWS:
        name = f"{one.name}/{settings.dataset}"
        found = _read(server, name)
        theirs = None if found is None else (found.parameters.get("settings") or {}).get("publish", {}).get("root")
        if theirs not in (None, settings.publish.root):
            raise ConfigError(
                f"publish.root: the deployment {name} on this Prefect server publishes elsewhere",
                expected=theirs,
                found=settings.publish.root,
                where=name,
                remedy="choose another dataset, or remove that one with its own configuration: denograd undeploy, "
                f"or prefect deployment delete {name}",
            )


def _deployment(
    server: SyncPrefectClient, one: Deployed, settings: Settings, pool: str | None, dry_run: bool
) -> tuple[Action, UUID]:
    """Make a deployment as it is wanted; in a dry run, one that is to be made anew has the id `NOWHERE`."""
    from prefect.utilities.callables import parameter_schema

    wanted = content(one, settings) | {
        "parameter_openapi_schema": parameter_schema(one.flow()).model_dump(exclude_unset=True),
        "enforce_parameter_schema": True,
        "work_pool_name": pool,
        "job_variables": _job(server, pool) if pool else {},
    }
    found = _read(server, f"{one.name}/{settings.dataset}")
    if found is not None and _same(found, wanted):
        return "unchanged", found.id
    anew = found is None or bool(found.work_pool_name and not pool)  # a pool can be exchanged, but not taken away
    action: Action = "created" if found is None else "updated"
    if dry_run:
        return action, NOWHERE if anew or found is None else found.id
    if anew and found is not None:
        server.delete_deployment(found.id)
    flow_id = server.create_flow_from_name(one.name)
    made = server.create_deployment(flow_id, **wanted, paused=False, pull_steps=[])
    return action, made


def _job(server: SyncPrefectClient, pool: str) -> dict[str, Any]:
    """How workers start a run; processes where `denograd deploy` was called, as `denograd run` would have been."""
    from prefect.exceptions import ObjectNotFound

    try:
        kind = server.read_work_pool(pool).type
    except ObjectNotFound:
        raise ConfigError(
            "work_pool: there is no such pool on the Prefect server",
            found=pool,
            remedy=f"start a worker, which creates it: prefect worker start --type process --pool {pool}",
        ) from None
    return {"env": SIGNS_OF_LIFE} | ({"working_dir": str(Path.cwd())} if kind == "process" else {})


def _read(server: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return server.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _same(found: DeploymentResponse, wanted: Mapping[str, Any]) -> bool:
    from prefect.client.schemas.actions import DeploymentCreate

    asked = DeploymentCreate(flow_id=found.flow_id, **wanted).model_dump(mode="json")
    there = found.model_dump(mode="json")
    for one in (asked, there):
        one["schedules"] = [each["schedule"] for each in one["schedules"]]
    limit = found.global_concurrency_limit
    there["concurrency_limit"] = None if limit is None else limit.limit
    return all(asked[name] == there[name] for name in wanted)


def _automation(
    server: SyncPrefectClient, name: str, wanted: AutomationCore | None, dry_run: bool = False
) -> Action | None:
    """Make an automation as it is wanted, or remove it; returns None where there is none and none is wanted."""
    from prefect.events.schemas.automations import AutomationCore

    found = server.read_automations_by_name(name)
    if wanted is None:
        for one in () if dry_run else found:
            server.delete_automation(one.id)
        return "removed" if found else None
    wanted = wanted.model_copy(update={"name": name})
    if not found:
        if not dry_run:
            server.create_automation(wanted)
        return "created"
    wanted = wanted.model_copy(update={"enabled": found[0].enabled})
    if AutomationCore.model_validate(found[0].model_dump()) == wanted:
        return "unchanged"
    if not dry_run:
        told = AutomationCore.model_validate(
            wanted.model_dump(exclude={"owner_resource"})
        )  # which is not to be changed
        server.update_automation(found[0].id, told)
    return "updated"
