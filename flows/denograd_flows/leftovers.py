"""What killed runs leave behind, and how the next run clears it away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from denograd_flows.exclusion import alone
from denograd_tasks.home import sweep_scratch
from denograd_tasks.store import open_store

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from denograd_tasks.settings import Settings

OWNER = "DENOGRAD_OWNER"
"""Environment variable that tells a temporary Prefect server who started it."""
SIGNED_IN = timedelta(minutes=1)
"""After its start a run that lives has told its process."""


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """At most one run of a data set.

    Once inside, half-written files of earlier runs are removed: nobody else writes them.

    Raises:
        Occupied: If there is another run, and `on_conflict` is to cancel.
    """
    with alone(settings.dataset, wait=settings.on_conflict == "wait"):
        sweep_scratch()
        open_store(settings.publish.root).sweep(settings.dataset)
        yield


def sign_in() -> None:
    """Tell a temporary server which process this flow run is, and which runs of the flow crashed: theirs are gone."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.runtime import flow_run
    from prefect.settings import get_current_settings
    from prefect.states import Crashed

    run_id = flow_run.get_id()
    if run_id is None or get_current_settings().api.url:
        return
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    ours = FlowFilter(name=FlowFilterName(any_=[str(flow_run.get_flow_name())]))
    with get_client(sync_client=True) as server:
        server.update_flow_run(UUID(run_id), infrastructure_pid=str(os.getpid()))
        for other in server.read_flow_runs(flow_filter=ours, flow_run_filter=unfinished):
            if _is_dead(other):
                server.set_flow_run_state(other.id, Crashed(message="The process of this run was killed."), force=True)


def _is_dead(run: FlowRun) -> bool:
    import psutil

    if run.infrastructure_pid:
        return not psutil.pid_exists(int(run.infrastructure_pid))
    return run.start_time is not None and datetime.now(UTC) - run.start_time > SIGNED_IN


def end_orphaned_servers() -> int:
    """End temporary Prefect servers of this home whose starter is gone; returns how many."""
    import psutil

    ended: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if not any("prefect.server.api.server" in part for part in process.info["cmdline"] or []):
                continue
            environment = process.environ()
        except psutil.Error:
            continue
        owner = environment.get(OWNER, "")
        ours = environment.get("PREFECT_HOME") == os.environ.get("PREFECT_HOME")
        if ours and owner.isdigit() and not psutil.pid_exists(int(owner)):
            process.terminate()
            ended.append(process)
    psutil.wait_procs(ended, timeout=30)  # one that was creating its database finishes that first
    return len(ended)
