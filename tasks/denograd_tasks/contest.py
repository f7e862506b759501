"""Who is champion: the alias of a registered model moves to a new one only if that is worth at least as much.

Both are measured on rows that neither has seen: held out from the training of the new model, and not in the snapshot
that the champion learnt. Where too few rows are known to be so, or where the model is cross-fitted, see `_measured`.
What counts is the mean skill over the targets, and of posterior models over the columns with noise: the share of the
variance that is explained without the cell itself. It is measured against the same observed cells for both, whereas
the noise that is left is an estimate which each model makes of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from denograd_engine.errors import ConfigError, DenogradError, ServiceError
from denograd_tasks.adoption import ModelVersion, adopt_posterior, fetch_backbone, find_version
from denograd_tasks.champion import Contest, Start
from denograd_tasks.kinds import REGISTERED
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tracking import client, tracking_errors
from denograd_tasks.unseen import new_rows, unseen_rows

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from numpy.typing import NDArray

    from denograd_engine.posterior.model import Posterior
    from denograd_engine.training import Backbone
    from denograd_engine.unseen import Worth

ALIAS = "champion"
FEWEST = 50
"""New rows on which models are compared, at least."""
SNAPSHOT_TAG = "denograd.snapshot"
EVENT_TAG = "denograd.event"
"""Of a run that answered a drift: the id of the event."""
START_TAG = "denograd.start"
"""Of such a run: the version that training was to go on from."""


@dataclass(frozen=True)
class Champion:
    """The registered version that has the alias.

    Attributes:
        version: Which one; its files are those in the publishing root, if they are there.
        snapshot: Digest of the snapshot that it learnt; None if its run does not say so.
        event: Of the drift that its training answered; None if there was none.
        start: The version that its training was to go on from, likewise.
    """

    version: ModelVersion
    snapshot: str | None
    event: str | None = None
    start: str | None = None

    @property
    def name(self) -> str:
        """Such as readings/3."""
        return self.version.uri.removeprefix(REGISTERED)

    @property
    def determinants(self) -> list[str | None]:
        """What of it determines a training that goes on from it."""
        return [self.version.digest or self.version.source, self.snapshot]

    def begun(self, reason: str | None) -> Start:
        """As the beginning of a training."""
        return Start(model=self.name, digest=self.version.digest, snapshot=self.snapshot, reason=reason)


def champion_of(settings: Settings) -> Champion | None:
    """The champion of a data set; None before the first.

    Raises:
        ServiceError: If the tracking server or the publishing root does not answer.
    """
    return _found(settings, f"{REGISTERED}{settings.dataset}@{ALIAS}")


def drift_event() -> str | None:
    """Id of the event of drift that the flow run answers; None if something else started it."""
    from prefect.runtime import flow_run

    event = flow_run.get_parameters().get("event")
    return None if event is None else str(event)


def start_of(settings: Settings) -> Champion | None:
    """What the training of this flow run goes on from: the champion where it answers a drift, and nothing otherwise.

    So a run on a schedule makes the same model of the same data whatever was trained before. A run that was interrupted
    after its own model became champion goes on from the one before.

    Raises:
        ServiceError: If the tracking server or the publishing root does not answer.
    """
    event = drift_event()
    champion = None if event is None else champion_of(settings)
    if champion is None or champion.event != event:
        return champion
    return None if champion.start is None else _found(settings, f"{REGISTERED}{champion.start}")


def contend(
    server: MlflowClient,
    run_id: str,
    frame: pd.DataFrame,
    model: Backbone | Posterior,
    version: str,
    settings: Settings,
    start: Start | None,
    folder: Path,
) -> Contest | None:
    """Give the alias to a model that was just trained, unless the champion is worth more.

    Args:
        server: Where both are registered.
        run_id: The run of the training, which is told.
        frame: The observed data.
        model: The new one.
        version: Its number.
        settings: The configuration.
        start: Where its training began.
        folder: For the champion's files, to be made.

    Returns:
        None where there was no champion.

    Raises:
        ServiceError: If the tracking server or the publishing root does not answer.
    """
    champion = champion_of(settings)
    contest = None
    if champion is not None:
        folder.mkdir()
        contest = _contest(frame, model, f"{settings.dataset}/{version}", champion, settings, start, folder)
        server.set_tag(run_id, "denograd.champion", contest.words())
        if contest.skill is not None and contest.champion_skill is not None:
            server.log_metric(run_id, "contest/skill", contest.skill)
            server.log_metric(run_id, "contest/champion_skill", contest.champion_skill)
            server.log_metric(run_id, "contest/rows", contest.rows)
    if contest is None or contest.won:
        server.set_registered_model_alias(settings.dataset, ALIAS, version)
    return contest


def _found(settings: Settings, kind: str) -> Champion | None:
    from mlflow.exceptions import MlflowException

    version = None
    with suppress(ConfigError):  # there is none of this name
        version = find_version(settings.tracking.uri, kind)
    if version is None:
        return None
    tags: dict[str, str] = {}
    if version.run_id is not None:
        server = client(settings.tracking.uri)
        with tracking_errors(settings.tracking.uri), suppress(MlflowException):  # a run that is gone says nothing
            tags = server.get_run(version.run_id).data.tags
    if version.digest is not None:
        kept = tuple(open_store(settings.publish.root).list(f"{settings.dataset}/models/{version.digest}"))
        version = replace(version, root=settings.publish.root, files=kept) if kept else version
    return Champion(version, *(tags.get(tag) for tag in (SNAPSHOT_TAG, EVENT_TAG, START_TAG)))


def _contest(
    frame: pd.DataFrame,
    model: Backbone | Posterior,
    name: str,
    champion: Champion,
    settings: Settings,
    start: Start | None,
    folder: Path,
) -> Contest:
    try:
        other = _fetched(frame, model, champion, settings, folder)
        new = new_rows(frame, model.encoder.schema, settings, champion.snapshot)
        worth, rival, only_new = _measured(frame, model, other, settings, start, new)
        common = [one for one in worth.skill if one in rival.skill]
        skill, other_skill = (sum(one.skill[name] for name in common) / max(1, len(common)) for one in (worth, rival))
        if not common or not math.isfinite(skill + other_skill):
            raise ConfigError("there is nothing that both can be measured by")
    except ServiceError:
        raise
    except DenogradError as error:
        return Contest(model=name, champion=champion.name, reason=error.problem)
    return Contest(
        model=name, champion=champion.name, skill=skill, champion_skill=other_skill, rows=worth.rows, new=only_new
    )


def _fetched(
    frame: pd.DataFrame, model: Backbone | Posterior, champion: Champion, settings: Settings, folder: Path
) -> Backbone | Posterior:
    """The champion, if it is of the same kind as the model and of the same columns; no code of others is run."""
    from denograd_engine.frames import Encoder
    from denograd_engine.training import Backbone

    uri, schema = settings.tracking.uri, model.encoder.schema
    if not isinstance(model, Backbone):
        return adopt_posterior(uri, champion.version, folder, schema)
    adopted = fetch_backbone(uri, champion.version, folder, schema, settings.backbone.kind)
    encoder = adopted.encoder or Encoder.fit(frame, schema)
    if encoder.classes != model.encoder.classes:
        raise ConfigError(f"the model {champion.version.uri} knows other classes")
    return Backbone(adopted.module, encoder, {}, math.nan)


def _measured(
    frame: pd.DataFrame,
    model: Backbone | Posterior,
    other: Backbone | Posterior,
    settings: Settings,
    start: Start | None,
    new: NDArray[np.bool_] | None,
) -> tuple[Worth, Worth, bool]:
    """What both are worth on the same rows, and whether all of these are new to the champion.

    Where fewer than `FEWEST` are, they are all rows that the new model has not seen. A cross-fitted model has seen none
    of them, as each is judged by the network that was fitted without it.
    """
    from denograd_engine.training import Backbone
    from denograd_engine.unseen import worth, worth_blind

    judge: Callable[[Any, NDArray[np.bool_]], Worth]
    unseen = np.ones(len(frame), dtype=bool)
    if isinstance(model, Backbone):
        judge = partial(worth, frame)
        if len(model.networks) == 1:
            held_out = unseen_rows(frame, model.encoder, settings, start)
            unseen = unseen if held_out is None else held_out
    else:
        judge = partial(worth_blind, frame)
    if new is not None:
        found = judge(model, unseen & new)
        if found.rows >= FEWEST:
            return found, judge(other, unseen & new), True
    return judge(model, unseen), judge(other, unseen), False
