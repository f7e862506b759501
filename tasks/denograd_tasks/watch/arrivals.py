"""What arrived in a source since the last look.

Rows of a table are told by their place: a file that begins with what was read of it has grown, and its other rows are
new. If a file was replaced or is gone, everything is new. Steps of a series are told by their time: new is what comes
after the last one that was read of its entity; what arrives late is passed over.

The first look after a version was published starts where that version ended: in mode `append`, rows of a table that it
has are told by their key.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from denograd_engine.errors import TimeAxisError
from denograd_engine.schema import Schema, Series
from denograd_tasks.append import key_of, surroundings, unsettled
from denograd_tasks.content import content_digest
from denograd_tasks.sources import open_source, source_files, unreadable
from denograd_tasks.tables import read_table, to_frame
from denograd_tasks.union import ABSENT, positions
from denograd_tasks.watch.bookmark import FileRead, Read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_tasks.settings import Settings
    from denograd_tasks.store import Store
    from denograd_tasks.versions import Manifest


@dataclass(frozen=True)
class Arrived:
    """New rows.

    Attributes:
        frame: These rows, and in a series those around them; without columns where no file has changed.
        new: Which of them are new, shape (rows,).
        read: What has been read now.
    """

    frame: pd.DataFrame
    new: NDArray[np.bool_]
    read: Read


def arrived(
    store: Store, manifest: Manifest, settings: Settings, schema: Schema, read: Read | None, steps: int | None
) -> Arrived:
    """Find them.

    Args:
        store: The publishing root.
        manifest: The version that is the reference.
        settings: The configuration.
        schema: The roles of the columns, as the model knows them.
        read: What had been read after the last look; None at the first.
        steps: That must come after a step of a series before it is looked at, for the model's sake; None if the model
            is not asked.

    Raises:
        DataError: If the source is absent, unreadable, or its rows cannot be told apart.
    """
    now = {str(file): _as_it_is(file) for file in source_files(settings.source)}
    if read is not None and now == {path: _on_disk(one) for path, one in read.files.items()}:
        return Arrived(pd.DataFrame(), np.empty(0, dtype=bool), read)
    series = schema.series
    if series is not None:
        ends = _ends(to_frame(_snapshot(store, manifest)), series) if read is None else read.ends
        return _steps(settings, schema, series, now, ends, steps)
    tables = _Tables(settings.source)
    if read is None:
        return tables.whole(now, _new_at_first(store, manifest, settings, tables.table))
    return tables.grown(now, read) or tables.whole(now, None)


def _snapshot(store: Store, manifest: Manifest) -> pa.Table:
    return read_table(store, manifest.content["source"]["files"][0]["path"])


class _Tables:
    """The files of a source."""

    def __init__(self, source: str) -> None:
        self.source, self.dataset = source, open_source(source)
        self.fragments = {str(one.path): one for one in self.dataset.get_fragments()}

    def of(self, path: str) -> pa.Table:
        schema = self.dataset.schema
        try:
            return self.fragments[path].to_table(schema=schema)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.source, error, schema) from None

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables([self.of(path) for path in self.fragments])

    def whole(self, now: dict[str, FileRead], new: NDArray[np.bool_] | None) -> Arrived:
        """All of it, and which rows of that are new: None is all."""
        tables = {path: self.of(path) for path in now}
        read = Read(files={path: _with_rows(now[path], table) for path, table in tables.items()})
        table = pa.concat_tables(tables.values())
        if new is not None:
            table = table.filter(pa.array(new))
        return _all_new(table, read)

    def grown(self, now: dict[str, FileRead], read: Read) -> Arrived | None:
        """What was added to the files; None if anything else has become of them."""
        if not set(read.files) <= set(now):
            return None
        files, parts = {}, [self.dataset.schema.empty_table()]
        for path, one in now.items():
            before = read.files.get(path, FileRead(bytes=0, modified=0))
            if one == _on_disk(before):
                files[path] = before
                continue
            table = self.of(path)
            if before.digest and content_digest(table.slice(0, before.rows)) != before.digest:
                return None
            files[path] = _with_rows(one, table)
            parts.append(table.slice(before.rows))
        return _all_new(pa.concat_tables(parts), Read(files=files))


def _new_at_first(store: Store, manifest: Manifest, settings: Settings, table: pa.Table) -> NDArray[np.bool_] | None:
    """Rows that the version has not."""
    if settings.mode == "append":
        place = positions(table, _snapshot(store, manifest), key_of(settings), "columns.key")
        return np.asarray(place == ABSENT)
    known = manifest.content["files"][0]["rows"]
    if content_digest(table.slice(0, known)) != manifest.content["source"]["snapshot"]:
        return None
    return np.asarray(np.arange(len(table)) >= known)


def _steps(
    settings: Settings,
    schema: Schema,
    series: Series,
    files: dict[str, FileRead],
    ends: dict[str, float],
    steps: int | None,
) -> Arrived:
    """The steps of a series that came, and have settled."""
    frame = to_frame(_Tables(settings.source).table)
    entity, names = _entities(frame, series)
    last = np.array([ends.get(name, -np.inf) for name in names])
    new = _ticks(frame[series.time]) > last[entity]
    around = np.flatnonzero(new)
    if steps is not None:
        new &= ~unsettled(frame, schema, steps)
        around = np.flatnonzero(new)
        with suppress(TimeAxisError):  # there is no unbroken run that a model could read
            around = surroundings(frame, schema, new, steps)
    read = Read(files=files, ends=ends | _ends(frame[new], series))
    return Arrived(frame.iloc[around], new[around], read)


def _ends(frame: pd.DataFrame, series: Series) -> dict[str, float]:
    """The last time of each entity."""
    entity, names = _entities(frame, series)
    last = np.full(len(names), -np.inf)
    np.maximum.at(last, entity, _ticks(frame[series.time]))
    return dict(zip(names, last.tolist(), strict=True))


def _entities(frame: pd.DataFrame, series: Series) -> tuple[NDArray[np.integer], list[str]]:
    """The number of each row's entity, and the names of all."""
    columns = list(series.entity)
    if not columns:
        return np.zeros(len(frame), dtype=np.int64), [""]
    number = frame.groupby(columns, sort=False, dropna=False).ngroup().to_numpy(dtype=np.int64)
    _, first = np.unique(number, return_index=True)
    return number, [json.dumps([str(cell) for cell in row]) for row in frame[columns].iloc[first].to_numpy()]


def _ticks(times: pd.Series[Any]) -> NDArray[np.float64]:
    """Nanoseconds, or the time's own number; missing where it is."""
    from pandas.api import types

    if types.is_datetime64_any_dtype(times.dtype):
        since = times.to_numpy("datetime64[ns]")
        return np.where(np.isnat(since), np.nan, since.astype(np.int64).astype(np.float64))
    return times.to_numpy(np.float64, na_value=np.nan)


def _all_new(table: pa.Table, read: Read) -> Arrived:
    return Arrived(to_frame(table), np.ones(len(table), dtype=bool), read)


def _as_it_is(file: Path) -> FileRead:
    stat = file.stat()
    return FileRead(bytes=stat.st_size, modified=stat.st_mtime_ns)


def _on_disk(file: FileRead) -> FileRead:
    """Without what is in it."""
    return file.model_copy(update={"rows": 0, "digest": ""})


def _with_rows(file: FileRead, table: pa.Table) -> FileRead:
    return file.model_copy(update={"rows": len(table), "digest": content_digest(table)})
