"""How long does a look for drift take when many rows have arrived?

    python -m tests.benchmarks.watch
    python -m tests.benchmarks.watch --quick

A table of 20 columns is published, by a network and by a posterior model; then `--rows` rows are added to its source,
and looked at. Reading, comparing, the model's residuals and the bookmark are the watch's own work; the whole command
starts Python and a temporary Prefect server besides.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table as Printed

from denograd_tasks.settings import load_settings
from denograd_tasks.store import open_store
from denograd_tasks.watch.bookmark import write_bookmark
from denograd_tasks.watch.check import check
from tests.benchmarks import machine
from tests.benchmarks.peer import BENCH

COLUMNS = 20
REFERENCE = 20_000
BAR = 5.0
"""Seconds of the watch's own work that are few enough for a look every few minutes."""
NAMES = ["y", *(f"x{at}" for at in range(1, COLUMNS))]
OPEN = {"skill": {"min": -9}, "swd": {"max": 9}, "rho": {"min": -1}, "std_ratio": {"min": 0, "max": 9}}
NETWORK = {"backbone": {"training": {"epochs": 5}}, "refine": {"rule": "denograd", "max_epochs": 5}}
POSTERIOR = {"refine": {"arguments": {"fewest_steps": 50, "most_steps": 50}}}
MODELS: dict[str, dict[str, Any]] = {
    "network": NETWORK,
    "posterior, one noisy column": POSTERIOR | {"columns": {"target": "y", "noise": {"y": 0.5}}},
    "posterior, all columns noisy": POSTERIOR | {"columns": {"target": "y", "noise": dict.fromkeys(NAMES, 0.3)}},
}
"""Quick to make: what a look costs does not depend on how long a model was fitted."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def table(rows: int, seed: int) -> pa.Table:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((rows, COLUMNS))
    values[:, 0] = values[:, 1:4].sum(axis=1) + 0.5 * values[:, 0]
    return pa.table(dict(zip(NAMES, values.T, strict=True)))


def publish(folder: Path, changes: dict[str, Any]) -> None:
    """A version, and beside it what its source will be."""
    folder.mkdir(parents=True)
    pq.write_table(table(REFERENCE, 0), folder / "data.parquet")
    plain = {"dataset": "watched", "source": "data.parquet", "columns": {"target": "y"}, "gates": OPEN}
    (folder / "denograd.yaml").write_text(json.dumps(plain | changes))
    command(folder, "run")


def command(folder: Path, name: str) -> float:
    """Seconds of a command."""
    home = {"DENOGRAD_HOME": str(folder / "home")}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "denograd_flows", name, str(folder / "denograd.yaml"), "--json"],
        check=True,
        capture_output=True,
        env=os.environ | home,
    )
    return time.perf_counter() - started


def measure(folder: Path) -> dict[str, Any]:
    """Looks in this process, each remembered by the next: at nothing new, then at all that arrived."""
    settings = load_settings(folder / "denograd.yaml")
    store = open_store(settings.publish.root)
    found = []
    for arrived in (False, True):
        if arrived:
            (folder / "grown.parquet").replace(folder / "data.parquet")
        started = time.perf_counter()
        looked = check(settings)
        write_bookmark(store, settings.dataset, looked.bookmark)
        found.append(time.perf_counter() - started)
    return {"first": found[0], "seconds": found[1], "arrived": looked.watched.arrived}


@app.command()
def main(
    rows: Annotated[int, typer.Option(min=1000, metavar="N", help="That arrive.")] = 100_000,
    quick: Annotated[bool, typer.Option("--quick", help="Few rows, to see whether everything runs.")] = False,
    one: Annotated[Path | None, typer.Option(hidden=True)] = None,
    to: Annotated[
        Path, typer.Option("--json", metavar="PATH", show_default=".bench/watch.json", help="Where the figures go.")
    ] = BENCH / "watch.json",
) -> None:
    """Look for drift in many new rows, and say how long it took."""
    if one is not None:
        json.dump(measure(one), sys.stdout)
        return
    console = Console(width=None if Console().is_terminal else 160)
    folder, results = BENCH / "watch", []
    printed = Printed("model", "rows", "own work, s", "first look, nothing new, s", "whole command, nothing new, s")
    came = pa.concat_tables([table(REFERENCE, 0), table(2_000 if quick else rows, 1)])
    for name, changes in MODELS.items():
        try:
            publish(folder, changes)
            pq.write_table(came, folder / "grown.parquet")
            measured = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.watch", "--one", str(folder)],
                check=True,
                capture_output=True,
                env=os.environ | {"DENOGRAD_HOME": str(folder / "home")},
            )
            found = json.loads(measured.stdout) | {"model": name, "command": command(folder, "watch")}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        results.append(found)
        times = [f"{found[what]:.2f}" for what in ("seconds", "first", "command")]
        printed.add_row(name, f"{found['arrived']:,}", *times)
    console.print(printed)
    described = machine.describe(torch.device("cpu"))
    slowest = max(found["seconds"] for found in results)
    console.print(f"Slowest {slowest:.2f} s, to be at most {BAR:g} s. {machine.in_words(described)}.")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps({"machine": described, "bar": BAR, "found": results}, indent=2) + "\n")


if __name__ == "__main__":
    app()
