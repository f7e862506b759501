"""Training a network, or one for each fold, as a run in MLflow, which ends in a registered version and an export."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from denograd_engine.errors import ConfigError, ServiceError, StoreError, TooFewRowsError
from denograd_engine.user_code import BACKBONE, is_custom, source_digest
from denograd_tasks.adoption import ModelVersion, adopt, fetch_backbone
from denograd_tasks.champion import Start
from denograd_tasks.contest import Champion, contend
from denograd_tasks.exports import export
from denograd_tasks.models import ARCHITECTURE, SCALING, encoder_json, weights_digest
from denograd_tasks.progress import listener
from denograd_tasks.records import Architecture, TrainedBackbone
from denograd_tasks.roles import schema_of, training_of
from denograd_tasks.settings import Settings, TrainingSettings
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_bytes, put_file
from denograd_tasks.tracking import fluent, log_model_folder, metric_name, register
from denograd_tasks.unseen import new_rows

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from torch import Tensor, nn

    from denograd_engine.schema import Schema
    from denograd_engine.training import Backbone, Epoch
    from denograd_engine.training import Start as Begun

EXAMPLES = 5
"""Items that an export is tried with."""
FOLDED = "a fold's network must not come from one that saw the fold"
"""Why cross-fitted networks begin with random weights."""


def train_tracked(
    server: MlflowClient,
    experiment: str,
    run_id: str,
    frame: pd.DataFrame,
    settings: Settings,
    champion: Champion | None,
    folder: Path,
) -> TrainedBackbone:
    """Train, log and register a network, or one for each fold, and keep it in the publishing root.

    Args:
        server: Where the run is.
        experiment: Of the run.
        run_id: The run.
        frame: The observed data.
        settings: The configuration.
        champion: What training goes on from, where it can; None begins with random weights.
        folder: For files on their way.
    """
    from denograd_engine.backbones import DEFAULTS

    kind = settings.backbone.kind or DEFAULTS["series" if settings.series else "table"]
    source = source_digest(kind, BACKBONE) if is_custom(kind) else None
    _log_parameters(server, run_id, settings, kind)
    curve = _Curve(server, run_id, settings.backbone.training)
    backbone, start = _fitted(frame, kind, settings, curve, champion, folder / "start")
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
    contest = contend(server, run_id, frame, backbone, version, settings, start, folder / "champion")
    uri = f"models:/{settings.dataset}/{version}"
    record = _record(server, run_id, backbone, exported.architecture, exported.weights, uri, model_id, settings)
    return record.model_copy(update={"start": start, "contest": contest})


def _fitted(
    frame: pd.DataFrame, kind: str, settings: Settings, curve: _Curve, champion: Champion | None, folder: Path
) -> tuple[Backbone, Start | None]:
    """The network, or those of all folds, and where training began."""
    from denograd_engine.crossfit import train_folds
    from denograd_engine.training import train

    folds, schema = settings.backbone.training.folds, schema_of(frame, settings)
    how = (kind, settings.backbone.arguments, training_of(settings))
    if folds is not None:
        start = None if champion is None else champion.begun(FOLDED)
        return train_folds(frame, schema, folds, *how, curve), start
    reason = None
    if champion is not None:
        try:
            begun = _weights_of(champion, frame, schema, kind, settings, folder)
            return train(frame, schema, *how, lambda epoch: curve(None, epoch), begun), champion.begun(None)
        except ServiceError:
            raise
        except (ConfigError, StoreError, TooFewRowsError) as error:
            reason = error.problem
    trained = train(frame, schema, *how, lambda epoch: curve(None, epoch))
    return trained, None if champion is None else champion.begun(reason)


def _weights_of(
    champion: Champion, frame: pd.DataFrame, schema: Schema, kind: str, settings: Settings, folder: Path
) -> Begun:
    """The champion as the beginning of a training.

    Raises:
        ConfigError: If it is another network, of other columns, or what it learnt is gone.
        StoreError: If it is damaged.
    """
    from denograd_engine.training import Start as Begun

    folder.mkdir()
    found = fetch_backbone(settings.tracking.uri, champion.version, folder, schema, settings.backbone.kind)
    theirs, ours = found.architecture, (kind, settings.backbone.arguments, None)
    if theirs is None or (theirs.kind, theirs.arguments, theirs.folds) != ours:
        raise ConfigError("it is another network")
    unseen = new_rows(frame, schema, settings, champion.snapshot)
    if unseen is None:
        raise ConfigError("the data that it learnt are gone")
    return Begun(found.module.state_dict(), unseen)


def assess_tracked(
    server: MlflowClient, run_id: str, frame: pd.DataFrame, settings: Settings, version: ModelVersion, folder: Path
) -> TrainedBackbone:
    """Take a network that is trained already, and measure what it is worth on these data.

    Args:
        server: Where the run is.
        run_id: The run.
        frame: The observed data.
        settings: The configuration.
        version: The model.
        folder: For files on their way.
    """
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
        _require_named(architecture.criterion, settings, version)
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


def _require_named(criterion: str | None, settings: Settings, version: ModelVersion) -> None:
    """Code of somebody's own runs only if the configuration names it, whatever a registered model says."""
    if criterion is not None and is_custom(criterion) and criterion != settings.backbone.training.criterion:
        raise ConfigError(
            f"the model {version.uri} was fitted with a criterion that the configuration does not name",
            expected=criterion,
            found=settings.backbone.training.criterion or "none",
            where="backbone.training.criterion",
            remedy="name it there if you trust its code, or train a model here",
        )


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
