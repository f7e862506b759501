"""What does the watch for drift find, how soon, how often is it wrong, and what does a check cost?

    python -m tests.benchmarks.drift
    python -m tests.benchmarks.drift --quick

Found: a table of independent columns, watched in batches, of which one changes; a relation that changes while every
column keeps its distribution, seen in the residuals of a backbone. Wrong: quarters of checks every 15 minutes without
any change, begun anew after each alarm. Everything is at its default.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.signal import lfilter

from denograd_engine import Series, Training, infer_schema, train
from denograd_engine.drift.profile import profile_of
from denograd_engine.drift.watch import AVERAGE_RUN, Watch
from denograd_engine.problem import pose
from denograd_engine.training import Backbone
from tests.benchmarks import machine

REFERENCE = 10_000
COLUMNS = 20
BATCH = 100
BEFORE, AFTER = 2_000, 2_000
"""Rows that are watched before the change, and within which it is to be found."""
QUARTER, MONTH = 90 * 96, 30 * 96
"""Checks."""
ROWS_A_CHECK = 5
DAYS = 30
"""Of the reference of a series."""
MEMORY = 0.9
DAILY = (0.0, 1.5, 0.0, 1.5, 0.0)
"""Amplitude of each channel's daily wave, in std."""

Values = NDArray[np.float64]


def independent(generator: Generator, rows: int) -> Values:
    return generator.standard_normal((rows, COLUMNS))


def related(generator: Generator, rows: int, by: int = 1) -> Values:
    """Column 0 follows column `by`, half of its variance."""
    values = independent(generator, rows)
    shape = np.sqrt(2) * np.sin(2 * values[:, by])
    values[:, 0] = 0.7 * shape + 0.7 * values[:, 0]
    return values


def of_one(change: Callable[[Values], Values]) -> Callable[[Generator, int], Values]:
    """Independent columns, the fourth changed."""

    def draw(generator: Generator, rows: int) -> Values:
        values = independent(generator, rows)
        values[:, 3] = change(values[:, 3])
        return values

    return draw


def frame_of(values: Values) -> pd.DataFrame:
    return pd.DataFrame(values, columns=["y", *(f"x{at}" for at in range(1, values.shape[1]))])


@dataclass(frozen=True)
class Change:
    name: str
    before: Callable[[Generator, int], Values]
    after: Callable[[Generator, int], Values]
    backbone: bool = False


CHANGES = (
    Change("shift of 0.3 std in one of 20 columns", independent, of_one(lambda x: x + 0.3)),
    Change("variance x 1.3 in one", independent, of_one(lambda x: x * np.sqrt(1.3))),
    Change("std x 1.3 in one", independent, of_one(lambda x: x * 1.3)),
    Change("y follows another column, marginals alike", related, lambda g, n: related(g, n, by=2), backbone=True),
)


def delay(change: Change, backbone: Backbone | None, seed: int) -> tuple[bool, int | None]:
    """Whether there was an alarm before the change, and rows until one after it."""
    generator = np.random.default_rng(seed)
    watch = watch_on(frame_of(change.before(generator, REFERENCE)), backbone)
    state = watch.fresh()
    for seen in range(0, BEFORE + AFTER, BATCH):
        frame = frame_of((change.before if seen < BEFORE else change.after)(generator, BATCH))
        checked = watch.check(state, frame, None if backbone is None else {"y": residuals(backbone, frame)})
        state = checked.state
        if not checked.verdict.holds:
            return seen < BEFORE, None if seen < BEFORE else seen + BATCH - BEFORE
    return False, None


def watch_on(frame: pd.DataFrame, backbone: Backbone | None) -> Watch:
    known = None if backbone is None else {"y": residuals(backbone, frame)}
    return Watch(profile_of(frame, infer_schema(frame, "y"), known))


