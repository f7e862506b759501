"""What killed runs leave behind, and how the next run clears it away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from denograd_flows.exclusion import alone
from denograd_tasks.home import sweep_scratch
from denograd_tasks.store import open_store

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from denograd_tasks.settings import Settings

OWNER = "DENOGRAD_OWNER"
"""Environment variable that tells a temporary Prefect server who started it."""


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


def mark_crashed(server: SyncPrefectClient, tag: str, run_id: str) -> None:
    """Set the state of this data set's other unfinished runs to Crashed: their processes are gone."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        FlowRunFilterTags,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    unfinished = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
    )
    for other in server.read_flow_runs(flow_run_filter=unfinished):
        if str(other.id) != run_id:
            server.set_flow_run_state(other.id, Crashed(message="The process of this run was killed."), force=True)


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
