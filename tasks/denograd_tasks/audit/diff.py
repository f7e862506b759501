"""What differs between two versions, or between a version and its source, row by row and cell by cell.

Rows are matched by their key: in the order in which they come where a key comes more than once. Where both tables have
the same keys in the same order, as a version and its source do, they are read side by side, without any join. Without a
key rows are matched by position. NaN equals NaN, and 0.0 equals -0.0; a missing cell equals nothing but another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denograd_engine.errors import ConfigError
from denograd_tasks.audit.pairs import Pairs
from denograd_tasks.audit.tables import Table, key_of, opened, quoted, refined_table, source_table, text
from denograd_tasks.removals import require_tables
from denograd_tasks.store import Store
from denograd_tasks.versions import Manifest

MOST_CHANGED = 10
"""Rows that are shown one by one."""
FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".csv": "FORMAT csv, HEADER"}


@dataclass(frozen=True)
class ColumnChange:
    """A column that both tables have.

    Attributes:
        name: Of the column.
        changed: Cells that differ.
        mean: Mean size of their changes, in the column's unit, over those with a finite number on both sides; None if
            there is none.
        largest: The largest of these sizes.
        types: Its type in either table, if they differ.
    """

    name: str
    changed: int
    mean: float | None
    largest: float | None
    types: tuple[str, str] | None


@dataclass(frozen=True)
class RowChange:
    """A row that both tables have.

    Attributes:
        key: What it is found by; without a key its position, called `row`.
        cells: Cells that differ.
        size: Root of the summed squares of its changes, each over the standard deviation of its column in the first
            table.
    """

    key: Mapping[str, Any]
    cells: int
    size: float


@dataclass(frozen=True)
class Diff:
    """What differs between two tables.

    Attributes:
        first: What the first is called.
        second: Likewise.
        key: The columns that rows are matched by; empty where it is their position.
        matched: Rows that both have.
        added: Rows that only the second has.
        removed: Rows that only the first has.
        rows_changed: Matched rows of which any cell differs.
        cells_changed: Cells of them that differ.
        columns: Every column that both have, without the key.
        columns_added: Columns that only the second has.
        columns_removed: Columns that only the first has.
        most_changed: The rows with the largest changes, largest first.
    """

    first: str
    second: str
    key: tuple[str, ...]
    matched: int
    added: int
    removed: int
    rows_changed: int
    cells_changed: int
    columns: tuple[ColumnChange, ...]
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    most_changed: tuple[RowChange, ...]


def diff_versions(
    store: Store, first: Manifest, second: Manifest, where: str | None = None, to: Path | None = None
) -> Diff:
    """Compare two published versions: see `diff_tables`."""
    for one in (first, second):
        require_tables(store, one)
    tables = refined_table(first.content), refined_table(second.content)
    return diff_tables(store, *tables, key_of(second.content), where, to)


def diff_source(store: Store, manifest: Manifest, where: str | None = None, to: Path | None = None) -> Diff:
    """Compare a version with the snapshot that it was made from: see `diff_tables`."""
    require_tables(store, manifest)
    tables = source_table(manifest.content), refined_table(manifest.content)
    return diff_tables(store, *tables, key_of(manifest.content), where, to)


def diff_tables(
    store: Store, first: Table, second: Table, key: Sequence[str], where: str | None = None, to: Path | None = None
) -> Diff:
    """Compare two tables of the store.

    Args:
        store: The publishing root.
        first: As it was.
        second: As it is.
        key: Columns that tell rows apart; without one, or if either table lacks a column of it, positions do.
        where: A condition in SQL over the columns; a row counts if it holds before or after.
        to: A file, .parquet or .csv, for the rows that differ: `difference`, the key, and each column that changed
            before and after.

    Raises:
        ConfigError: If the condition cannot be used, or the file exists or is of another kind.
        StoreError: If a file is gone.
        DataError: If one cannot be read.
    """
    output = None if to is None else _output(to)
    with opened(store, {"first": first, "second": second}, output) as (database, types):
        pairs = Pairs(database, types["first"], types["second"], tuple(key), where)
        found = _compare(pairs, first.label, second.label, types)
        if output is not None:
            _write(pairs, found, output)
    return found


def _compare(pairs: Pairs, first: str, second: str, types: Mapping[str, Mapping[str, str]]) -> Diff:
    """Count and measure everything in one pass over the rows."""
    measures = ["count(*) FILTER (in_a AND in_b)", "count(*) FILTER (NOT in_a)", "count(*) FILTER (NOT in_b)"]
    measures += ["count(*) FILTER (cells > 0)", f"max({_ranked(pairs)}, {MOST_CHANGED}) FILTER (cells > 0)"]
    for at in pairs.cells:
        measures += [f"count(*) FILTER (d{at})", f"avg(m{at})", f"max(m{at})"]
    found = pairs.row(f"SELECT {', '.join(measures)} FROM ({_measured(pairs)})")
    matched, added, removed, rows_changed, most_changed, *rest = found
    columns = []
    for place, at in enumerate(pairs.cells):
        name = pairs.names[at]
        changed, mean, largest = rest[3 * place : 3 * place + 3]
        before, after = types["first"][name], types["second"][name]
        columns.append(ColumnChange(name, changed, mean, largest, None if before == after else (before, after)))
    return Diff(
        first=first,
        second=second,
        key=pairs.key,
        matched=matched,
        added=added,
        removed=removed,
        rows_changed=rows_changed,
        cells_changed=sum(column.changed for column in columns),
        columns=tuple(columns),
        columns_added=tuple(name for name in types["second"] if name not in types["first"]),
        columns_removed=tuple(name for name in types["first"] if name not in types["second"]),
        most_changed=tuple(_row_change(pairs, one) for one in most_changed or ()),
    )


def _measured(pairs: Pairs) -> str:
    """For each row and column, whether it differs (`d0`) and by how much (`m0`), and the row's `cells` that do; in SQL.

    What is used more than once is computed in a layer of its own.
    """
    differ = [f"{pairs.differs(at)} AS d{at}" for at in pairs.cells]
    differ += [f"{pairs.change(at) or 'NULL::DOUBLE'} AS x{at}" for at in pairs.cells]
    sizes = [f"d{at}, CASE WHEN d{at} AND isfinite(x{at}) THEN abs(x{at}) END AS m{at}" for at in pairs.cells]
    cells = " + ".join(["0", *(f"CAST(d{at} AS INTEGER)" for at in pairs.cells)])
    keys = [f"{label} AS k{at}" for at, label in enumerate(pairs.labels)]
    kept = [f"k{at}" for at in range(len(keys))]
    inner = f"SELECT {', '.join(['in_a', 'in_b', *keys, *differ])} FROM pairs"
    return f"SELECT {', '.join(['in_a', 'in_b', *kept, *sizes, f'{cells} AS cells'])} FROM ({inner})"


def _ranked(pairs: Pairs) -> str:
    """What rows are compared by to find those that changed most, in SQL: the size of the change comes first."""
    numbers = [at for at in pairs.cells if pairs.change(at) is not None]
    scales = dict(zip(numbers, pairs.spreads(numbers), strict=True)) if numbers else {}
    squares = [f"coalesce(pow(m{at} / {scales[at] or 1.0!r}, 2), 0)" for at in numbers]
    keys = [f"k{at} := k{at}" for at in range(len(pairs.labels))]
    return f"struct_pack(size := sqrt({' + '.join(['0', *squares])}), cells := cells, {', '.join(keys)})"


def _row_change(pairs: Pairs, ranked: Mapping[str, Any]) -> RowChange:
    size, cells, *key = ranked.values()
    return RowChange(dict(zip(pairs.key or ("row",), key, strict=True)), int(cells), float(size))


def _write(pairs: Pairs, found: Diff, to: Path) -> None:
    moved = {column.name for column in found.columns if column.changed}
    shown = [at for at in pairs.cells if pairs.names[at] in moved or found.added or found.removed]
    columns = ["CASE WHEN NOT in_a THEN 'added' WHEN NOT in_b THEN 'removed' ELSE 'changed' END AS difference"]
    columns += [f"{label} AS {quoted(name)}" for label, name in zip(pairs.labels, pairs.key or ("row",), strict=True)]
    for at in shown:
        name = pairs.names[at]
        columns += [f"a{at} AS {quoted(f'{name}__before')}", f"b{at} AS {quoted(f'{name}__after')}"]
    differs = " OR ".join(["NOT in_a", "NOT in_b", *map(pairs.differs, shown)])
    query = f"SELECT {', '.join(columns)} FROM pairs WHERE {differs}"
    pairs.database.execute(f"COPY ({query}) TO {text(str(to))} ({FORMATS[to.suffix]})")


def _output(to: Path) -> Path:
    if to.suffix not in FORMATS:
        raise ConfigError(
            "this file is of a kind that is not written",
            expected=" or ".join(FORMATS),
            found=to.suffix or "none",
            where=f"--to {to}",
        )
    if to.exists():
        raise ConfigError(f"{to} exists", where="--to", remedy="choose another file, or remove it")
    if not to.absolute().parent.is_dir():
        raise ConfigError("there is no such folder", found=str(to.absolute().parent), where="--to")
    return to.absolute()
