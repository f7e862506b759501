"""The flow `clean`: from a source to a published, verified version."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from prefect import Task, flow
from prefect.runtime import flow_run
from prefect.states import Cancelled

from denograd_flows.exclusion import Occupied
from denograd_flows.leftovers import exclusive, sign_in
from denograd_flows.outcome import Outcome, Refused, outcome_of
from denograd_tasks.append import parent_of
from denograd_tasks.audit.signing import signing_key
from denograd_tasks.contest import start_of
from denograd_tasks.lineage_events.recording import Recorder, recorded
from denograd_tasks.progress import listener
from denograd_tasks.records import Record, Refined, Snapshot
from denograd_tasks.settings import Settings
from denograd_tasks.stages.check_fidelity import check_fidelity
from denograd_tasks.stages.check_input import check_input
from denograd_tasks.stages.ingest import ingest
from denograd_tasks.stages.materialise import materialise
from denograd_tasks.stages.publish import publish, quarantine, released_version
from denograd_tasks.stages.refine import refine
from denograd_tasks.stages.report import report
from denograd_tasks.stages.train_backbone import train_backbone
from denograd_tasks.versions import Overtaken

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

R = TypeVar("R", bound=Record)
Truth = Callable[[Snapshot, Refined], dict[str, float]]
"""Compares refined data with a truth known to the caller, in demonstrations."""


def dataset_name() -> str:
    """The name of a run until its data are known."""
    settings = flow_run.get_parameters().get("settings") or {}
    name = settings.get("dataset") if isinstance(settings, dict) else settings.dataset
    return str(name or "clean")


@flow(name="clean", flow_run_name=dataset_name, validate_parameters=True)
def clean(settings: Settings, event: str | None = None) -> Outcome:
    """Ingest, check, train, refine, judge, report and publish.

    Stages whose inputs and settings have not changed are reused; what was interrupted goes on after the last finished
    stage.

    Args:
        settings: The configuration, from `load_settings` or built in code.
        event: Id of the Prefect event of drift that the run answers, which the manifest will name.

    Raises:
        DataError: If the data cannot be used as they are.
        Refused: If a gate refused the result, which is then in quarantine.
        Occupied: If another run of the data set is at work, and `on_conflict` is to cancel; the run is Cancelled.
        ServiceError: If a service does not answer.
    """
    try:
        return run_stages(settings)
    except Occupied as error:
        return Cancelled(message=error.problem, data=error)  # type: ignore[return-value]


def run_stages(settings: Settings, truth: Truth | None = None) -> Outcome:
    """The body of the flow, to be called within one."""
    sign_in()
    if settings.publish.sign_with is not None:
        signing_key(settings.publish.sign_with)  # there is none: better said before the work than after it
    with exclusive(settings), recorded(settings) as recorder:
        outcome = None
        while outcome is None:
            with suppress(Overtaken):
                outcome = _once(settings, truth, recorder)
        if outcome.version is None:
            raise Refused(outcome)
    return outcome


def _once(settings: Settings, truth: Truth | None, recorder: Recorder) -> Outcome:
    """All stages, once.

    Raises:
        Overtaken: If the result was to be appended to a version that is not the newest any more.
    """
    run = _Stages(recorder)
    snapshot = run(ingest, settings, parent_of(settings))
    _name_run(settings, snapshot)
    checked = run(check_input, snapshot, settings)
    backbone = run(train_backbone, snapshot, settings, start_of(settings))
    refined = run(refine, snapshot, backbone, settings)
    verdict = run(check_fidelity, snapshot, backbone, refined, settings)
    known = truth(snapshot, refined) if truth else None
    page = run(report, snapshot, checked, backbone, refined, verdict, settings, known)
    version = None
    if verdict.passed:
        version = run(publish, snapshot, checked, backbone, refined, verdict, page, settings)
        trained = not backbone.adopted and train_backbone.name not in run.reused
        materialise(snapshot, backbone, verdict, version, settings, trained)
    else:
        version = released_version(refined, backbone, settings)
        if version is None:
            run(quarantine, snapshot, checked, backbone, refined, verdict, page, settings)
    return outcome_of(settings, snapshot, backbone, refined, verdict, page, version, tuple(run.reused), known)


class _Stages:
    """Runs stages one after another, tells listener and recorder, and remembers which were reused."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.reused: list[str] = []

    def __call__(self, stage: Task[..., R], *arguments: Any) -> R:
        listener().started(stage.name)
        state: State[R] = stage(*arguments, return_state=True)  # type: ignore[assignment]
        record: R = state.result()
        reused = state.name == "Cached"
        if reused:
            self.reused.append(stage.name)
        self.recorder.saw(record)
        listener().finished(stage.name, record.describe(), reused)
        return record


def _name_run(settings: Settings, snapshot: Snapshot) -> None:
    """Name the run after data set and digest."""
    from prefect.client.orchestration import get_client

    run_id = flow_run.get_id()
    if run_id is None:
        return
    tags = {*flow_run.get_tags(), f"dataset:{settings.dataset}"}
    with get_client(sync_client=True) as server:
        server.update_flow_run(UUID(run_id), name=snapshot.run_name(settings.dataset), tags=tags)
