"""Reading sources, files or folders of them, a batch at a time; errors repeat no cell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from denograd_engine.errors import DataError, SchemaError
from denograd_tasks.store import sha256_of

FORMATS = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
}


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


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _expected() -> str:
    return "a .csv, .parquet or .arrow (.feather) file, or a folder of one kind"
