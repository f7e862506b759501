"""Published tables in DuckDB, out of memory's way: read block by block, spilling to the scratch folder."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from denograd_engine.columns import looks_like_an_identifier
from denograd_engine.errors import DataError
from denograd_tasks.home import scratch
from denograd_tasks.store import Store

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "2GB"
"""What DuckDB may hold before it spills to disk."""


@dataclass(frozen=True)
class Table:
    """A table in the store.

    Attributes:
        label: What people call it.
        paths: Its Parquet files, in the order of its rows.
    """

    label: str
    paths: tuple[str, ...]


def refined_table(content: Mapping[str, Any]) -> Table:
    """The table that a manifest publishes."""
    return Table(f"{content['dataset']}@{content['number']}", tuple(file["path"] for file in content["files"]))


def source_table(content: Mapping[str, Any]) -> Table:
    """The snapshot that it was made from."""
    label = f"the source of {content['dataset']}@{content['number']}"
    return Table(label, tuple(file["path"] for file in content["source"]["files"]))


def evidence_table(content: Mapping[str, Any], name: str) -> Table | None:
    """The table of this file name in the evidence, a line for each row; None if there is none."""
    found = [file["path"] for file in content["evidence"] if file["path"].endswith(f"/{name}")]
    return Table(name, tuple(found)) if found else None


def key_of(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that tell the rows of a version apart; empty where only their order does.

    In a series, entity and time. In a table, `columns.key`; without it, ignored columns that hold row identifiers:
    those that were inferred, and those whose name says so.
    """
    series = content["settings"].get("series")
    if series:
        return (*series.get("entity", ()), series["time"])
    if content["settings"]["columns"].get("key"):
        return tuple(content["settings"]["columns"]["key"])
    ignored = [column for column in content["schema"] if column["role"] == "ignored"]
    return tuple(
        column["name"]
        for column in ignored
        if column["why"] == "row identifier" or looks_like_an_identifier(column["name"])
    )


@contextmanager
def opened(
    store: Store, tables: Mapping[str, Table], output: Path | None = None
) -> Iterator[tuple[DuckDBPyConnection, dict[str, dict[str, str]]]]:
    """A database with these tables as views, and the Arrow type of every column of each.

    It can read nothing else, and write nothing but the output.

    Args:
        store: The publishing root.
        tables: By the name of the view.
        output: A file that may be written.

    Raises:
        StoreError: If a file is gone.
        DataError: If one is no Parquet file.
    """
    import duckdb

    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        spill = Path(folder) / "spill"
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "temp_directory": str(spill),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
        files = {name: _local(store, table, Path(folder) / name) for name, table in tables.items()}
        types = {name: _types(paths) for name, paths in files.items()}
        with duckdb.connect(config=settings) as database:
            database.execute("SET TimeZone = 'UTC'")
            # Parquet's statistics leave NaN out, and DuckDB 2.0 concludes from them that no cell is NaN
            database.execute("SET disabled_optimizers = 'statistics_propagation'")
            allowed = [str(path) for paths in files.values() for path in paths]
            escaped = [glob.escape(path) for path in allowed]
            for name, paths in files.items():
                listed = ", ".join(text(glob.escape(str(path))) for path in paths)
                database.execute(
                    f"CREATE VIEW {quoted(name)} AS SELECT * FROM read_parquet([{listed}], hive_partitioning = false)"
                )
            database.execute("SET allowed_paths = ?", [[*allowed, *escaped, *([str(output)] if output else [])]])
            database.execute("SET allowed_directories = ?", [[str(spill)]])
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            yield database, types


def rows_of(database: DuckDBPyConnection, query: str, given: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The result of a query as plain data, values as Arrow gives them."""
    found: list[dict[str, Any]] = database.sql(query, params=list(given)).to_arrow_table().to_pylist()
    return found


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _local(store: Store, table: Table, folder: Path) -> list[Path]:
    found = []
    for at, path in enumerate(table.paths):
        part = folder / str(at)
        part.mkdir(parents=True)
        found.append(store.fetch(path, part))
    return found


def _types(paths: Sequence[Path]) -> dict[str, str]:
    import pyarrow as pa

    try:
        schema = pq.read_schema(paths[0])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "a published table cannot be read",
            found=type(error).__name__,
            where=str(paths[0]),
            remedy="look for damage with: denograd verify",
        ) from None
    return {field.name: str(field.type) for field in schema}
