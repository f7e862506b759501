"""Parquet in the store, and tables for the engine and back. Arrow types are kept."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from denograd_engine.errors import StoreError
from denograd_tasks.content import ContentDigest, content_digest
from denograd_tasks.home import scratch
from denograd_tasks.records import File
from denograd_tasks.store import Store, sha256_of

if TYPE_CHECKING:
    import pandas as pd

ROWS_IN_GROUP = 1 << 17


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> tuple[int, str]:
    """Stream batches into a local Parquet file.

    Returns:
        The number of rows and the digest of the content.
    """
    digest, rows = ContentDigest(schema), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            if batch.num_rows:
                writer.write_batch(batch, row_group_size=ROWS_IN_GROUP)
                digest.update(batch)
                rows += batch.num_rows
    return rows, digest.hexdigest()


def put_table(store: Store, table: pa.Table, path: str) -> File:
    """Write a table to the store as one Parquet file.

    Raises:
        StoreError: If another table is there.
    """
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        return put_file(store, write_table(table, Path(folder) / "part.parquet"), path, content_digest(table))


def write_table(table: pa.Table, path: Path) -> Path:
    """Write a table to a local Parquet file, as `put_table` does, and return its path."""
    pq.write_table(table, path, compression="zstd", row_group_size=ROWS_IN_GROUP)
    return path


def put_file(store: Store, local: Path, path: str, content: str | None = None) -> File:
    """Copy a local file into the store; one that is there already stays, and is described as it is.

    Args:
        store: The publishing root.
        local: The file.
        path: Its place in the store.
        content: Digest of the table in it, which a file that is there already must hold as well: another release
            may have written the same table in other bytes.

    Raises:
        StoreError: If another table is there.
    """
    if store.create(path, local) or store.holds(path, sha256_of(local)):
        return File(path=path, sha256=sha256_of(local), bytes=local.stat().st_size)
    if content is not None:
        _require_content(store, path, content)
    return _as_stored(store, path)


def put_bytes(store: Store, content: bytes, path: str) -> File:
    """Write bytes into the store; what is there already stays, and is described as it is."""
    if store.create(path, content):
        return File(path=path, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    return _as_stored(store, path)


def _as_stored(store: Store, path: str) -> File:
    raw = store.read(path)
    return File(path=path, sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw))


def _require_content(store: Store, path: str, digest: str) -> None:
    try:
        found = content_digest(read_table(store, path))
    except (pa.ArrowException, OSError):
        found = None
    if found != digest:
        raise StoreError(
            "a stored object is damaged",
            expected=f"a table with the digest {digest}",
            found=found or "no readable table",
            where=store.uri(path),
            remedy="move it away and run again, and it is written anew",
        )


def read_table(store: Store, path: str) -> pa.Table:
    """A Parquet file of the store."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        return pq.read_table(store.fetch(path, Path(folder)), memory_map=False)


def null_counts(store: Store, paths: Iterable[str]) -> dict[str, int]:
    """Missing cells of each column of a table, from the footers of its Parquet files; columns of lists are left out."""
    counts: Counter[str] = Counter()
    for path in paths:
        with store.opened(path) as stream, pq.ParquetFile(stream) as file:
            names, footer = set(file.schema_arrow.names), file.metadata
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                if column.path_in_schema in names and column.statistics is not None:
                    counts[column.path_in_schema] += column.statistics.null_count
    return dict(counts)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """The table for the engine: whole numbers stay whole even where cells are missing."""
    import pandas as pd

    nullable = {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.uint8(): pd.UInt8Dtype(),
        pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    with_gaps = {table.column(at).type for at in range(table.num_columns) if table.column(at).null_count}
    mapping = {kind: dtype for kind, dtype in nullable.items() if kind in with_gaps}
    frame: pd.DataFrame = table.to_pandas(types_mapper=mapping.get, ignore_metadata=True)
    return frame


def with_refined(table: pa.Table, frame: pd.DataFrame, columns: list[str]) -> pa.Table:
    """The table with these columns taken from the frame; every other column is the very same Arrow data."""
    for name in columns:
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        observed = table.column(at)
        refined = pa.array(frame[name], from_pandas=True).cast(field.type)
        missing = observed.is_null(nan_is_null=True)  # NaN stays NaN, and null stays null
        table = table.set_column(at, field, pc.if_else(missing, observed, refined))
    return table


def with_columns(table: pa.Table, columns: Mapping[str, pd.Series]) -> pa.Table:
    """The table with new columns after all others; a missing number is null."""
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, from_pandas=True))
    return table