def residuals(backbone: Backbone, frame: pd.DataFrame) -> Values:
    """Predicted less observed, of rows that the backbone was not trained on."""
    problem = pose(frame, backbone.encoder, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        x, y = problem.gather(problem.known)
        found: Values = (backbone.module(x).reshape(-1) - y.reshape(-1)).double().numpy()
    return found


def stationary(generator: Generator, rows: int) -> Iterator[pd.DataFrame]:
    """Of a table, the reference first, then batch by batch."""
    yield frame_of(independent(generator, REFERENCE))
    while True:
        yield frame_of(independent(generator, rows))


def autocorrelated(generator: Generator, rows: int) -> Iterator[pd.DataFrame]:
    """Channels of a series, the reference first, then batch by batch; some follow the hour of the day as well."""
    total = (DAYS + 90) * 96 * rows
    shocks = generator.standard_normal((total + 1000, len(DAILY))) * np.sqrt(1 - MEMORY**2)
    values = lfilter([1.0], [1.0, -MEMORY], shocks, axis=0)[1000:]
    hours = 2 * np.pi * np.arange(total)[:, None] / (96 * rows)
    frame = frame_of(values + np.array(DAILY) * np.sin(hours + np.arange(len(DAILY))))
    frame["time"] = pd.date_range("2024-01-01", periods=total, freq=pd.Timedelta(minutes=15) / rows)
    first = DAYS * 96 * rows
    yield frame.iloc[:first]
    for start in range(first, total, rows):
        yield frame.iloc[start : start + rows]


STILL = {
    "table, 20 columns": stationary,
    "series, AR(1) with 0.9, 5 channels": autocorrelated,
}


def alarms(draw: Callable[[Generator, int], Iterator[pd.DataFrame]], seed: int) -> tuple[int, int]:
    """Drifts and warnings in a quarter, an alarm that lasts counted once."""
    batches = draw(np.random.default_rng(seed), ROWS_A_CHECK)
    reference = next(batches)
    axis = Series("time") if "time" in reference else None
    watch = Watch(profile_of(reference, infer_schema(reference, "y", series=axis)))
    state, drifts, warnings, warned = watch.fresh(), 0, 0, False
    for _ in range(QUARTER):
        checked = watch.check(state, next(batches))
        state = checked.state
        warnings += checked.verdict.severity == "warning" and not warned
        warned = checked.verdict.severity != "none"
        if not checked.verdict.holds:
            drifts, state, warned = drifts + 1, watch.fresh(), False
    return drifts, warnings


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog="Examples:  python -m tests.benchmarks.drift --quick")
def main(
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="Of each change.")] = 100,
    quarters: Annotated[int, typer.Option(min=1, metavar="N", help="Of each kind of data without change.")] = 20,
    quick: Annotated[bool, typer.Option(help="20 trials and 2 quarters.")] = False,
) -> None:
    """Measure delay, false alarms, and the time of a check."""
    console = Console(width=None if Console().is_terminal else 160)
    torch.set_num_threads(1)
    if quick:
        trials, quarters = 20, 2
    console.print(_found(trials))
    console.print(_wrong(quarters))
    console.print(_cost())
    console.print(machine.in_words(machine.describe(torch.device("cpu"))))


def _found(trials: int) -> Table:
    table = Table(title=f"{REFERENCE:,} rows of reference, batches of {BATCH}, {trials} trials")
    for heading in ("change", f"found within {AFTER:,} rows", "alarm before it", "median rows until found"):
        table.add_column(heading, justify="left" if heading == "change" else "right")
    backbone = None
    for change in CHANGES:
        if change.backbone:
            frame = frame_of(change.before(np.random.default_rng(10**6), REFERENCE))
            backbone = train(frame, infer_schema(frame, "y"), training=Training(device="cpu"))
        results = [delay(change, backbone, seed) for seed in range(trials)]
        rows = [found for _, found in results if found is not None]
        early = sum(early for early, _ in results)
        table.add_row(change.name, f"{len(rows)} of {trials}", str(early), f"{np.median(rows):,.0f}")
    return table


def _wrong(quarters: int) -> Table:
    table = Table(title=f"No change: {quarters} quarters of a check every 15 minutes, {ROWS_A_CHECK} rows a check")
    for heading in ("data", "drifts in 30 days", "most in one quarter", "warnings in 30 days", "promised at most"):
        table.add_column(heading, justify="left" if heading == "data" else "right")
    for name, draw in STILL.items():
        found = [alarms(draw, seed) for seed in range(quarters)]
        drifts, warnings = (np.array(one) for one in zip(*found, strict=True))
        a_month = MONTH / QUARTER
        table.add_row(
            name,
            f"{drifts.mean() * a_month:.2f}",
            str(drifts.max()),
            f"{warnings.mean() * a_month:.2f}",
            f"{MONTH / AVERAGE_RUN:.0f} drift",
        )
    return table


def _cost() -> str:
    generator = np.random.default_rng(0)
    reference = frame_of(independent(generator, 100_000))
    started = time.perf_counter()
    watch = watch_on(reference, None)
    described = time.perf_counter() - started
    state, times = watch.fresh(), {}
    for rows in (ROWS_A_CHECK, 100_000):
        frame = frame_of(independent(generator, rows))
        taken = []
        for _ in range(5):
            started = time.perf_counter()
            watch.check(state, frame)
            taken.append(time.perf_counter() - started)
        times[rows] = float(np.median(taken))
    each = ", ".join(f"a check of {rows:,} rows {1000 * seconds:.1f} ms" for rows, seconds in times.items())
    return f"{COLUMNS} columns: reference of 100,000 rows {described:.2f} s, {each}"


if __name__ == "__main__":
    app()
