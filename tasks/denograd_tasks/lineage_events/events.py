"""The event of an instant of a run: pure, from what is known by then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import attr
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    JobFacet,
    RunFacet,
    documentation_job,
    error_message_run,
    job_type_job,
    nominal_time_run,
    parent_run,
    processing_engine_run,
)

from denograd_engine import __version__
from denograd_engine.errors import DenogradError
from denograd_tasks.keys import digest_of
from denograd_tasks.lineage_events.datasets import PRODUCER, facet
from denograd_tasks.lineage_events.naming import run_id

DOCUMENTATION = (
    "Refines the noisy cells of a data set, and publishes the result as its next version if every gate passes."
)
PREFECT = "prefect"
"""Namespace of the parents of runs, which are Prefect's."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run when it starts.

    Attributes:
        namespace: Of the job.
        dataset: The data set.
        flow_run: Id of the Prefect flow run.
        flow: Its flow, or deployment.
        tried: How often it was started, this time included.
        scheduled: When its schedule has it start; None for one that has no schedule.
    """

    namespace: str
    dataset: str
    flow_run: str
    flow: str
    tried: int
    scheduled: str | None

    @property
    def id(self) -> str:
        """The run's own."""
        return run_id(self.flow_run, self.tried)


@attr.define
class DenogradRunFacet(RunFacet):
    """What is particular to this project, under `denograd`; a plain run facet to whoever validates it."""

    snapshot: str
    """Digest of the source's content."""
    model: str
    """Address in MLflow's registry."""
    modelDigest: str  # noqa: N815
    """sha256 of architecture, weights and scaling."""
    configuration: str
    """sha256 of the settings, as the manifest has them."""
    result: str
    """Digest of the refined content."""
    rule: str
    """The refinement rule."""
    trigger: str
    """What started the run: a command, a schedule, a deployment or a drift."""
    mlflowRun: str  # noqa: N815
    """Id of the run in MLflow."""
    manifest: str | None = None
    """Digest of the manifest; absent where nothing was published."""


def particulars(body: Mapping[str, Any], manifest: str | None) -> DenogradRunFacet:
    """Our own facet of a result.

    Args:
        body: The manifest, of a version or of what was refused.
        manifest: Digest of the first.
    """
    return facet(
        DenogradRunFacet,
        snapshot=body["source"]["snapshot"],
        model=body["model"]["uri"],
        modelDigest=body["model"]["digest"],
        configuration=digest_of(body["settings"]),
        result=body["content_digest"],
        rule=body["refinement"]["rule"],
        trigger=body["run"]["trigger"],
        mlflowRun=body["model"]["mlflow_run_id"],
        manifest=manifest,
    )


def run_event(
    state: RunState,
    run: RunFacts,
    inputs: list[InputDataset],
    outputs: list[OutputDataset],
    known: DenogradRunFacet | None = None,
    error: BaseException | None = None,
) -> RunEvent:
    """What happened to a run now.

    Args:
        state: What it comes to.
        run: Which one.
        inputs: What it reads.
        outputs: What it wrote.
        known: Our own facet, once there is a result.
        error: What ended it.
    """
    facets: dict[str, RunFacet] = {
        "processing_engine": facet(processing_engine_run.ProcessingEngineRunFacet, __version__, name="denograd"),
        "parent": facet(parent_run.ParentRunFacet, parent_run.Run(run.flow_run), parent_run.Job(PREFECT, run.flow)),
    }
    if run.scheduled is not None:
        facets["nominalTime"] = facet(nominal_time_run.NominalTimeRunFacet, run.scheduled)
    if known is not None:
        facets["denograd"] = known
    if error is not None:
        facets["errorMessage"] = facet(error_message_run.ErrorMessageRunFacet, in_words(error), "python")
    return RunEvent(
        eventType=state,
        eventTime=instant(datetime.now(UTC)),
        run=Run(run.id, facets),
        job=_job(run),
        inputs=inputs,
        outputs=outputs,
        producer=PRODUCER,
    )


def in_words(error: BaseException) -> str:
    """An error without anything that may be a cell's value: of an unexpected one, its kind alone."""
    if isinstance(error, DenogradError):
        return str(error)
    return f"{'unexpected ' if isinstance(error, Exception) else ''}{type(error).__name__}"


def _job(run: RunFacts) -> Job:
    kind = facet(job_type_job.JobTypeJobFacet, "BATCH", "PREFECT", "FLOW")
    facets: dict[str, JobFacet] = {
        "jobType": kind,
        "documentation": facet(documentation_job.DocumentationJobFacet, DOCUMENTATION),
    }
    return Job(run.namespace, f"clean.{run.dataset}", facets)


def instant(when: datetime) -> str:
    """A time as events have it."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
