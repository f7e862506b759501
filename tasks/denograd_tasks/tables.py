"""Reading sources, and reading and writing Parquet in the store. Arrow types are kept."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from denograd_engine.errors import DataError, SchemaError
from denograd_tasks.content import ContentDigest
from denograd_tasks.home import scratch
from denograd_tasks.records import File
from denograd_tasks.store import Store, sha256_of

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
}
ROWS_IN_GROUP = 1 << 17


def source_files(source: str) -> list[Path]:
    """The data files of a source, in the order in which they are read.

    Raises:
        DataError: If there is no such file, no data in the folder, or files of several formats.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and file.suffix.lower() in FORMATS and not _hidden(file.relative_to(path))
        )
        if not files:
            raise DataError("the source folder holds no data", expected=_expected(), where=str(path))
        formats = {FORMATS[file.suffix.lower()] for file in files}
        if len(formats) > 1:
            raise DataError(
                "the source folder mixes file formats",
                expected="files of one format",
                found=", ".join(sorted(formats)),
                where=str(path),
            )
        return files
    if not path.is_file():
        raise DataError(
            "the source does not exist", expected=_expected(), where=str(path), remedy="check the path under source"
        )
    if path.suffix.lower() not in FORMATS:
        raise DataError("the source is of no known format", expected=_expected(), found=path.suffix, where=str(path))
    return [path]


def open_source(source: str) -> ds.Dataset:
    """A dataset over the source's files.

    Raises:
        DataError: If they cannot be read, or their columns differ.
        SchemaError: If column names repeat.
    """
    files = source_files(source)
    kind = FORMATS[files[0].suffix.lower()]
    try:
        dataset = ds.dataset([str(file) for file in files], format=kind)
    except (pa.ArrowException, OSError, ValueError) as error:
        repeated = re.search(r"multiple columns named (.+)$", str(error))
        if repeated:
            raise _repeated([repeated.group(1)], source) from None
        raise unreadable(source, error) from None
    names = dataset.schema.names
    if len(set(names)) < len(names):
        raise _repeated(sorted({name for name in names if names.count(name) > 1}), source)
    return dataset


def unreadable(source: str, error: Exception) -> DataError:
    """The error for a source that Arrow cannot read; cell values are not repeated."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].split("Invalid: ")[-1]
    for marker in (": '", " value '", " Row:", ", row "):
        reason = reason.split(marker)[0]
    return DataError(
        "the source cannot be read",
        expected=_expected(),
        found=reason[:200],
        where=source,
        remedy="check that the file is whole and its extension tells its format",
    )


def _repeated(names: list[str], source: str) -> SchemaError:
    return SchemaError(
        f"column names occur more than once: {', '.join(map(repr, names[:5]))}",
        expected="every column name once",
        where=source,
        remedy="rename or drop the repeated columns",
    )


def fingerprint(source: str) -> str:
    """sha256 over the names and bytes of the source's files: whether they have to be read again."""
    digest = hashlib.sha256()
    for file in source_files(source):
        digest.update(f"{file.name}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def write_parquet(batches: ds.Scanner | pa.Table, schema: pa.Schema, path: Path) -> tuple[int, str]:
    """Stream batches into a local Parquet file.

    Returns:
        The number of rows and the digest of the content.
    """
    digest, rows = ContentDigest(schema), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches.to_batches():
            if batch.num_rows:
                writer.write_batch(batch, row_group_size=ROWS_IN_GROUP)
                digest.update(batch)
                rows += batch.num_rows
    return rows, digest.hexdigest()


def put_table(store: Store, table: pa.Table, path: str) -> File:
    """Write a table to the store as one Parquet file."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        local = Path(folder) / "part.parquet"
        pq.write_table(table, local, compression="zstd", row_group_size=ROWS_IN_GROUP)
        return put_file(store, local, path)


def put_file(store: Store, local: Path, path: str) -> File:
    """Move a local file into the store."""
    file = File(path=path, sha256=sha256_of(local), bytes=local.stat().st_size)
    store.create(path, local)
    return file


def put_bytes(store: Store, content: bytes, path: str) -> File:
    """Write bytes into the store."""
    store.create(path, content)
    return File(path=path, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def read_table(store: Store, path: str) -> pa.Table:
    """A Parquet file of the store."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        return pq.read_table(store.fetch(path, Path(folder)), memory_map=False)


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
        refined = pa.array(frame[name], from_pandas=True)
        table = table.set_column(at, field, refined.cast(field.type))
    return table


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _expected() -> str:
    return "a .csv, .parquet or .arrow (.feather) file, or a folder of one kind"
