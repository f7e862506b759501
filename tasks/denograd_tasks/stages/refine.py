"""Refine the snapshot with the frozen model, or what is new in it, and stage the result."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from denograd_tasks.append import Arrivals, ends, manifest_of, steps_to_settle, surroundings
from denograd_tasks.appending import FAULTS_FILE, ROWS_FILE, STD_FILE, Made, put_together, with_columns_counted
from denograd_tasks.content import content_digest
from denograd_tasks.fidelity_gates import acceptable
from denograd_tasks.keys import stage
from denograd_tasks.models import load_backbone
from denograd_tasks.posteriors import load_posterior
from denograd_tasks.progress import listener
from denograd_tasks.records import Refined, Snapshot, TrainedBackbone
from denograd_tasks.roles import refining_of, std_name
from denograd_tasks.rule import AUTO, OF_POSTERIORS, chosen_rule
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_table, read_table, to_frame, with_columns, with_refined

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.descent import Progress
    from denograd_engine.frames import Encoder
    from denograd_engine.posterior.model import Posterior
    from denograd_engine.summary import Totals
    from denograd_engine.training import Backbone

NAMESPACE = UUID("5f2f6f0e-5a0c-4f3e-9d0a-0d6e6f677261")


def _determinants(given: dict[str, Any]) -> dict[str, Any]:
    settings: Settings = given["settings"]
    chosen = chosen_rule(settings)
    refine = settings.refine.model_dump(mode="json", exclude=None if chosen.posterior else set(OF_POSTERIORS))
    if chosen.posterior:  # the model holds the rest
        refine = {name: refine[name] for name in (*OF_POSTERIORS, "strength")}
    if settings.refine.strength == AUTO:
        refine["gates"] = settings.gates.model_dump(mode="json")
    return {
        "snapshot": given["snapshot"].digest,
        **({} if given["snapshot"].parent is None else {"parent": given["snapshot"].parent.digest}),
        "backbone": given["backbone"].digest,
        **settings.model_dump(mode="json", include={"dataset", "device"}),
        "refine": refine | {"rule": chosen.rule},
        "root": settings.publish.root,
    }


@dataclass(frozen=True)
class _Result:
    """What a rule made of the table, and at which strength; of a posterior model, also the std of each cell, which are
    faulty, and a few facts by column.
    """

    frame: pd.DataFrame
    refined: list[str]
    rows: pd.DataFrame
    totals: Totals
    strength: float
    std: pd.DataFrame | None = None
    faults: pd.DataFrame | None = None
    columns: dict[str, dict[str, float]] = field(default_factory=dict)


@stage(_determinants)
def refine(snapshot: Snapshot, backbone: TrainedBackbone, settings: Settings) -> Refined:
    """Move the rows towards what the model has understood; the outcome is staged, not published.

    Raises:
        StoreError: If snapshot or model are gone or damaged.
    """
    store = open_store(settings.publish.root)
    table = read_table(store, snapshot.files[0].path)
    frame = to_frame(table)
    model: Any = (load_posterior if backbone.posterior else load_backbone)(backbone, settings.device)
    schema, work = model.encoder.schema, _by_posterior if backbone.posterior else _by_steps
    steps = steps_to_settle(schema, model.lags if backbone.posterior else None)
    appended = None
    if snapshot.parent is None:
        made = _made(table, work(frame, model, settings, settings.refine.strength), settings)
    else:
        parent = manifest_of(store, settings.dataset, snapshot.parent)
        arrivals = Arrivals.of(parent, table, settings, schema, steps)
        chosen = surroundings(frame, schema, arrivals.fresh, steps)
        now = None
        if len(chosen):
            strength = parent.content["refinement"]["strength"]
            now = _made(table.take(chosen), work(frame.iloc[chosen], model, settings, strength), settings)
        made = put_together(store, parent, table, arrivals, chosen, now)
        if backbone.posterior:
            made = with_columns_counted(made, table, settings)
        appended = arrivals.counted(parent.number)
    digest, beside = content_digest(made.data), made.beside.items()
    named = " ".join([snapshot.digest, backbone.digest, digest, *(content_digest(one) for _, one in beside)])
    attempt = str(uuid.uuid5(NAMESPACE, named))
    return Refined(
        root=settings.publish.root,
        files=(
            put_table(store, made.data, f"{settings.dataset}/data/{attempt}/part-00000.parquet"),
            *(put_table(store, one, f"{settings.dataset}/evidence/{attempt}/{name}") for name, one in beside),
        ),
        attempt=attempt,
        digest=digest,
        totals=made.totals,
        columns=made.columns,
        strength=made.strength,
        strength_chosen=settings.refine.strength == AUTO and appended is None,
        appended=appended,
        unsettled=ends(frame, schema, steps),
    )


def _made(table: pa.Table, result: _Result, settings: Settings) -> Made:
    """The tables of a result, and what they come to."""
    refined = with_refined(table, result.frame, result.refined)
    beside = {ROWS_FILE: pa.Table.from_pandas(result.rows.reset_index(drop=True), preserve_index=False)}
    if result.std is not None:
        if settings.refine.uncertainty:
            refined = with_columns(refined, {std_name(str(name)): result.std[name] for name in result.std})
        else:
            std = result.std.astype("float32").reset_index(drop=True)
            beside[STD_FILE] = pa.Table.from_pandas(std, preserve_index=False)
    if result.faults is not None:
        beside[FAULTS_FILE] = pa.Table.from_pandas(result.faults.reset_index(drop=True), preserve_index=False)
    return Made(refined, beside, asdict(result.totals), result.columns, result.strength)


def _by_steps(frame: pd.DataFrame, fitted: Backbone, settings: Settings, asked: float | str) -> _Result:
    from denograd_engine.refinement import refine as refine_frame
    from denograd_engine.strength import weakened

    with _Progress() as progress:

        def tell(now: Progress) -> None:
            progress(now.share, f"{now.active:,} of {now.items:,} outside the gate")

        result = refine_frame(frame, fitted, refining_of(settings), on_progress=tell)
        strength = _strength(frame, result.frame, fitted.encoder, settings, asked)
        result = weakened(frame, result, fitted, strength, settings.device)
    return _Result(result.frame, fitted.encoder.schema.refined, result.rows, result.totals, strength)


def _by_posterior(frame: pd.DataFrame, model: Posterior, settings: Settings, asked: float | str) -> _Result:
    from denograd_engine.posterior.refining import clean
    from denograd_engine.strength import at_strength

    seed = model.fit.seed if settings.refine.draw else None
    with _Progress() as progress:

        def tell(share: float) -> None:
            progress(share, f"{share:.0%} of the rows refined")

        result = clean(frame, model, settings.device, seed, tell)
        strength = _strength(frame, result.frame, model.encoder, settings, asked)
        if strength < 1:
            weaker = at_strength(frame, result.frame, model.encoder.schema, strength)
            result = replace(clean(frame, model, settings.device, seed, strength=strength), frame=weaker)
    columns = result.columns
    if settings.refine.draw:  # a draw is as far from the observed as noise is, in the mean
        columns = columns.assign(expected=strength * columns["noise"])
    by_column = {
        str(name): {str(what): float(value) for what, value in one.items()} for name, one in columns.iterrows()
    }
    std, faults = (result.std, result.faults) if by_column else (None, None)
    return _Result(result.frame, list(model.refined), result.rows, result.totals, strength, std, faults, by_column)


def _strength(
    observed: pd.DataFrame, refined: pd.DataFrame, encoder: Encoder, settings: Settings, asked: float | str
) -> float:
    """The share of the way that the cells go."""
    from denograd_engine.strength import choose_strength

    if isinstance(asked, float):
        return asked
    return choose_strength(observed, refined, encoder, lambda fidelity: acceptable(fidelity, settings))


class _Progress:
    """Passes progress on to whoever watches, and to a Prefect progress artifact at most once a second."""

    def __init__(self) -> None:
        self.artifact: Any = None
        self.told = 0.0

    def __enter__(self) -> _Progress:
        from prefect.artifacts import create_progress_artifact

        self.artifact = create_progress_artifact(progress=0.0, key="refinement", description="Share of the work done")
        return self

    def __call__(self, share: float, text: str) -> None:
        listener().advanced("refine", share, text)
        if time.monotonic() - self.told > 1.0:
            self._update(share)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._update(1.0)

    def _update(self, share: float) -> None:
        from prefect.artifacts import update_progress_artifact

        update_progress_artifact(self.artifact, progress=100 * share)
        self.told = time.monotonic()
