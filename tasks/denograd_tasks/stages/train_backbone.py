"""Fit the backbone, or the posterior model, tracked in MLflow, and export it to the publishing root."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from denograd_engine.errors import ServiceError
from denograd_engine.user_code import BACKBONE, CRITERION, is_custom, source_digest
from denograd_tasks.adoption import MODEL_TAG, chosen_model
from denograd_tasks.append import continued
from denograd_tasks.contest import EVENT_TAG, SNAPSHOT_TAG, START_TAG, Champion, drift_event
from denograd_tasks.home import scratch
from denograd_tasks.keys import digest_of, stage
from denograd_tasks.models import require_weights
from denograd_tasks.network_run import assess_tracked, train_tracked
from denograd_tasks.posterior_run import adopt_tracked, fit_tracked
from denograd_tasks.posteriors import load_posterior
from denograd_tasks.records import Snapshot, TrainedBackbone
from denograd_tasks.rule import AXIS, POSTERIOR, chosen_rule, fit_arguments
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import read_table, to_frame
from denograd_tasks.tracking import KEY_TAG, client, end_leftovers, experiment_of, impatient, tracking_errors


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
        "backbone": _model_of(given["snapshot"], settings, given.get("champion")),
        "tracking": settings.tracking.uri,
        "root": settings.publish.root,
    }


def _model_of(snapshot: Snapshot, settings: Settings, champion: Champion | None) -> dict[str, Any]:
    """What determines the model besides the data."""
    if snapshot.parent is not None:
        return {"parent": snapshot.parent.digest}
    version = chosen_model(settings)
    if version is not None:
        return {"version": asdict(version), "holdout": settings.backbone.training.holdout}
    if chosen_rule(settings).posterior:
        return _posterior_of(settings)
    return _backbone_of(settings) | ({} if champion is None else {"champion": champion.determinants})


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
def train_backbone(snapshot: Snapshot, settings: Settings, champion: Champion | None = None) -> TrainedBackbone:
    """Train on the snapshot and register the model; or take one that is trained already.

    The alias `champion` moves to the new model if it is worth at least as much as the one that has it: see `contest`.
    What a version is appended to, its model goes on with.

    Args:
        snapshot: The data.
        settings: The configuration.
        champion: What training goes on from, if both are one network of the same architecture and columns; None begins
            with random weights. Cross-fitted models always do: their rows must be new to the network that refines them.

    Raises:
        DataError: If the data cannot be trained on.
        ConfigError: If the backbone cannot be constructed, fetched or exported, or does not fit the data.
        ServiceError: If the tracking server does not answer.
        StoreError: If an earlier export of the same weights is damaged.
    """
    uri = settings.tracking.uri
    frame = to_frame(read_table(open_store(settings.publish.root), snapshot.files[0].path))
    key = digest_of(_determinants({"snapshot": snapshot, "settings": settings, "champion": champion}))
    event = drift_event()
    server = client(uri)
    experiment = experiment_of(uri, settings.dataset)
    end_leftovers(uri, experiment, key)
    with tracking_errors(uri):
        run = server.create_run(
            experiment,
            run_name=snapshot.run_name(settings.dataset),
            tags={
                KEY_TAG: key,
                SNAPSHOT_TAG: snapshot.digest,
                "denograd.dataset": settings.dataset,
                "denograd.flow_run": str(flow_run.get_id()),
                **({EVENT_TAG: event} if event else {}),
                **({START_TAG: champion.name} if champion else {}),
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
                trained = assess_tracked(server, run_id, frame, settings, version, Path(folder))
            else:
                trained = train_tracked(server, experiment, run_id, frame, settings, champion, Path(folder))
            load_posterior(trained, "cpu") if trained.posterior else require_weights(trained)
            server.set_terminated(run_id, "FINISHED")
    except BaseException:
        with suppress(ServiceError), impatient(), tracking_errors(uri):
            server.set_terminated(run_id, "FAILED")
        raise
    return trained
