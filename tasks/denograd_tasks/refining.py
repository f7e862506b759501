"""What the frozen model makes of a snapshot, or of what is new in it: tables in memory, free of Prefect and MLflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from denograd_tasks.append import Arrivals, ends, manifest_of, steps_to_settle, surroundings
from denograd_tasks.appending import FAULTS_FILE, ROWS_FILE, STD_FILE, Made, put_together, with_columns_counted
from denograd_tasks.fidelity_gates import acceptable
from denograd_tasks.growth import Appended, Unsettled
from denograd_tasks.models import load_backbone
from denograd_tasks.posteriors import load_posterior
from denograd_tasks.records import Snapshot, TrainedBackbone
from denograd_tasks.roles import refining_of, std_name
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import read_table, to_frame, with_columns, with_refined

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.descent import Progress
    from denograd_engine.frames import Encoder
    from denograd_engine.posterior.model import Posterior
    from denograd_engine.summary import Totals
    from denograd_engine.training import Backbone

Tell = Callable[[float, str], None]
"""Told how far the work is, 0 to 1, and in words."""


@dataclass(frozen=True)
class Computed:
    """A refined snapshot.

    Attributes:
        made: Its tables, and what they come to.
        appended: Which rows were refined, where not all were.
        unsettled: Of a series, the steps at its ends.
    """

    made: Made
    appended: Appended | None
    unsettled: Unsettled | None


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


def compute(
    snapshot: Snapshot, backbone: TrainedBackbone, settings: Settings, strength: float | str, tell: Tell
) -> Computed:
    """Refine the snapshot; where it has a parent, only what that has not, and the rest is as it was published.

    Args:
        snapshot: What was observed.
        backbone: The model.
        settings: The configuration.
        strength: Share of the way that cells go, or `auto`; what is appended goes as far as its parent did.
        tell: Told how far it is.

    Raises:
        StoreError: If snapshot, model or parent are gone or damaged.
        ConfigError: If code of the user's that the model needs has changed or is gone, or there is no such device.
    """
    store = open_store(settings.publish.root)
    table = read_table(store, snapshot.files[0].path)
    frame = to_frame(table)
    model: Any = (load_posterior if backbone.posterior else load_backbone)(backbone, settings.device)
    schema, work = model.encoder.schema, _by_posterior if backbone.posterior else _by_steps
    steps = steps_to_settle(schema, model.lags if backbone.posterior else None)
    unsettled = ends(frame, schema, steps)
    if snapshot.parent is None:
        return Computed(_made(table, work(frame, model, settings, strength, tell), settings), None, unsettled)
    parent = manifest_of(store, settings.dataset, snapshot.parent)
    arrivals = Arrivals.of(parent, table, settings, schema, steps)
    chosen = surroundings(frame, schema, arrivals.fresh, steps)
    now = None
    if len(chosen):
        as_before = parent.content["refinement"]["strength"]
        now = _made(table.take(chosen), work(frame.iloc[chosen], model, settings, as_before, tell), settings)
    made = put_together(store, parent, table, arrivals, chosen, now)
    if backbone.posterior:
        made = with_columns_counted(made, table, settings)
    return Computed(made, arrivals.counted(parent.number), unsettled)


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


def _by_steps(frame: pd.DataFrame, fitted: Backbone, settings: Settings, asked: float | str, tell: Tell) -> _Result:
    from denograd_engine.refinement import refine
    from denograd_engine.strength import weakened

    def progress(now: Progress) -> None:
        tell(now.share, f"{now.active:,} of {now.items:,} outside the gate")

    result = refine(frame, fitted, refining_of(settings), on_progress=progress)
    strength = _strength(frame, result.frame, fitted.encoder, settings, asked)
    result = weakened(frame, result, fitted, strength, settings.device)
    return _Result(result.frame, fitted.encoder.schema.refined, result.rows, result.totals, strength)


def _by_posterior(frame: pd.DataFrame, model: Posterior, settings: Settings, asked: float | str, tell: Tell) -> _Result:
    from denograd_engine.posterior.refining import clean
    from denograd_engine.strength import at_strength

    def progress(share: float) -> None:
        tell(share, f"{share:.0%} of the rows refined")

    seed = model.fit.seed if settings.refine.draw else None
    result = clean(frame, model, settings.device, seed, progress)
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
