"""Fitting the posterior model as a run in MLflow, which ends in a registered version and an export."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from denograd_tasks.adoption import ModelVersion, adopt_posterior
from denograd_tasks.contest import contend
from denograd_tasks.noisy import NoisyColumn
from denograd_tasks.posteriors import put_model, write_model
from denograd_tasks.progress import listener
from denograd_tasks.records import Architecture, TrainedBackbone
from denograd_tasks.roles import fit_of, schema_of
from denograd_tasks.rule import AXIS, POSTERIOR
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tracking import fluent, log_model_folder, metric_name, register

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from denograd_engine.posterior.model import Posterior

POINTS = 100
"""Of the loss curve."""


def fit_tracked(
    server: MlflowClient, experiment: str, run_id: str, frame: pd.DataFrame, settings: Settings, folder: Path
) -> TrainedBackbone:
    """Fit, log and register a posterior model, and keep it in the publishing root.

    Args:
        server: Where the run is.
        experiment: Of the run.
        run_id: The run.
        frame: The observed data.
        settings: The configuration.
        folder: For files on their way.
    """
    from denograd_engine.posterior.model import fit_posterior

    fit = fit_of(settings)
    _log_parameters(server, run_id, settings)
    curve = _Curve(server, run_id)
    model = fit_posterior(frame, schema_of(frame, settings), fit, settings.device, curve)
    curve.flush()
    digest = write_model(model, folder / "model")
    with fluent(settings.tracking.uri):
        model_id = log_model_folder(server, experiment, run_id, folder / "model")
        version = register(server, settings.dataset, f"models:/{model_id}", run_id, model_id)
    contest = contend(server, run_id, frame, model, version, settings, None, folder / "champion")
    record = _record(server, run_id, model, folder / "model", digest, model_id, settings)
    points = tuple((percent, loss, None) for percent, loss in curve.points)
    uri = f"models:/{settings.dataset}/{version}"
    return record.model_copy(update={"model_uri": uri, "history": points, "contest": contest})


def adopt_tracked(
    server: MlflowClient, run_id: str, frame: pd.DataFrame, settings: Settings, version: ModelVersion, folder: Path
) -> TrainedBackbone:
    """Take a posterior model that was fitted elsewhere, and keep it in the publishing root.

    Args:
        server: Where the run is.
        run_id: The run.
        frame: The observed data.
        settings: The configuration.
        version: The model.
        folder: For files on their way.
    """
    server.log_param(run_id, "kind", version.uri)
    (folder / "found").mkdir()
    model = adopt_posterior(settings.tracking.uri, version, folder / "found", schema_of(frame, settings))
    digest = write_model(model, folder / "model")
    record = _record(server, run_id, model, folder / "model", digest, version.model_id, settings)
    return record.model_copy(update={"model_uri": version.uri, "adopted": True})


def _record(
    server: MlflowClient,
    run_id: str,
    model: Posterior,
    folder: Path,
    digest: str,
    model_id: str | None,
    settings: Settings,
) -> TrainedBackbone:
    """Write down what is known of the model, and keep its files in the publishing root."""
    columns = _noisy(model)
    for name, column in columns.items():
        for metric in ("skill", "gain", "noise", "bound"):
            server.log_metric(run_id, f"{metric}/{metric_name(name)}", getattr(column, metric), model_id=model_id)
    bounds = {name: model.columns[name].bound for name in model.encoder.schema.refined if name not in columns}
    for name, bound in bounds.items():
        server.log_metric(run_id, f"bound/{metric_name(name)}", bound, model_id=model_id)
    server.set_tag(run_id, "denograd.model", digest)
    unexplained = [max(0.0, 1 - column.skill) for column in columns.values()]
    return TrainedBackbone(
        root=settings.publish.root,
        files=put_model(open_store(settings.publish.root), folder, f"{settings.dataset}/models/{digest}"),
        architecture=Architecture(
            kind=POSTERIOR,
            arguments={name: value for name, value in vars(model.fit).items() if name != "seed"},
            input_shape=(),
            outputs=len(model.refined),
        ),
        model_uri="",
        run_id=run_id,
        tracking_uri=settings.tracking.uri,
        digest=digest,
        skill={name: column.skill for name, column in columns.items()},
        residual_scale=math.sqrt(sum(unexplained) / max(1, len(unexplained))),
        history=(),
        columns=columns,
        bounds=bounds,
    )


def _noisy(model: Posterior) -> dict[str, NoisyColumn]:
    schema = model.encoder.schema
    return {
        name: NoisyColumn(
            noise=column.noise,
            declared=None if column.estimated else schema[name].noise,
            bound=column.bound,
            skill=column.skill,
            gain=column.gain,
            faults=column.faults,
            departure=None if column.departure is None else column.departure.value,
        )
        for name, column in model.columns.items()
        if column.noise is not None
    }


class _Curve:
    """Tells whoever watches how far training is, and MLflow the loss, thinned out to a point for each hundredth."""

    def __init__(self, server: MlflowClient, run_id: str) -> None:
        self.server, self.run_id = server, run_id
        self.points: list[tuple[int, float]] = []
        self.told = 0
        self.sent = time.monotonic()

    def __call__(self, share: float, loss: float) -> None:
        listener().advanced("train_backbone", share, f"loss {loss:.3f}")
        percent = round(POINTS * share)
        if not self.points or percent > self.points[-1][0]:
            self.points.append((percent, loss))
        if time.monotonic() - self.sent > 1.0:
            self.flush()

    def flush(self) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric("train_loss", loss, now, percent) for percent, loss in self.points[self.told :]]
        if metrics:
            self.server.log_batch(self.run_id, metrics=metrics)
        self.told, self.sent = len(self.points), time.monotonic()


def _log_parameters(server: MlflowClient, run_id: str, settings: Settings) -> None:
    from mlflow.entities import Param

    plain = {
        "rule": POSTERIOR,
        "device": settings.device,
        **vars(fit_of(settings)),
        **({f"series.{name}": getattr(settings.series, name) for name in AXIS} if settings.series else {}),
    }
    server.log_batch(run_id, params=[Param(name, str(value)) for name, value in plain.items() if value is not None])
