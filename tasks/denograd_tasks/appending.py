"""A version of cells that were published before and cells that were refined now, put together from their tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from denograd_tasks.append import Arrivals
from denograd_tasks.roles import std_name
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store
from denograd_tasks.tables import read_table
from denograd_tasks.versions import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS_FILE = "rows.parquet"
STD_FILE = "std.parquet"
FAULTS_FILE = "faults.parquet"
VERSION = "version"
"""The column of the row summary of an appended version that says for which one a row was refined."""
FEWEST = 50
"""Rows on which gates are measured, at least."""
TOTALS = ("rows", "moved", "epochs", "eta", "status", "residual_before", "residual_after", "interrupted")


@dataclass(frozen=True)
class Made:
    """What a rule made of a table.

    Attributes:
        data: The table, refined, and after its columns those of posterior stds if they are asked for.
        beside: Tables with a line for each row, by file name.
        totals: `denograd_engine.Refinement.totals` as plain data.
        columns: Of a posterior model, facts about each refined column.
        strength: Share of the way that the cells went.
    """

    data: pa.Table
    beside: Mapping[str, pa.Table]
    totals: dict[str, Any]
    columns: dict[str, dict[str, float]]
    strength: float


def refined_last(rows: pa.Table) -> NDArray[np.bool_] | None:
    """The rows that were refined for the newest version, where enough were; None where all count.

    Args:
        rows: The summary of each row.
    """
    if VERSION not in rows.column_names:
        return None
    version = rows[VERSION].to_numpy()
    last: NDArray[np.bool_] = version == version.max(initial=0)
    return last if last.sum() >= FEWEST else None


def put_together(
    store: Store,
    parent: Manifest,
    union: pa.Table,
    arrivals: Arrivals,
    chosen: NDArray[np.int64],
    now: Made | None,
) -> Made:
    """The union: fresh rows as they are now, the others as they were published.

    Totals are those of all rows, but for the step, the epochs and the residuals, which are of what is refined now.

    Args:
        store: The publishing root.
        parent: The version that is appended to.
        union: What was observed.
        arrivals: Which rows are fresh, and where the others are in the parent.
        chosen: Positions in the union of the rows that were refined.
        now: What was made of them; None if there are none.
    """
    then = _published(store, parent)
    now = now or replace(then, data=then.data.slice(0, 0), beside={n: t.slice(0, 0) for n, t in then.beside.items()})
    cells = _chosen(then.data, now.data, arrivals, chosen)
    data = union
    for name in (one["name"] for one in parent.content["schema"] if one.get("refined")):
        at = union.schema.get_field_index(name)
        data = data.set_column(at, union.schema.field(at), cells[name])
    for name in then.data.column_names:
        if name not in union.column_names:
            data = data.append_column(name, cells[name])
    beside = {name: _chosen(table, now.beside[name], arrivals, chosen) for name, table in then.beside.items()}
    if arrivals.fresh.any():
        beside[ROWS_FILE] = _with_versions(beside[ROWS_FILE], then.beside[ROWS_FILE], parent, arrivals)
    rows = beside[ROWS_FILE]
    counts = pc.value_counts(rows["status"].cast(pa.string())).to_pylist()
    totals = now.totals | {
        "rows": len(rows),
        "moved": int(pc.sum(pc.greater(rows["correction"], 0.0)).as_py() or 0),
        "status": {one["values"]: one["counts"] for one in counts},
    }
    return replace(now, data=data, beside=beside, totals=totals, columns=now.columns or then.columns)


def with_columns_counted(made: Made, observed: pa.Table, settings: Settings) -> Made:
    """With the facts about each column, which a posterior model gives of the rows at hand, measured on all rows."""
    found = {}
    for name, one in made.columns.items():
        std = made.data[std_name(name)] if settings.refine.uncertainty else made.beside[STD_FILE][name]
        before, after, spread = (_numbers(column) for column in (observed[name], made.data[name], std))
        touched, noise = ~np.isnan(spread), one["noise"]
        claimed, moved = (_root_mean_square(values[touched]) for values in (spread, after - before))
        expected = noise if settings.refine.draw else math.sqrt(max(noise**2 - claimed**2, 0.0))
        faults = made.beside[FAULTS_FILE][name] if FAULTS_FILE in made.beside else pa.array([False])
        found[name] = {
            "noise": noise,
            "std": claimed,
            "correction": moved,
            "expected": made.strength * expected,
            "faults": float(pc.sum(faults).as_py() or 0),
        }
    return replace(made, columns=found)


def _published(store: Store, parent: Manifest) -> Made:
    """The parent."""
    content = parent.content
    refinement = content["refinement"]
    paths = {file["path"].rsplit("/", 1)[-1]: file["path"] for file in content["evidence"]}
    return Made(
        data=read_table(store, content["files"][0]["path"]),
        beside={name: read_table(store, paths[name]) for name in (ROWS_FILE, STD_FILE, FAULTS_FILE) if name in paths},
        totals={name: refinement[name] for name in TOTALS},
        columns=refinement["columns"],
        strength=refinement["strength"],
    )


def _chosen(before: pa.Table, now: pa.Table, arrivals: Arrivals, chosen: NDArray[np.int64]) -> pa.Table:
    """The rows of the union, each from one of the two."""
    rows, at, fresh = arrivals.place.copy(), np.full(len(arrivals.place), -1), arrivals.fresh
    at[chosen] = np.arange(len(chosen))
    rows[fresh] = len(before) + at[fresh]
    return pa.table({name: _joined(before[name], now[name]).take(rows) for name in now.column_names})


def _joined(before: pa.ChunkedArray, now: pa.ChunkedArray) -> pa.ChunkedArray:
    """One column after the other; categories count by their text."""
    if not pa.types.is_dictionary(now.type):
        return pa.chunked_array([*before.chunks, *now.chunks], now.type)
    kind = now.type.value_type
    return pa.chunked_array([*before.cast(kind).chunks, *now.cast(kind).chunks], kind).dictionary_encode()


def _with_versions(rows: pa.Table, before: pa.Table, parent: Manifest, arrivals: Arrivals) -> pa.Table:
    """The summary of each row with the version that it was refined for."""
    known = before[VERSION].to_numpy() if VERSION in before.column_names else np.full(len(before), parent.origin)
    version = np.where(arrivals.fresh, parent.number + 1, known[arrivals.place])
    return rows.append_column(VERSION, pa.array(version, pa.int64()))


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return numbers


def _root_mean_square(values: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.square(values).mean())) if len(values) else 0.0
