"""What became of one cell: what was observed, what was published, why, and in which versions it was another."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import ConfigError, DataError, SchemaError
from denograd_tasks.audit.tables import evidence_table, key_of, opened, quoted, refined_table, source_table
from denograd_tasks.models import SCALING
from denograd_tasks.removals import removal_of, require_tables
from denograd_tasks.roles import std_name
from denograd_tasks.rule import POSTERIOR
from denograd_tasks.store import Store
from denograd_tasks.versions import Manifest, history

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ROWS, STD = "rows.parquet", "std.parquet"


@dataclass(frozen=True)
class OtherVersion:
    """A version in which the cell is another.

    Attributes:
        number: Of the version.
        created: When it was published.
        rows: How many rows it has under the key: 1, or the cell is not there or not to be told from others.
        observed: The cell in its source; None if it is not there.
        refined: The cell as it was published.
    """

    number: int
    created: str
    rows: int
    observed: Any
    refined: Any


@dataclass(frozen=True)
class Cell:
    """One cell of a version.

    Attributes:
        version: NAME@N.
        column: Its column.
        role: Of the column.
        row: Its position, from 0.
        key: What it was found by, as text; empty if by its position.
        observed: As it came; None if it is missing.
        refined: As it was published.
        correction: The second less the first, in the column's unit; None if they are no numbers.
        correction_std: The same in standard deviations of the column; None for a column that the model does not scale.
        std: Posterior standard deviation, in the column's unit; None if the rule gives none.
        status: How the row's refinement ended.
        iterations: Steps of the row.
        gate: Residual within which rows stay as they are, standardised; None for a rule that has none.
        residual_before: What the model says of the row's target less the target, standardised; None without any.
        residual_after: After refinement.
        rule: The refinement rule; None in versions of releases that did not write it down.
        model: Its URI in MLflow's registry.
        model_digest: sha256 of it.
        elsewhere: Versions in which the cell is another than here.
        gone: Numbers of versions that cannot be looked into, since retention removed their tables.
    """

    version: str
    column: str
    role: str
    row: int
    key: Mapping[str, str]
    observed: Any
    refined: Any
    correction: float | None
    correction_std: float | None
    std: float | None
    status: str | None
    iterations: int | None
    gate: float | None
    residual_before: float | None
    residual_after: float | None
    rule: str | None
    model: str
    model_digest: str
    elsewhere: tuple[OtherVersion, ...]
    gone: tuple[int, ...]


def cell_of(
    store: Store, manifest: Manifest, column: str, key: Mapping[str, str] | None = None, row: int | None = None
) -> Cell:
    """Look one cell up.

    Args:
        store: The publishing root.
        manifest: Of the version.
        column: Of the cell.
        key: Values of columns, as text, that one row alone has; time stamps without a zone are UTC.
        row: Its position, from 0, in place of a key.

    Raises:
        ConfigError: If neither or both are given, or a value is none of its column's type.
        SchemaError: If there is no such column.
        DataError: If no row has this key, or several have.
        StoreError: If a file is gone, or retention removed it.
    """
    require_tables(store, manifest)
    content = manifest.content
    schema = {one["name"]: one for one in content["schema"]}
    for name in (column, *(key or ())):
        if name not in schema:
            raise SchemaError(f"there is no column {name!r}", found=", ".join(schema), where=_label(manifest))
    if bool(key) == (row is not None):
        columns = " ".join(f"--key {name}=..." for name in key_of(content)) or "--row 17"
        raise ConfigError("one row must be named", expected=f"its key or its position, such as {columns}")
    tables = {"refined": refined_table(content), "observed": source_table(content)}
    beside = {"line": evidence_table(content, ROWS), "deviation": evidence_table(content, STD)}
    tables |= {name: table for name, table in beside.items() if table is not None}
    with opened(store, tables) as (database, types):
        at, key = _find(database, manifest, key, row)
        refined = _value(database, "refined", column, at)
        observed = _value(database, "observed", column, at) if column in types["observed"] else None
        line = {name: _value(database, "line", name, at) for name in types.get("line", ())}
        std = None
        if std_name(column) in types["refined"]:
            std = _value(database, "refined", std_name(column), at)
        elif column in types.get("deviation", ()):
            std = _value(database, "deviation", column, at)
    correction = _difference(observed, refined)
    others = [one for one in history(store, manifest.dataset) if one.number != manifest.number]
    gone = {one.number for one in others if removal_of(store, one) is not None}
    spread = _spreads(store, content).get(column)
    return Cell(
        version=_label(manifest),
        column=column,
        role=schema[column]["role"],
        row=at,
        key=key,
        observed=observed,
        refined=refined,
        correction=correction,
        correction_std=None if correction is None or spread is None else correction / spread,
        std=std,
        status=line.get("status"),
        iterations=line.get("iterations"),
        gate=None if content["model"]["kind"] == POSTERIOR else content["settings"]["refine"]["tau"],
        residual_before=line.get("residual_before"),
        residual_after=line.get("residual_after"),
        rule=content["refinement"].get("rule"),
        model=content["model"]["uri"],
        model_digest=content["model"]["digest"],
        elsewhere=tuple(
            other
            for one in others
            if one.number not in gone and (other := _elsewhere(store, one, column, key, at, refined)) is not None
        ),
        gone=tuple(sorted(gone)),
    )


def _elsewhere(
    store: Store, manifest: Manifest, column: str, key: Mapping[str, str], row: int, here: Any
) -> OtherVersion | None:
    """The same cell in another version, if it is another there."""
    content = manifest.content
    with opened(store, {"refined": refined_table(content), "observed": source_table(content)}) as (database, types):
        found = []
        if column in types["refined"] and all(name in types["refined"] for name in key):
            found = _places(database, key) if key else [row] * (row < content["refinement"]["rows"])
        if len(found) != 1:
            return OtherVersion(manifest.number, content["created"], len(found), None, None)
        refined = _value(database, "refined", column, found[0])
        if _same(refined, here):
            return None
        observed = _value(database, "observed", column, found[0]) if column in types["observed"] else None
        return OtherVersion(manifest.number, content["created"], 1, observed, refined)


def _find(
    database: DuckDBPyConnection, manifest: Manifest, key: Mapping[str, str] | None, row: int | None
) -> tuple[int, Mapping[str, str]]:
    """The position of the row, and what else it can be found by in other versions."""
    rows = manifest.content["refinement"]["rows"]
    if row is not None:
        if not 0 <= row < rows:
            raise DataError("there is no such row", expected=f"0 to {rows - 1:,}", found=f"{row:,}", where="--row")
        names = key_of(manifest.content)
        known = {name: _text(database, name, row) for name in names}
        own = {name: value for name, value in known.items() if value is not None}
        alone = len(own) == len(names) > 0 and len(_places(database, own)) == 1
        return row, own if alone else {}
    assert key is not None
    found = _places(database, key)
    if len(found) != 1:
        raise DataError(
            f"{'no row has' if not found else f'{len(found):,} rows have'} this key",
            expected="one row",
            where=f"{_label(manifest)}: {', '.join(key)}",
            remedy=f"name what tells rows apart: {', '.join(key_of(manifest.content)) or '--row'}",
        )
    return found[0], key


def _places(database: DuckDBPyConnection, key: Mapping[str, str]) -> list[int]:
    """Positions of the rows whose columns have these values."""
    kinds = {str(row[0]): str(row[1]) for row in database.execute("DESCRIBE refined").fetchall()}
    for name, value in key.items():
        (cast,) = database.execute(f"SELECT TRY_CAST(? AS {kinds[name]}) IS NULL", [value]).fetchall()
        if cast[0]:
            raise ConfigError(f"this is no value of column {name!r}", expected=kinds[name], where=f"--key {name}")
    columns = ", ".join(f"{quoted(name)} AS k{at}" for at, name in enumerate(key))
    same = " AND ".join(f"k{at} = CAST(? AS {kinds[name]})" for at, name in enumerate(key))
    query = f"SELECT place FROM (SELECT row_number() OVER () - 1 AS place, {columns} FROM refined) WHERE {same}"
    return [int(row[0]) for row in database.execute(query, list(key.values())).fetchall()]


def _value(database: DuckDBPyConnection, table: str, column: str, row: int) -> Any:
    return database.execute(f"SELECT {quoted(column)} FROM {table} LIMIT 1 OFFSET {row}").fetchall()[0][0]


def _text(database: DuckDBPyConnection, column: str, row: int) -> str | None:
    query = f"SELECT CAST({quoted(column)} AS VARCHAR) FROM refined LIMIT 1 OFFSET {row}"
    found: str | None = database.execute(query).fetchall()[0][0]
    return found


def _spreads(store: Store, content: Mapping[str, Any]) -> dict[str, float]:
    """One standard deviation of each column that the model scales, in its own unit."""
    from denograd_engine.frames import Encoder

    path = next(file["path"] for file in content["model"]["files"] if file["path"].endswith(f"/{SCALING}"))
    encoder = Encoder.from_dict(json.loads(store.read(path)))
    return dict(zip(encoder.schema.cells, encoder.spreads.tolist(), strict=True))


def _difference(observed: Any, refined: Any) -> float | None:
    numbers = (int, float, Decimal)
    if any(isinstance(one, bool) or not isinstance(one, numbers) for one in (observed, refined)):
        return None
    return float(refined) - float(observed)


def _same(one: Any, other: Any) -> bool:
    both_nan = all(isinstance(value, float) and math.isnan(value) for value in (one, other))
    return both_nan or bool(one == other)


def _label(manifest: Manifest) -> str:
    return f"{manifest.dataset}@{manifest.number}"
