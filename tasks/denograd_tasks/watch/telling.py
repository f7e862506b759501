"""The verdict where people look: an artifact in Prefect, metrics in MLflow."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from denograd_tasks.settings import Settings
from denograd_tasks.tracking import client, experiment_of, tracking_errors
from denograd_tasks.watch.bookmark import Changed, Watched

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "denograd.watch"
"""Of the MLflow run that holds the checks of a version."""
WIDTH = 12
"""Of a bar that is full."""
SEVERITIES = ("none", "warning", "drift")


def in_markdown(watched: Watched) -> str:
    """The verdict as a page."""
    lines = [f"## {watched.title}", ""]
    if watched.told:
        lines += ["| column | kind | effect | rows | p | evidence |", "|---|---|---|---:|---:|---|"]
        lines += [_line(one) for one in watched.told]
        lines += ["", f"The bars are full where chance alone brings as much once in {_full():,} checks at most."]
    lines += ["", f"Compared with {watched.dataset}@{watched.version}: `{watched.report}`"]
    return "\n".join(lines)


def log_metrics(settings: Settings, watched: Watched, version: str) -> None:
    """Add a check to the version's run in MLflow.

    Args:
        settings: The configuration.
        watched: What the check found.
        version: Digest of the manifest.

    Raises:
        ServiceError: If MLflow does not answer.
    """
    from mlflow.entities import Metric

    uri, now = settings.tracking.uri, int(time.time() * 1000)
    server, experiment = client(uri), experiment_of(uri, settings.dataset)
    values = {
        "watch/arrived": watched.arrived,
        "watch/rows": watched.rows,
        "watch/log10_evidence": math.log10(max(watched.evidence, 1e-12)),
        "watch/severity": SEVERITIES.index(watched.severity),
    }
    with tracking_errors(uri):
        run_id = _run(server, experiment, watched, version)
        metrics = [Metric(name, float(value), now, watched.checks) for name, value in values.items()]
        server.log_batch(run_id, metrics=metrics)


def _run(server: MlflowClient, experiment: str, watched: Watched, version: str) -> str:
    found: list[Any] = server.search_runs([experiment], f"tags.`{TAG}` = '{version}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    name = f"watch {watched.dataset}@{watched.version}"
    made = server.create_run(experiment, run_name=name, tags={TAG: version})
    server.set_terminated(made.info.run_id)
    return str(made.info.run_id)


def _line(one: Changed) -> str:
    bar = "█" * max(1, min(WIDTH, round(WIDTH * math.log(max(one.evidence, 1.0)) / math.log(_full()))))
    name = one.column.replace("|", "\\|")
    return f"| {name} | {one.kind} | {one.measure} {one.effect:.3g} | {one.rows:,} | {one.p:.1g} | {bar} |"


def _full() -> int:
    from denograd_engine.drift.verdict import AVERAGE_RUN

    return AVERAGE_RUN
