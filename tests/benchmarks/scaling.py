"""How do time and memory grow with the data, and what does a GPU make of it?

    python -m tests.benchmarks.scaling
    python -m tests.benchmarks.scaling --quick

Time of our `refine` at 1, 4 and 16 times the rows, windows and epochs; peak memory of a large table in a process of
its own; and, where there is a GPU, the table of `speed` there, the share of time that its kernels compute, and the
largest batch that it holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from tests.benchmarks import cuda, machine
from tests.benchmarks.clock import timed
from tests.benchmarks.contestants import Ours
from tests.benchmarks.peer import BENCH
from tests.benchmarks.works import Claim, Work

TIMES = (1, 4, 16)
PLAIN = Claim("refine")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Axis:
    """What grows: rows (windows, in a series) of the smallest work, or its epochs."""

    title: str
    smallest: Work
    grows: str

    def grown(self, times: int) -> Work:
        return replace(self.smallest, **{self.grows: getattr(self.smallest, self.grows) * times})


def axes(quick: bool) -> Iterator[Axis]:
    less = 8 if quick else 1
    table = Work("table", 6_000 // less, 40, None, "mlp", {"hidden": (128, 64, 32)}, 20, (PLAIN,))
    yield Axis("rows, table of 40 columns", table, "rows")
    yield Axis("epochs, the same", replace(table, rows=24_000 // less, epochs=10), "epochs")
    series = Work("series", 2_000 // less, 7, 24, "lstm", {"hidden": 64}, 4, (PLAIN,))
    yield Axis("windows, LSTM, W = 24", series, "rows")
    dlinear = replace(series, rows=4_000 // less, kind="dlinear", arguments={}, epochs=20)
    yield Axis("windows, DLinear, W = 24", dlinear, "rows")


def growth(axis: Axis, repetitions: int, device: torch.device) -> dict[str, Any]:
    """Interleaved repetitions at each size, after a warm-up."""
    sizes = {times: axis.grown(times) for times in TIMES}
    seconds: dict[int, list[float]] = {times: [] for times in TIMES}
    for work in sizes.values():
        timed(Ours(work, PLAIN, device), 1, device)
    for _ in range(repetitions):
        for times, work in sizes.items():
            seconds[times].append(timed(Ours(work, PLAIN, device), work.epochs, device)[0])
    sizes_found = {
        times: {"size": getattr(work, axis.grows), "seconds": seconds[times]} for times, work in sizes.items()
    }
    return {"title": axis.title, "grows": axis.grows, "sizes": sizes_found}


def memory(rows: int, columns: int, dtype: str) -> dict[str, Any]:
    """In a process of its own, whose memory nothing else has touched."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--rows", str(rows), "--columns", str(columns)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    ended = subprocess.run(
        [*command, "--dtype", dtype], check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@app.command()
def main(
    repetitions: Annotated[int, typer.Option(min=1, metavar="N", help="Of each size.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of torch; default: its own.")] = None,
    rows: Annotated[
        int, typer.Option(min=1000, metavar="N", help="Of the table whose memory is measured.")
    ] = 1_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="Small data, to see whether everything runs.")] = False,
    to: Annotated[
        Path,
        typer.Option("--json", metavar="PATH", show_default=".bench/scaling.json", help="Where all repetitions go."),
    ] = BENCH / "scaling.json",
) -> None:
    """Measure how time and memory grow with the data, and use the GPU where there is one.

    \b
    python -m tests.benchmarks.scaling                    everything
    python -m tests.benchmarks.scaling --rows 200000      a smaller table for the memory
    python -m tests.benchmarks.scaling --quick            does everything run?
    """
    if threads is not None:
        torch.set_num_threads(threads)
    device, console = torch.device("cpu"), Console(width=None if Console().is_terminal else 200)
    console.print(machine.in_words(machine.describe(device)))
    grown = [growth(axis, repetitions, device) for axis in axes(quick) if axis.smallest.missing() is None]
    show_growth(grown, repetitions, console)
    size = (min(rows, 20_000) if quick else rows, 50)
    peaks = [memory(*size, dtype) for dtype in ("float32", "float64")]
    show_memory(peaks, console)
    gpu = cuda.measure(repetitions, quick, console)
    found = {"machine": machine.describe(device), "growth": grown, "memory": peaks, "gpu": gpu}
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"All repetitions are in {to}.")


def show_growth(grown: list[dict[str, Any]], repetitions: int, console: Console) -> None:
    table = Table("what grows", *(f"{times}x" for times in TIMES), *(f"{times}x / linear" for times in TIMES[1:]))
    for axis in grown:
        seconds = {times: median(one["seconds"]) for times, one in axis["sizes"].items()}
        cells = [f"{one['size']:,}: {seconds[times]:.2f} s" for times, one in axis["sizes"].items()]
        ratios = [f"{seconds[times] / seconds[1] / times:.2f}" for times in TIMES[1:]]
        table.add_row(axis["title"], *cells, *ratios)
    console.print(table)
    console.print(f"Whole calls of refine, medians of {repetitions} interleaved repetitions after a warm-up.")


def show_memory(peaks: list[dict[str, Any]], console: Console) -> None:
    table = Table("memory of refine", "input", "peak above it", "one batch", "peak / (input + batch)", "result", "time")
    for peak in peaks:
        title = f"{peak['rows']:,} x {peak['columns']}, {peak['dtype']}, {peak['epochs']} epochs"
        sizes = [f"{peak[name] / 1e6:,.0f} MB" for name in ("input", "above", "batch")]
        ratio = peak["above"] / (peak["input"] + peak["batch"])
        table.add_row(title, *sizes, f"{ratio:.2f}", f"{peak['result'] / 1e6:,.0f} MB", f"{peak['seconds']:.1f} s")
    console.print(table)
    console.print("The peak is above what the process held just before the call, so the result is part of it.")


if __name__ == "__main__":
    app()
