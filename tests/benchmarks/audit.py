"""How long does it take to compare two large versions, and how much memory?

    python -m tests.benchmarks.audit
    python -m tests.benchmarks.audit --quick

Two tables of `--rows` rows and 20 columns (an identifier and 19 numbers) with every number changed: with their rows in
the same order, as a version and its source have them; and in another order, with rows added and removed, which needs a
join. Each comparison is a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table as Printed

from denograd_tasks.audit.diff import diff_tables
from denograd_tasks.audit.tables import MEMORY, Table
from denograd_tasks.store import Store
from denograd_tasks.tables import ROWS_IN_GROUP
from tests.benchmarks import machine
from tests.benchmarks.memory import watched
from tests.benchmarks.peer import BENCH

NUMBERS = 19
LEFT_OUT = 0.01
"""Share of the rows that are added, and removed, where the order is another."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def write(path: Path, ids: np.ndarray[Any, np.dtype[np.int64]], moved: bool) -> None:
    """A table whose cells follow from the identifiers, in Parquet as it is published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("id", pa.int64()), *((f"x{at}", pa.float64()) for at in range(NUMBERS))])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in parts(ids):
            noise = np.random.default_rng(int(part[0])).normal(size=(NUMBERS, len(part))) * moved
            cells = [np.sin(part * (at + 1) * 1e-3) + 0.1 * noise[at] for at in range(NUMBERS)]
            writer.write_table(pa.table([pa.array(part), *map(pa.array, cells)], schema=schema))


def parts(ids: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    for start in range(0, len(ids), ROWS_IN_GROUP):
        yield ids[start : start + ROWS_IN_GROUP]


def tables(folder: Path, rows: int) -> None:
    out = int(rows * LEFT_OUT)
    write(folder / "first.parquet", np.arange(rows), False)
    write(folder / "same order.parquet", np.arange(rows), True)
    write(folder / "another order.parquet", np.random.default_rng(0).permutation(np.arange(out, rows + out)), True)


def measure(folder: Path, second: str) -> dict[str, Any]:
    """Compare in this process."""
    names = [Table(name, (f"{name}.parquet",)) for name in ("first", second)]
    store = Store(str(folder))
    with watched() as peak:
        started, busy = time.perf_counter(), time.process_time()
        found = diff_tables(store, *names, ("id",))
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return {
        "second": second,
        "rows": found.matched,
        "added": found.added,
        "removed": found.removed,
        "cells_changed": found.cells_changed,
        "seconds": seconds,
        "busy": busy,
        "above": peak.most - peak.before,
    }


@app.command()
def main(
    rows: Annotated[int, typer.Option(min=1000, metavar="N", help="Of each table.")] = 10_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="Small tables, to see whether everything runs.")] = False,
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
    to: Annotated[
        Path,
        typer.Option("--json", metavar="PATH", show_default=".bench/audit.json", help="Where the figures go."),
    ] = BENCH / "audit.json",
) -> None:
    """Compare two large tables, and say how long it took and how much memory."""
    folder = BENCH / "audit"
    if one is not None:
        json.dump(measure(folder, one), sys.stdout)
        return
    console = Console(width=None if Console().is_terminal else 200)
    try:
        tables(folder, 100_000 if quick else rows)
        size = (folder / "first.parquet").stat().st_size
        command = [sys.executable, "-m", "tests.benchmarks.audit", "--one"]
        home = {"DENOGRAD_HOME": str(folder / "home")}
        found = [
            json.loads(subprocess.run([*command, name], check=True, capture_output=True, env=os.environ | home).stdout)
            for name in ("same order", "another order")
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    printed = Printed("rows", "in both", "added", "removed", "cells changed", "seconds", "processor s", "memory")
    for each in found:
        counts = [f"{each[name]:,}" for name in ("rows", "added", "removed", "cells_changed")]
        times = [f"{each[name]:.1f}" for name in ("seconds", "busy")]
        printed.add_row(each["second"], *counts, *times, f"{each['above'] / 1e6:,.0f} MB")
    console.print(printed)
    described = machine.describe(torch.device("cpu"))
    console.print(f"Parquet of {size / 1e6:,.0f} MB each, DuckDB held to {MEMORY}. {machine.in_words(described)}.")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps({"machine": described, "bytes": size, "found": found}, indent=2) + "\n")


if __name__ == "__main__":
    app()
