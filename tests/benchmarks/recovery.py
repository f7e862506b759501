"""What does each rule, and each way of smoothing, recover of the truth, and what does it cost?

    python -m tests.benchmarks.recovery
    python -m tests.benchmarks.recovery --seeds 1 --only table

The truth protocol on the demonstration's data: noise of 0.3 standard deviations on every column, a backbone trained on
the noisy data, and the error that is left after refinement over the error before: 1 recovers nothing, 0 everything.
Means over seeds, which decide noise, weights and split, and their range. Nothing is tuned here: all is at its default.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import mean
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table

from denograd_engine import (
    Refining,
    Schema,
    Series,
    Training,
    add_gaussian_noise,
    infer_schema,
    recovery,
    refine,
    train,
)
from denograd_engine.smoothing import Smoothing
from denograd_flows.demo import nuclei, weather
from tests.benchmarks import machine

NOISE = 0.3
HOURS = 4000
"""Of the year of weather: enough to learn from, and quick."""
WAYS = {
    "denograd": Refining(device="cpu"),
    "denograd, smoothgrad": Refining(smoothing=Smoothing("smoothgrad"), device="cpu"),
    "denograd, noisegrad": Refining(smoothing=Smoothing("noisegrad"), device="cpu"),
    "denograd, fusiongrad": Refining(smoothing=Smoothing("fusiongrad"), device="cpu"),
    "gauss_newton": Refining(rule="gauss_newton", device="cpu"),
    "gauss_newton, the other anchor": Refining(rule="gauss_newton", device="cpu"),
    "gauss_newton, smoothgrad": Refining(rule="gauss_newton", smoothing=Smoothing("smoothgrad"), device="cpu"),
    "proximal": Refining(rule="proximal", device="cpu"),
}


@dataclass(frozen=True)
class Case:
    """Clean data, the roles of its columns, and what reads them."""

    name: str
    clean: Callable[[], pd.DataFrame]
    roles: Callable[[pd.DataFrame], Schema]
    kind: str


CASES = (
    Case("table", nuclei, lambda frame: infer_schema(frame, "worst perimeter"), "mlp"),
    Case(
        "series",
        lambda: weather().head(HOURS),
        lambda frame: infer_schema(frame, "temp_air", series=Series("time", window=24)),
        "mlp",
    ),
)


def measure(case: Case, seed: int) -> Iterator[tuple[str, float, float, float, float]]:
    """Of each way: error left in targets and in features, residual left, seconds."""
    clean = case.clean()
    schema = case.roles(clean)
    noisy = add_gaussian_noise(clean, schema.refined, NOISE, seed)
    backbone = train(noisy, schema, case.kind, training=Training(seed=seed, device="cpu"))
    for name, refining in WAYS.items():
        if "anchor" in name:
            refining = replace(refining, arguments={"anchored": schema.series is not None})  # noqa: PLW2901
        started = time.perf_counter()
        result = refine(noisy, backbone, refining)
        seconds = time.perf_counter() - started
        targets = [name for name in schema.targets if schema[name].refined]
        left = recovery(clean, noisy, result.frame, schema.features, targets)
        yield name, left.targets, left.features, result.totals.residual_after, seconds


def spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog="Examples:  python -m tests.benchmarks.recovery --seeds 1 --only table")
def main(
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Seeds 0 to N-1.")] = 3,
    only: Annotated[str | None, typer.Option(metavar="NAME", help="table or series.")] = None,
) -> None:
    """Measure what is recovered of clean data, rule by rule."""
    console = Console(width=None if Console().is_terminal else 160)
    for case in CASES:
        if only not in (None, case.name):
            continue
        found: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(seeds):
            for name, *figures in measure(case, seed):
                found.setdefault(name, []).append(tuple(figures))
        table = Table(title=f"{case.name}, {case.kind}, noise {NOISE} std, {seeds} seeds: mean (range)")
        for heading in ("rule", "error left, target", "error left, features", "residual left", "seconds"):
            table.add_column(heading, justify="left" if heading == "rule" else "right")
        for name, rows in found.items():
            targets, features, residual, seconds = (list(column) for column in zip(*rows, strict=True))
            cells = (spread(targets), spread(features), f"{mean(residual):.3f}", f"{np.median(seconds):.2f}")
            table.add_row(name, *cells)
        console.print(table)
    console.print(machine.in_words(machine.describe(torch.device("cpu"))))


if __name__ == "__main__":
    app()
