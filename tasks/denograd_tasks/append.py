"""Mode `append`: only what arrived since the last version is refined, by the model of that version.

A row is known by `columns.key`, a step of a series by its entities and its time. Its cells are refined once, from what
was observed of it and around it, and stay as they were published, with these exceptions:

- A row whose source now says something else, in a column that the model reads, is refined anew. Its ignored columns
  are taken from the source in any case.
- The last steps of each series have not settled: they are refined once more when steps of the same series come after
  them, until so many have come as the model looks ahead (see `steps_to_settle`).

Late rows are put in their place and refined; what is around them stays. A row that the source no longer holds is kept:
the source may hold the new part alone. Mode `full` makes a version of what the source holds, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from denograd_engine.errors import ConfigError
from denograd_tasks.growth import Appended, Parent, Unsettled
from denograd_tasks.models import SCALING
from denograd_tasks.records import Architecture, File, Snapshot, TrainedBackbone
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store, open_store
from denograd_tasks.tables import read_table, to_frame
from denograd_tasks.union import ABSENT, RENEW, aligned, differing, plain, positions, united
from denograd_tasks.versions import Manifest, newest, read_same

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.schema import Schema

COMPANY = 4096
"""Rows of a table, evenly spaced, that are refined along with new ones, for step lengths as they are in all of it."""
SURROUNDINGS = 2048
"""Steps of a series on either side that new ones are refined among, at least."""
DETERMINING = ("columns", "series", "backbone", "refine")
"""Sections of the configuration that the cells of a version depend on."""


def parent_of(settings: Settings) -> Parent | None:
    """The version that a run appends to; None where it refines all rows.

    Raises:
        ConfigError: If the configuration asks for cells that do not go with those of that version.
    """
    if settings.mode != "append":
        return None
    found = newest(open_store(settings.publish.root), settings.dataset)
    if found is None:
        return None
    changed = _changed(settings, found)
    if settings.model not in (None, found.content["settings"].get("model")):
        changed = ["model"]
    if changed:
        raise ConfigError(
            f"{changed[0]}: a version is appended to with the model and the settings that it was made with",
            expected=f"the settings of {found.dataset}@{found.number}",
            found="others: " + ", ".join(changed[:5]),
            where="mode: append",
            remedy=f"bring them back, or {RENEW}",
        )
    return Parent(number=found.number, digest=found.digest)


def manifest_of(store: Store, dataset: str, parent: Parent) -> Manifest:
    """The manifest of the parent.

    Raises:
        StoreError: If it is gone, or not the same any more.
    """
    return read_same(store, dataset, parent.number, parent.digest, "this run began")


def joined(settings: Settings, parent: Parent, arrived: pa.Table) -> pa.Table:
    """What was observed of all rows: of the parent's, and of those that arrived.

    Raises:
        SchemaError: If the columns or their types have changed.
        DataError: If the rows cannot be told apart.
    """
    store = open_store(settings.publish.root)
    before = read_table(store, _source_of(manifest_of(store, settings.dataset, parent)))
    arrived = aligned(arrived, before.schema, settings.source)
    return united(before, arrived, key_of(settings), _key_setting(settings), settings.series is not None)


def key_of(settings: Settings) -> tuple[str, ...]:
    """The columns that tell the rows apart."""
    series = settings.series
    return settings.columns.key if series is None else (*series.entity, series.time)


def continued(snapshot: Snapshot, settings: Settings, run_id: str) -> TrainedBackbone:
    """The parent's model, as it is in the publishing root."""
    assert snapshot.parent is not None
    return model_of(manifest_of(open_store(settings.publish.root), settings.dataset, snapshot.parent), settings, run_id)


def model_of(manifest: Manifest, settings: Settings, run_id: str) -> TrainedBackbone:
    """The model of a version, as it is in the publishing root."""
    model = manifest.content["model"]
    return TrainedBackbone(
        root=settings.publish.root,
        files=tuple(File(**file) for file in model["files"]),
        architecture=Architecture(**model["architecture"]),
        model_uri=model["uri"],
        run_id=run_id,
        tracking_uri=settings.tracking.uri,
        digest=model["digest"],
        skill=model["skill"],
        residual_scale=model["residual_scale"],
        history=(),
        adopted=True,
        columns=model["columns"],
    )


def steps_to_settle(schema: Schema, lags: Sequence[int] | None) -> int:
    """Steps that must come after one before it is refined for the last time; 0 in tables.

    Of a posterior model, as far as its near context reaches, counted from where noise that hangs together ends:
    distant, seasonal lags are not waited for. Of a network, the windows that show or predict the step:
    `window + future - 1`.

    Args:
        schema: Of the model.
        lags: Of a posterior model's context; None for a network.

    >>> from denograd_engine.schema import Schema, Series
    >>> hourly = Schema((), Series("time", window=24))
    >>> steps_to_settle(hourly, None), steps_to_settle(hourly, [-24, -2, -1, 0, 1, 2, 24])
    (24, 2)
    >>> from denograd_engine.columns import Column, Role
    >>> drifting = Schema((Column("level", Role.FEATURE, noise_correlation=3),), Series("time"))
    >>> steps_to_settle(drifting, [-5, -4, -2, -1, 0, 1, 2, 4, 5, 24])
    5
    """
    if schema.series is None:
        return 0
    if lags is None:
        return schema.series.span - 1
    near = next(ahead - 1 for ahead in range(1, len(lags) + 1) if ahead not in lags)
    correlation = max((column.noise_correlation for column in schema.columns), default=0)
    return max(lag for lag in lags if lag <= correlation + near)


