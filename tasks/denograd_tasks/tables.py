"""Reading sources, and reading and writing Parquet in the store. Arrow types are kept."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from denograd_engine.errors import DataError, SchemaError, StoreError
from denograd_tasks.content import ContentDigest, content_digest
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
    """A dataset over the source's files. Their types are widened to what holds them all.

    Raises:
        DataError: If they cannot be read, or are no text in UTF-8.
        SchemaError: If column names repeat, or the files' columns differ.
    """
    files = source_files(source)
    kind = FORMATS[files[0].suffix.lower()]
    paths, read_as = [str(file) for file in files], _format(kind)
    try:
        dataset = ds.dataset(paths, format=read_as)
        schemas = [fragment.physical_schema for fragment in dataset.get_fragments()]
    except (pa.ArrowException, OSError, ValueError) as error:
        repeated = re.search(r"multiple columns named (.+)$", str(error))
        if repeated:
            raise _repeated([repeated.group(1)], source) from None
        if "duplicate field names" in str(error):
            raise _repeated(_repeats(_names(files[0], kind)), source) from None
        raise unreadable(source, error) from None
    for file, schema in zip(files, schemas, strict=True):
        _require_names(file, schema, files[0], schemas[0])
        for field in schema:
            if kind == "csv" and pa.types.is_binary(field.type):
                raise DataError(
                    f"column {field.name!r} is no text in UTF-8", where=str(file), remedy="save the file as UTF-8"
                )
    if len(files) == 1:
        return dataset
    try:
        widest = pa.unify_schemas(schemas, promote_options="permissive")
        return ds.dataset(paths, format=read_as, schema=widest)
    except pa.ArrowException as error:
        raise SchemaError(
            "the files of the source folder have columns of different types",
            expected="the same types in every file",
            found=str(error).partition("\n")[0][:200],
            where=source,
        ) from None


def read_batches(source: str, dataset: ds.Dataset) -> Iterator[pa.RecordBatch]:
    """The rows of a source, a batch at a time.

    Raises:
        DataError: If they cannot be read.
    """
    try:
        yield from dataset.to_batches()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(source, error, dataset.schema) from None


def unreadable(source: str, error: Exception, schema: pa.Schema | None = None) -> DataError:
    """The error for a source that Arrow cannot read; cell values are not repeated."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    inside = re.search(r"input source '(.+?)': (.+)", reason)
    if inside:
        source, reason = inside.groups()
    reason = reason.removeprefix("Invalid: ")
    conflict = re.search(r"CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+):", reason)
    if conflict and schema is not None:
        at, row, kind = conflict.groups()
        return DataError(
            f"column {schema.names[int(at)]!r} changes its type",
            expected=f"{kind}, as in the first rows" if kind != "null" else "missing cells only, as in the first rows",
            found="another type" + (f" in line {int(row):,}" if row else ""),
            where=source,
            remedy="make its cells alike, or store the data as Parquet with the type that you mean",
        )
    for pattern in (r"(got \d+|would lose data): .*", r"\b(value|string:) (?:'.*'|\S+)"):
        reason = re.sub(pattern, r"\1", reason)
    return DataError(
        "the source cannot be read",
        expected=_expected(),
        found=reason[:300],
        where=source,
        remedy="check that the file is whole and its extension tells its format",
    )


def _format(kind: str) -> str | ds.CsvFileFormat:
    if kind != "csv":
        return kind
    return ds.CsvFileFormat(parse_options=pa.csv.ParseOptions(newlines_in_values=True))


def _require_names(file: Path, schema: pa.Schema, first: Path, expected: pa.Schema) -> None:
    repeated = _repeats(schema.names)
    if repeated:
        raise _repeated(repeated, str(file))
    absent = [name for name in expected.names if name not in schema.names]
    added = [name for name in schema.names if name not in expected.names]
    if absent or added:
        differences = {"without": absent, "with": added}
        raise SchemaError(
            "the files of the source folder have different columns",
            expected=f"the columns of {first.name} in every file",
            found="; ".join(
                f"{word} {', '.join(map(repr, names[:5]))}" for word, names in differences.items() if names
            ),
            where=str(file),
        )


def _names(file: Path, kind: str) -> list[str]:
    schema: pa.Schema = pq.read_schema(file) if kind == "parquet" else pa.ipc.open_file(file).schema
    return list(schema.names)


def _repeats(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


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
        local = Path(folder) / "part.parquet"
        pq.write_table(table, local, compression="zstd", row_group_size=ROWS_IN_GROUP)
        return put_file(store, local, path, content_digest(table))


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


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _expected() -> str:
    return "a .csv, .parquet or .arrow (.feather) file, or a folder of one kind"
