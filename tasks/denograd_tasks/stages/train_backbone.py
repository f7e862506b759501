"""Fit the backbone, or the posterior model, tracked in MLflow, and export it to the publishing root."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.runtime import flow_run

from denograd_engine.errors import ServiceError
from denograd_engine.user_code import BACKBONE, CRITERION, is_custom, source_digest
from denograd_tasks.adoption import MODEL_TAG, ModelVersion, adopt, chosen_model
from denograd_tasks.append import continued
from denograd_tasks.exports import export
from denograd_tasks.home import scratch
from denograd_tasks.keys import digest_of, stage
from denograd_tasks.models import ARCHITECTURE, SCALING, encoder_json, require_weights, weights_digest
from denograd_tasks.posterior_run import adopt_tracked, fit_tracked
from denograd_tasks.posteriors import load_posterior
from denograd_tasks.progress import listener
from denograd_tasks.records import Architecture, Snapshot, TrainedBackbone
from denograd_tasks.roles import schema_of, training_of
from denograd_tasks.rule import AXIS, POSTERIOR, chosen_rule, fit_arguments
from denograd_tasks.settings import Settings, TrainingSettings
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_bytes, put_file, read_table, to_frame
from denograd_tasks.tracking import (
    KEY_TAG,
    client,
    end_leftovers,
    experiment_of,
    fluent,
    log_model_folder,
    metric_name,
    register,
    tracking_errors,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from torch import Tensor, nn

    from denograd_engine.training import Backbone, Epoch

EXAMPLES = 5
"""Items that an export is tried with."""


def _determinants(given: dict[str, Any]) -> dict[str, Any]:
    settings: Settings = given["settings"]
    posterior = chosen_rule(settings).posterior
    series = settings.model_dump(mode="json", include={"series"})["series"]
    if posterior and series:
        series = {name: series[name] for name in AXIS}
    return {
        "snapshot": given["snapshot"].digest,
        **settings.model_dump(mode="json", include={"dataset", "columns", "seed", "device"}),
        "series": series,
        "backbone": _model_of(given["snapshot"], settings),
        "tracking": settings.tracking.uri,
        "root": settings.publish.root,
    }


def _model_of(snapshot: Snapshot, settings: Settings) -> dict[str, Any]:
    """What determines the model besides the data."""
    if snapshot.parent is not None:
        return {"parent": snapshot.parent.digest}
    version = chosen_model(settings)
    if version is not None:
        return {"version": asdict(version), "holdout": settings.backbone.training.holdout}
    return _posterior_of(settings) if chosen_rule(settings).posterior else _backbone_of(settings)


def _posterior_of(settings: Settings) -> dict[str, Any]:
    """What determines a posterior model."""
    return {POSTERIOR: fit_arguments(settings), "faults": settings.refine.faults}


def _backbone_of(settings: Settings) -> dict[str, Any]:
    """What determines the network: the settings, and what they name as it is now."""
    kind = settings.backbone.kind
    plain = settings.backbone.model_dump(mode="json")
    sources = {}
    for name, use in ((kind, BACKBONE), (settings.backbone.training.criterion, CRITERION)):
        if name is not None and is_custom(name):
            sources[use.what] = source_digest(name, use)
    return {**plain, **sources}


@stage(_determinants)
def train_backbone(snapshot: Snapshot, settings: Settings) -> TrainedBackbone:
    """Train on the snapshot and register the model with the alias `champion`; or take one that is trained already.

    What a version is appended to, its model goes on with.

    Raises:
        DataError: If the data cannot be trained on.
        ConfigError: If the backbone cannot be constructed, fetched or exported, or does not fit the data.
        ServiceError: If the tracking server does not answer.
        StoreError: If an earlier export of the same weights is damaged.
    """
    uri = settings.tracking.uri
    frame = to_frame(read_table(open_store(settings.publish.root), snapshot.files[0].path))
    key = digest_of(_determinants({"snapshot": snapshot, "settings": settings}))
    server = client(uri)
    experiment = experiment_of(uri, settings.dataset)
    end_leftovers(uri, experiment, key)
    with tracking_errors(uri):
        run = server.create_run(
            experiment,
            run_name=snapshot.run_name(settings.dataset),
            tags={
                KEY_TAG: key,
                "denograd.snapshot": snapshot.digest,
                "denograd.dataset": settings.dataset,
                "denograd.flow_run": str(flow_run.get_id()),
            },
        )
    run_id = run.info.run_id
    try:
        with tracking_errors(uri), tempfile.TemporaryDirectory(dir=scratch()) as folder:
            version = None if snapshot.parent else chosen_model(settings)
            if snapshot.parent is not None:
                trained = continued(snapshot, settings, run_id)
                server.log_param(run_id, "kind", trained.model_uri)
                server.set_tag(run_id, MODEL_TAG, trained.digest)
            elif chosen_rule(settings).posterior:
                if version is not None:
                    trained = adopt_tracked(server, run_id, frame, settings, version, Path(folder))
                else:
                    trained = fit_tracked(server, experiment, run_id, frame, settings, Path(folder))
            elif version is not None:
                trained = _adopted(server, run_id, frame, settings, version, Path(folder))
            else:
                trained = _trained(server, experiment, run_id, frame, settings, Path(folder))
            load_posterior(trained, "cpu") if trained.posterior else require_weights(trained)
            server.set_terminated(run_id, "FINISHED")
    except BaseException:
        with suppress(ServiceError), tracking_errors(uri):
            server.set_terminated(run_id, "FAILED")
        raise
    return trained


def _trained(
    server: MlflowClient, experiment: str, run_id: str, frame: pd.DataFrame, settings: Settings, folder: Path
) -> TrainedBackbone:
    """Train, log and register a network, or one for each fold."""
    from denograd_engine.backbones import DEFAULTS

    kind = settings.backbone.kind or DEFAULTS["series" if settings.series else "table"]
    source = source_digest(kind, BACKBONE) if is_custom(kind) else None
    _log_parameters(server, run_id, settings, kind)
    curve = _Curve(server, run_id, settings.backbone.training)
    backbone = _fitted(frame, kind, settings, curve)
    curve.flush()
    with _lent(backbone, frame) as (module, inputs, outputs):
        architecture = Architecture(
            kind=kind,
            arguments=settings.backbone.arguments,
            input_shape=tuple(inputs.shape[1:]),
            outputs=outputs,
            source=source,
            criterion=_named(backbone),
            folds=settings.backbone.training.folds,
        )
        exported = export(module, backbone.encoder, architecture, inputs, folder / "model")
    with fluent(settings.tracking.uri):
        model_id = log_model_folder(server, experiment, run_id, exported.folder)
        version = register(server, settings.dataset, f"models:/{model_id}", run_id, model_id)
    return _record(
        server,
        run_id,
        backbone,
        exported.architecture,
        exported.weights,
        f"models:/{settings.dataset}/{version}",
        model_id,
        settings,
    )


def _fitted(frame: pd.DataFrame, kind: str, settings: Settings, curve: _Curve) -> Backbone:
    from denograd_engine.crossfit import train_folds
    from denograd_engine.training import train

    folds, schema = settings.backbone.training.folds, schema_of(frame, settings)
    how = (kind, settings.backbone.arguments, training_of(settings))
    if folds is None:
        return train(frame, schema, *how, lambda epoch: curve(None, epoch))
    return train_folds(frame, schema, folds, *how, curve)


def _adopted(
    server: MlflowClient, run_id: str, frame: pd.DataFrame, settings: Settings, version: ModelVersion, folder: Path
) -> TrainedBackbone:
    """Take a network that is trained already, and measure what it is worth on these data."""
    from mlflow.entities import LoggedModelInput

    from denograd_engine.training import assess

    uri = settings.tracking.uri
    server.log_param(run_id, "kind", version.uri)
    server.log_param(run_id, "holdout", settings.backbone.training.holdout)
    if version.model_id is not None:
        server.log_inputs(run_id, models=[LoggedModelInput(version.model_id)])
    schema = schema_of(frame, settings)
    adopted = adopt(uri, version, folder, schema)
    architecture = adopted.architecture
    held_out = replace(training_of(settings), device="cpu")  # a program stays on the device that it was exported on
    if architecture is not None:
        held_out = replace(held_out, criterion=architecture.criterion)
    backbone = assess(frame, adopted.encoder or schema, adopted.module, held_out)
    if architecture is None:
        with _lent(backbone, frame) as (_, inputs, outputs):
            architecture = Architecture(
                kind=version.uri,
                input_shape=tuple(inputs.shape[1:]),
                outputs=outputs,
                rebuilt=False,
                criterion=_named(backbone),
            )
    record = _record(server, run_id, backbone, architecture, adopted.weights, version.uri, version.model_id, settings)
    return record.model_copy(update={"adopted": True})


def _record(
    server: MlflowClient,
    run_id: str,
    backbone: Backbone,
    architecture: Architecture,
    weights: Path,
    model_uri: str,
    model_id: str | None,
    settings: Settings,
) -> TrainedBackbone:
    """Write down what was measured of the logged model, and keep the files in the publishing root."""
    digest = weights_digest(backbone.module, backbone.encoder, architecture)
    server.log_metric(run_id, "residual_scale", backbone.residual_scale, model_id=model_id)
    for target, skill in backbone.skill.items():
        server.log_metric(run_id, f"skill/{metric_name(target)}", skill, model_id=model_id)
    server.set_tag(run_id, "denograd.model", digest)
    store, inside = open_store(settings.publish.root), f"{settings.dataset}/models/{digest}"
    described = {SCALING: encoder_json(backbone.encoder), ARCHITECTURE: architecture.to_json()}
    for name, content in described.items():
        server.log_text(run_id, content.decode(), name)
    return TrainedBackbone(
        root=settings.publish.root,
        files=(
            put_file(store, weights, f"{inside}/{weights.name}"),
            *(put_bytes(store, content, f"{inside}/{name}") for name, content in described.items()),
        ),
        architecture=architecture,
        model_uri=model_uri,
        run_id=run_id,
        tracking_uri=settings.tracking.uri,
        digest=digest,
        skill=dict(backbone.skill),
        residual_scale=backbone.residual_scale,
        history=tuple((one.epoch, one.train_loss, one.holdout_loss) for one in backbone.history),
    )


def _named(backbone: Backbone) -> str | None:
    """The name of its criterion, which settings always have."""
    return backbone.criterion if isinstance(backbone.criterion, str) else None


@contextmanager
def _lent(backbone: Backbone, frame: pd.DataFrame) -> Iterator[tuple[nn.Module, Tensor, int]]:
    """The network, or those of all folds, frozen on the CPU, with a few inputs and the width of a prediction."""
    import torch

    from denograd_engine.devices import dtype_of, frozen
    from denograd_engine.problem import pose

    problem = pose(frame, backbone.encoder, torch.device("cpu"), dtype_of(backbone.module))
    inputs, _ = problem.gather(problem.known[:EXAMPLES])
    with frozen(backbone.module, torch.device("cpu")) as module:
        with torch.no_grad():
            outputs = backbone.networks[0](inputs).numel() // len(inputs)
        yield module, inputs, outputs


class _Curve:
    """Sends each epoch's losses to MLflow, in batches, and to whoever watches; each fold has a curve of its own."""

    def __init__(self, server: MlflowClient, run_id: str, training: TrainingSettings) -> None:
        self.server, self.run_id, self.training = server, run_id, training
        self.waiting: list[tuple[int | None, Epoch]] = []
        self.sent = time.monotonic()

    def __call__(self, fold: int | None, epoch: Epoch) -> None:
        self.waiting.append((fold, epoch))
        before, folds = fold or 0, self.training.folds or 1
        share = (before + epoch.epoch / self.training.epochs) / folds
        text = f"epoch {epoch.epoch}, held-out loss {epoch.holdout_loss:.4f}"
        if fold is not None:
            text = f"fold {fold + 1} of {folds}, {text}"
        listener().advanced("train_backbone", share, text)
        if time.monotonic() - self.sent > 1.0:
            self.flush()

    def flush(self) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name if fold is None else f"{name}/fold {fold + 1}", value, now, one.epoch)
            for fold, one in self.waiting
            for name, value in (("train_loss", one.train_loss), ("holdout_loss", one.holdout_loss))
        ]
        if metrics:
            self.server.log_batch(self.run_id, metrics=metrics)
        self.waiting, self.sent = [], time.monotonic()


def _log_parameters(server: MlflowClient, run_id: str, settings: Settings, kind: str) -> None:
    from mlflow.entities import Param

    plain = {
        "kind": kind,
        "seed": settings.seed,
        "device": settings.device,
        **settings.backbone.training.model_dump(),
        **{f"arguments.{name}": value for name, value in settings.backbone.arguments.items()},
        **({f"series.{name}": value for name, value in settings.series} if settings.series else {}),
    }
    server.log_batch(run_id, params=[Param(name, str(value)) for name, value in plain.items() if value is not None])