def unsettled(frame: pd.DataFrame, schema: Schema, steps: int) -> NDArray[np.bool_]:
    """Rows that have fewer than so many after them in their own series, shape (rows,)."""
    found = np.zeros(len(frame), dtype=bool)
    if schema.series is not None:
        found[:] = _series_of(frame, schema).groupby(level=0).cumcount(ascending=False) < steps
    return found


def ends(frame: pd.DataFrame, schema: Schema, steps: int) -> Unsettled | None:
    """The steps at the ends of series, in numbers; None in tables."""
    if schema.series is None:
        return None
    return Unsettled(steps=steps, rows=int(unsettled(frame, schema, steps).sum()))


@dataclass(frozen=True)
class Arrivals:
    """Which rows of the union are refined, each of shape (rows,), and where the others are in the parent.

    Attributes:
        place: In the parent; `ABSENT` for those that it has not.
        corrected: Rows that the source corrects.
        revisited: Others that have to be refined once more.
        settled: Those of them that have settled.
    """

    place: NDArray[np.int64]
    corrected: NDArray[np.bool_]
    revisited: NDArray[np.bool_]
    settled: NDArray[np.bool_]

    @classmethod
    def of(cls, manifest: Manifest, union: pa.Table, settings: Settings, schema: Schema, steps: int) -> Arrivals:
        """Compare the union with what the parent was made from."""
        before = read_table(open_store(settings.publish.root), _source_of(manifest))
        place = positions(union, before, key_of(settings), _key_setting(settings))
        known = np.flatnonzero(place != ABSENT)
        read = [one["name"] for one in manifest.content["schema"] if one["role"] in ("feature", "target", "frozen")]
        corrected, revisited, settled = (np.zeros(len(union), dtype=bool) for _ in range(3))
        corrected[known] = differing(before.take(place[known]), union.take(known), read)
        if schema.series is not None:
            names = [*schema.series.entity, schema.series.time]
            frame, old = to_frame(plain(union, names)), to_frame(plain(before, names))
            group = _series_of(frame, schema).index
            revisited[known] = unsettled(old, schema, steps)[place[known]]
            revisited &= np.isin(group, group[place == ABSENT]) & ~corrected
            settled = revisited & ~unsettled(frame, schema, steps)
        return cls(place, corrected, revisited, settled)

    @property
    def added(self) -> NDArray[np.bool_]:
        return np.equal(self.place, ABSENT)

    @property
    def fresh(self) -> NDArray[np.bool_]:
        """All that are refined."""
        return self.added | self.corrected | self.revisited

    def counted(self, parent: int) -> Appended:
        """In numbers."""
        return Appended(
            parent=parent,
            added=int(self.added.sum()),
            corrected=int(self.corrected.sum()),
            revisited=int(self.revisited.sum()),
            settled=int(self.settled.sum()),
        )


def surroundings(frame: pd.DataFrame, schema: Schema, fresh: NDArray[np.bool_], steps: int) -> NDArray[np.int64]:
    """Rows that fresh ones are refined among, they included, ascending."""
    if not fresh.any():
        return np.empty(0, dtype=np.int64)
    if schema.series is None:
        others = np.flatnonzero(~fresh)
        others = others[:: max(1, len(others) // COMPANY)]
        return np.union1d(others, np.flatnonzero(fresh))
    from denograd_engine.windows import lay_out

    layout, around = lay_out(frame, schema.series), max(SURROUNDINGS, 4 * steps)
    kept = np.zeros(len(frame), dtype=bool)
    first, longest = 0, 0
    for run in layout.runs:
        at = first + np.flatnonzero(fresh[layout.order[first : first + run]])
        if len(at):
            begin, end = max(first, at[0] - around), min(first + run, at[-1] + around + 1)
            kept[layout.order[begin:end]] = True
            longest = max(longest, end - begin)
        first += run
    return np.flatnonzero(kept) if longest >= schema.series.span else np.arange(len(frame))


def schema_of_model(store: Store, backbone: TrainedBackbone) -> Schema:
    """The roles of the columns, as the model knows them."""
    from denograd_engine.frames import Encoder

    return Encoder.from_dict(json.loads(store.read(backbone.file(SCALING).path))).schema


def _changed(settings: Settings, parent: Manifest) -> list[str]:
    """Settings that the parent was made with otherwise; what it says nothing of had its default."""
    now, then = settings.public(), parent.content["settings"]
    found = []
    for section in DETERMINING:
        if (now.get(section) is None) != (then.get(section) is None):
            found.append(section)
        elif now.get(section) is not None:
            one, other = (_complete(section, plain[section]) for plain in (now, then))
            found += [f"{section}.{name}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return [name for name in found if name != "columns.key"]


def _complete(section: str, given: dict[str, Any]) -> dict[str, Any]:
    """A section of the configuration with its defaults; one that this release cannot read stays as it is."""
    kind = Settings.model_fields[section].annotation
    model = next(one for one in (kind, *getattr(kind, "__args__", ())) if hasattr(one, "model_validate"))
    complete: dict[str, Any] = given
    with suppress(ValidationError):
        complete = model.model_validate(given).model_dump(mode="json")
    return complete


def _source_of(manifest: Manifest) -> str:
    return str(manifest.content["source"]["files"][0]["path"])


def _key_setting(settings: Settings) -> str:
    return "columns.key" if settings.series is None else "series"


def _series_of(frame: pd.DataFrame, schema: Schema) -> pd.Series[Any]:
    """Something for each row, whose index is the number of the series that it belongs to."""
    import pandas as pd

    assert schema.series is not None
    entity = list(schema.series.entity)
    number = frame.groupby(entity, sort=False, dropna=False).ngroup().to_numpy() if entity else np.zeros(len(frame))
    return pd.Series(0, index=number)
