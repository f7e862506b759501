"""How long does it take to write the catalog of a large root?

    python -m tests.benchmarks.catalog
    python -m tests.benchmarks.catalog --versions 100

A root of so many versions of three data sets, with manifests of 20 columns as long as real ones and as many files
beside them, a history of drift, and a quarantine. The command runs as a user runs it: a process of its own, with the
start of Python.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from denograd_tasks.store import Store
from tests.benchmarks import machine
from tests.benchmarks.peer import BENCH
from tests.roots import publish_made_up, refuse_made_up, watch_made_up

SHARES = {"stations": 0.8, "boilers": 0.15, "pumps": 0.05}
COLUMNS = [f"sensor {at}" for at in range(20)]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def make(root: Path, versions: int) -> None:
    store = Store(str(root))
    for name, share in SHARES.items():
        drifts = range(20, int(versions * share), 40)
        publish_made_up(store, name, max(1, round(versions * share)), COLUMNS, drifts)
        watch_made_up(store, name, drifts)
    refuse_made_up(store, "stations", versions + 1, COLUMNS)


@app.command()
def main(
    versions: Annotated[int, typer.Option(min=20, metavar="N", help="Of all data sets together.")] = 1000,
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="How often it is written.")] = 5,
    to: Annotated[
        Path, typer.Option("--json", metavar="PATH", show_default=".bench/catalog.json", help="Where the figures go.")
    ] = BENCH / "catalog.json",
) -> None:
    """Write the catalog of a large root, and say how long it took."""
    folder, console = BENCH / "catalog", Console()
    command = [sys.executable, "-m", "denograd_flows", "catalog", "--root", str(folder / "root")]
    command += ["--output", str(folder / "site"), "--json"]
    environment = os.environ | {"DENOGRAD_HOME": str(folder / "home")}
    shutil.rmtree(folder, ignore_errors=True)
    try:
        make(folder / "root", versions)
        seconds, busy = [], []
        for _ in range(repeat):
            started, before = time.perf_counter(), os.times()
            done = subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds.append(time.perf_counter() - started)
            after = os.times()
            busy.append(sum(after[2:4]) - sum(before[2:4]))
        written = json.loads(done.stdout)
        pages = list((folder / "site").rglob("*.html"))
        size = sum(path.stat().st_size for path in pages)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    described = machine.describe(torch.device("cpu"))
    middle, most = statistics.median(seconds), max(seconds)
    console.print(f"{written['versions']:,} versions, {len(pages):,} pages, {size / 1e6:,.1f} MB")
    console.print(f"{middle:.2f} s in the median of {repeat}, {most:.2f} s at most.", end=" ")
    console.print(f"Processor: {statistics.median(busy):.2f} s. {machine.in_words(described)}.")
    found = {"versions": written["versions"], "pages": len(pages), "bytes": size, "seconds": seconds, "busy": busy}
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps({"machine": described, **found}, indent=2) + "\n")


if __name__ == "__main__":
    app()
