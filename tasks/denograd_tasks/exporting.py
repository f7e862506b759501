"""Published tables for readers outside: CSV, Arrow or Delta, a block of rows at a time.

Whatever is written stands under its name whole or not at all: it is made beside it and moved into place. Categories
come as the text that they stand for.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from denograd_engine.errors import ConfigError, DataError
from denograd_tasks.audit.files import require_intact
from denograd_tasks.records import File
from denograd_tasks.removals import require_tables
from denograd_tasks.store import Store
from denograd_tasks.versions import Manifest

Format = Literal["csv", "arrow", "delta"]
BATCH = 1 << 16
"""Rows that are in memory at a time, or a few times so many."""
SIGNED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
}
"""What Delta, which knows no unsigned numbers, holds them as."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        dataset: The data set.
        version: Of it.
        format: `csv`, `arrow` or `delta`.
        path: The file, or the folder of the Delta table.
        rows: Their number.
        columns: Names, in their order.
        delta_version: The version of the Delta table; None of other formats.
    """

    dataset: str
    version: int
    format: Format
    path: str
    rows: int
    columns: tuple[str, ...]
    delta_version: int | None = None


def export(
    store: Store,
    manifest: Manifest,
    to: Format,
    output: Path,
    columns: Sequence[str] = (),
    force: bool = False,
    tell: Callable[[int], None] = lambda rows: None,
) -> Exported:
    """Write a version where others can read it.

    Args:
        store: The publishing root.
        manifest: Of the version.
        to: The format.
        output: The file, or the folder of a Delta table. One that an earlier export of the data set made gets a new
            version, which keeps its history.
        columns: Only these, in this order; all of them if there are none.
        force: Whether what is in this place may be replaced.
        tell: Called with the number of rows written so far.

    Raises:
        ConfigError: If something is in the place already, or a column is not there.
        DataError: If the format has no place for what a column holds.
        StoreError: If the published files are gone or damaged, or retention removed them.
    """
    if not output.parent.is_dir():
        raise ConfigError("there is no such folder", where=str(output.parent), remedy="make it, or choose another")
    require_tables(store, manifest)
    files = [File(**{name: one[name] for name in File.model_fields}) for one in manifest.content["files"]]
    whose = f"{manifest.dataset}@{manifest.number}"
    require_intact(store, files, whose, f"see what else is with: denograd verify {whose}")
    stored = _schema(store, files[0])
    names = tuple(columns or stored.names)
    _require_columns(manifest, names, stored)
    schema = pa.schema([pa.field(name, _type(stored.field(name), to)) for name in names])
    batches = _batches(store, files, schema, tell)
    version = None
    if to == "delta":
        from denograd_tasks.delta import write_delta

        version = write_delta(output, schema, batches, manifest, force)
    else:
        _write_file(output, schema, batches, to, force)
    rows = sum(file["rows"] for file in manifest.content["files"])
    return Exported(manifest.dataset, manifest.number, to, str(output), rows, names, version)


@contextmanager
def in_place_of(output: Path) -> Iterator[Path]:
    """A path beside the output, to be written to, which takes its place at the end of the block.

    What killed exports left beside it goes.
    """
    for left in output.parent.glob(f".{glob.escape(output.name)}.*.part"):
        process = left.name.rsplit(".", 2)[1]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            _remove(left)
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(output)
    finally:
        _remove(partial)


def taken(output: Path, found: str) -> ConfigError:
    """The error of a place where something is already."""
    return ConfigError(
        "something is in the place of the export", found=found, where=str(output), remedy="choose another --output"
    )


def _write_file(output: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], to: Format, force: bool) -> None:
    if output.exists() and (output.is_dir() or not force):
        raise taken(output, "a folder" if output.is_dir() else "a file, which --force would replace")
    with in_place_of(output) as partial:
        open_writer = pa.csv.CSVWriter if to == "csv" else pa.ipc.new_file
        with open_writer(str(partial), schema) as writer:
            for batch in batches:
                writer.write_batch(batch)


def _batches(
    store: Store, files: Sequence[File], schema: pa.Schema, tell: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    """The rows in order, with these columns as these types."""
    rows = 0
    for file in files:
        with store.opened(file.path) as stream, pq.ParquetFile(stream) as table:
            for group in range(table.num_row_groups):  # one by one: what is read ahead would else be the whole file
                for batch in table.iter_batches(BATCH, row_groups=[group], columns=schema.names):
                    yield _cast(batch.select(schema.names), schema)
                    rows += batch.num_rows
                    tell(rows)


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for field, column in zip(schema, batch.columns, strict=True):
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid:
            raise DataError(
                f"column {field.name!r} holds more than the format has a place for",
                expected=f"values that fit {field.type}",
                found=str(column.type),
                remedy="leave it out with --columns, or choose another format",
            ) from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _type(field: pa.Field, to: Format) -> pa.DataType:
    """The type as which the format holds a column."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    unfit = {
        "csv": pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind),
        "arrow": False,
        "delta": pa.types.is_time(kind) or pa.types.is_duration(kind),
    }
    if unfit[to]:
        raise DataError(
            f"column {field.name!r} has a type that {to} has no place for",
            found=str(kind),
            remedy="leave it out with --columns, or choose another format",
        )
    if to != "delta":
        return kind
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.float32() if pa.types.is_float16(kind) else SIGNED.get(kind, kind)


def _schema(store: Store, file: File) -> pa.Schema:
    with store.opened(file.path) as stream:
        return pq.read_schema(stream)


def _require_columns(manifest: Manifest, names: Sequence[str], stored: pa.Schema) -> None:
    for name in names:
        if name not in stored.names or names.count(name) > 1:
            near = get_close_matches(name, stored.names, n=1)
            raise ConfigError(
                f"{manifest.dataset}@{manifest.number} has no column {name!r}"
                if name not in stored.names
                else f"column {name!r} is named twice",
                where="--columns",
                remedy=f"did you mean {near[0]!r}?" if near and near[0] != name else None,
            )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
