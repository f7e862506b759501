"""Fit the backbone, tracked in MLflow, and export it to the publishing root."""

from __future__ import annotations

import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run

from denograd_engine.errors import ServiceError
from denograd_tasks.home import scratch
from denograd_tasks.keys import StageKey, digest_of
from denograd_tasks.models import PROGRAM, SCALING, encoder_json, require_weights, weights_digest
from denograd_tasks.progress import listener
from denograd_tasks.records import File, Snapshot, TrainedBackbone
from denograd_tasks.roles import schema_of, training_of
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store, open_store
from denograd_tasks.tables import put_bytes, put_file, read_table, to_frame
from denograd_tasks.tracking import KEY_TAG, client, end_leftovers, experiment_of, fluent, register, tracking_errors

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from denograd_engine.training import Backbone, Epoch


def _determinants(given: dict[str, Any]) -> dict[str, Any]:
    settings: Settings = given["settings"]
    return {
        "snapshot": given["snapshot"].digest,
        **settings.model_dump(mode="json", include={"dataset", "columns", "series", "backbone", "seed", "device"}),
        "tracking": settings.tracking.uri,
        "root": settings.publish.root,
    }


@task(
    name="train_backbone",
    cache_policy=StageKey(determinants=_determinants),
    persist_result=True,
    result_serializer="json",
)
def train_backbone(snapshot: Snapshot, settings: Settings) -> TrainedBackbone:
    """Train on the snapshot and register the model with the alias `champion`.

    Raises:
        DataError: If the data cannot be trained on.
        ServiceError: If the tracking server does not answer.
        StoreError: If an earlier export of the same weights is damaged.
    """
    from denograd_engine.backbones import DEFAULTS
    from denograd_engine.training import train

    store, uri = open_store(settings.publish.root), settings.tracking.uri
    frame = to_frame(read_table(store, snapshot.files[0].path))
    kind = settings.backbone.kind or DEFAULTS["series" if settings.series else "table"]
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
        with tracking_errors(uri):
            _log_parameters(server, run_id, settings, kind)
            curve = _Curve(server, run_id, settings.backbone.training.epochs)
            backbone = train(
                frame, schema_of(frame, settings), kind, settings.backbone.arguments, training_of(settings), curve
            )
            curve.flush()
            digest = weights_digest(backbone.module, backbone.encoder)
            server.log_metric(run_id, "residual_scale", backbone.residual_scale)
            for target, skill in backbone.skill.items():
                server.log_metric(run_id, f"skill/{_metric_name(target)}", skill)
            server.set_tag(run_id, "denograd.model", digest)
            with fluent(uri):
                model_uri, files = _log_model(server, uri, run_id, backbone, frame, settings, store, digest)
            trained = TrainedBackbone(
                root=settings.publish.root,
                files=files,
                kind=kind,
                model_uri=model_uri,
                run_id=run_id,
                tracking_uri=uri,
                digest=digest,
                skill=dict(backbone.skill),
                residual_scale=backbone.residual_scale,
                history=tuple((one.epoch, one.train_loss, one.holdout_loss) for one in backbone.history),
            )
            require_weights(trained)
            server.set_terminated(run_id, "FINISHED")
    except BaseException:
        with suppress(ServiceError), tracking_errors(uri):
            server.set_terminated(run_id, "FAILED")
        raise
    return trained


class _Curve:
    """Sends each epoch's losses to MLflow, in batches, and to whoever watches."""

    def __init__(self, server: MlflowClient, run_id: str, epochs: int) -> None:
        self.server, self.run_id, self.epochs = server, run_id, epochs
        self.waiting: list[Epoch] = []
        self.sent = time.monotonic()

    def __call__(self, epoch: Epoch) -> None:
        self.waiting.append(epoch)
        text = f"epoch {epoch.epoch}, held-out loss {epoch.holdout_loss:.4f}"
        listener().advanced("train_backbone", epoch.epoch / self.epochs, text)
        if time.monotonic() - self.sent > 1.0:
            self.flush()

    def flush(self) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, one.epoch)
            for one in self.waiting
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
    server.log_batch(run_id, params=[Param(name, str(value)) for name, value in plain.items()])


def _log_model(
    server: MlflowClient,
    uri: str,
    run_id: str,
    backbone: Backbone,
    frame: pd.DataFrame,
    settings: Settings,
    store: Store,
    digest: str,
) -> tuple[str, tuple[File, ...]]:
    """Log, register and export the model; returns its registry URI and its files in the publishing root."""
    import mlflow
    import torch
    from mlflow.models import infer_signature

    from denograd_engine.devices import frozen
    from denograd_engine.problem import pose

    problem = pose(frame, backbone.encoder, torch.device("cpu"), torch.float32)
    example, _ = problem.gather(problem.known[:2])
    with frozen(backbone.module, torch.device("cpu")) as module, torch.no_grad():
        signature = infer_signature(example.numpy(), module(example).numpy())
        with warnings.catch_warnings(), mlflow.start_run(run_id=run_id, nested=True):
            warnings.simplefilter("ignore")
            info = mlflow.pytorch.log_model(
                module,
                name="backbone",
                serialization_format="pt2",
                signature=signature,
                input_example=example.numpy(),
                pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            )
    version = register(server, settings.dataset, info.model_uri, run_id, info.model_id)
    scaling = encoder_json(backbone.encoder)
    server.log_text(run_id, scaling.decode(), SCALING)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        local = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=folder, tracking_uri=uri))
        program = next(local.rglob("*.pt2"))
        folder_in_store = f"{settings.dataset}/models/{digest}"
        files = (
            put_file(store, program, f"{folder_in_store}/{PROGRAM}"),
            put_bytes(store, scaling, f"{folder_in_store}/{SCALING}"),
        )
    return f"models:/{settings.dataset}/{version}", files


def _metric_name(column: str) -> str:
    """MLflow allows letters, digits and a few signs in metric names, up to 250, and no names like folders'."""
    plain = "".join(sign if sign.isalnum() or sign in "_-. " else "_" for sign in column)[:200]
    return plain if plain.strip(".") else "_"
