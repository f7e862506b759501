"""Measuring methods on a user's own data: noise of a known size is added, removed again, and the outcome told.

Nothing here runs in Prefect; the cells of the grid are processes of their own.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from denograd_engine.bench import records, runner
from denograd_engine.bench.case import Case, Noise
from denograd_engine.bench.grid import Cell, Grid, Subject
from denograd_engine.bench.methods import NONE, Recipe, labels
from denograd_engine.bench.records import Result
from denograd_engine.bench.results import GROUP, Results, gather
from denograd_engine.errors import ConfigError
from denograd_flows.bench_page.page import (
    FAULTS,
    OVERALL,
    PAPER,
    SHORT,
    best_of,
    coverage_named,
    render_page,
    title_of,
    winning,
)
from denograd_flows.summary import short as short_path
from denograd_tasks.home import home
from denograd_tasks.roles import refining_of, schema_of, training_of
from denograd_tasks.settings import Settings
from denograd_tasks.sources import open_source, read_batches, unreadable
from denograd_tasks.tables import to_frame

if TYPE_CHECKING:
    import pandas as pd

PAGE, TABLE = "benchmark.html", "results.parquet"


@dataclass(frozen=True)
class Asked:
    """What the user asked for.

    Attributes:
        kinds: Kinds of noise.
        stds: Sizes of noise, as shares of each column's std.
        known: Whether methods are told them.
        seeds: How many.
        methods: By name; none takes all that suit the data.
        models: `quick`, `all`, or names with commas between.
        rows: Rows or steps at most; None takes the usual number.
        jobs: Processes side by side; None takes one for each core.
        out: Where everything is kept; None takes a folder of the data set below the home folder.
    """

    kinds: tuple[str, ...] = ("gaussian",)
    stds: tuple[float, ...] = (0.2,)
    known: bool = True
    seeds: int = 3
    methods: tuple[str, ...] = ()
    models: str = "quick"
    rows: int | None = None
    jobs: int | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """What came out.

    Attributes:
        grid: What was measured.
        counts: How many cells were computed, there already, and failed.
        results: All figures.
        page: The HTML page.
        table: The figures in long form, as Parquet.
    """

    grid: Grid
    counts: runner.Counts
    results: Results
    page: Path
    table: Path

    @property
    def worked(self) -> bool:
        """Whether any method besides `none` was measured at all."""
        return bool((self.results.long["method"] != NONE).any())

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        ranking = self.results.ranking()
        methods = self.results.short().merge(self.results.paper(), on=[*GROUP, "method"])
        return {
            "status": "done" if self.worked else "failed",
            "datasets": [subject.case.name for subject in self.grid.subjects],
            "cells": {"computed": self.counts.computed, "reused": self.counts.reused, "failed": self.counts.failed},
            "winner": self.results.winner(),
            "methods": [_finite(row) for row in methods.to_dict("records")],
            "ranking": {
                "average": _finite(ranking.average.to_dict()),
                "measurements": ranking.blocks,
                "left_out": list(ranking.left_out),
                "friedman_p": ranking.p_value,
            },
            "failures": [vars(one) for one in self.results.failures],
            "page": str(self.page),
            "results": str(self.table),
        }


def run_bench(settings: Settings, asked: Asked, console: Console) -> Benchmark:
    """Measure the methods on a configuration's data, and write the page.

    Raises:
        ConfigError: If there is no such method, model or noise.
        DataError: If the data cannot be measured.
    """
    methods = tuple(dict.fromkeys(_anchored(name) for name in asked.methods))
    noises = tuple(Noise(kind, std, asked.known) for kind in asked.kinds for std in asked.stds)
    models: str | list[str] = asked.models if asked.models in ("quick", "all") else asked.models.split(",")
    subject = subject_of(settings, asked.rows, methods, models)
    grid = Grid((subject,), noises, tuple(range(asked.seeds)))
    folder = (asked.out or home() / "bench" / settings.dataset).absolute()
    return work_off(grid, folder, asked.jobs, console)


def subject_of(
    settings: Settings, rows: int | None, methods: Sequence[str] = (), models: str | Sequence[str] = "quick"
) -> Subject:
    """The data set of a configuration, and what its sections say of training and refining."""
    if (settings.backbone.kind or "").startswith("models:"):
        raise ConfigError(
            "a model from the registry cannot be benchmarked: it has seen the data that are taken as the truth",
            found=settings.backbone.kind,
            where="backbone.kind",
            remedy="name an architecture, which is trained on the noisy data",
        )
    frame = read_frame(settings.source)
    recipe = Recipe(settings.backbone.kind, settings.backbone.arguments, training_of(settings), refining_of(settings))
    return Subject.of(Case.of(settings.dataset, frame, schema_of(frame, settings), rows), recipe, methods, models)


def read_frame(source: str) -> pd.DataFrame:
    """The whole of a source."""
    dataset = open_source(source)
    try:
        return to_frame(pa.Table.from_batches(read_batches(source, dataset), dataset.schema))
    except pa.ArrowException as error:
        raise unreadable(source, error) from None


def work_off(grid: Grid, folder: Path, jobs: int | None, console: Console) -> Benchmark:
    """Measure what is not there yet, gather everything, and write table and page."""
    with BenchView(console, grid, folder, jobs) as view:
        counts = runner.run(grid, folder, jobs, view.done)
    results = gather(grid, folder)
    table, page = folder / TABLE, folder / PAGE
    results.write(table)
    records.replace(page, render_page(grid, results, _machine()).encode())
    return Benchmark(grid, counts, results, page, table)


class BenchView:
    """A line for each cell as it is done; in a terminal, below them how far it is."""

    def __init__(self, console: Console, grid: Grid, folder: Path, jobs: int | None) -> None:
        self.console, self.total = console, len(grid.cells)
        self.progress = Progress(
            TextColumn("  "),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("", total=self.total)
        self.reused = 0
        for subject in grid.subjects:
            case = subject.case
            train, test = case.split(0)
            unit = "rows" if case.schema.series is None else "steps"
            console.print(
                f"[bold]{case.name}[/bold]: {len(train):,} {unit} to refine, {len(test):,} to test on, "
                f"noise on {len(case.noisy)} columns",
                highlight=False,
            )
            console.print(f"  methods: {', '.join(labels(subject.methods).values())}", highlight=False)
            console.print(f"  downstream: {', '.join(subject.models)}", highlight=False)
        noises, seeds = len(grid.noises), len(grid.seeds)
        counts = f"{noises} noise{'s' * (noises > 1)} x {seeds} seed{'s' * (seeds > 1)} x methods = {self.total} cells"
        side_by_side = jobs or runner.cores()
        console.print(f"  {counts}, {side_by_side} side by side; kept in {short_path(str(folder))}", highlight=False)

    def __enter__(self) -> BenchView:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if self.reused:
            self.console.print(Text(f"  ↻ {self.reused} cells were there already", "cyan"))

    def done(self, cell: Cell, result: Result, reused: bool) -> None:
        """A cell is there."""
        self.progress.advance(self.task)
        if reused:
            self.reused += 1
            return
        mark = ("  ✗ ", "red") if result.failed else ("  ✓ ", "green")
        noise = cell.noise
        told = "" if noise.told == 1 else f"told {noise.told:g} times that "
        what = f"{cell.dataset} {noise.kind} {noise.std:g} {told}seed {cell.seed} "
        if result.error is not None:
            text = result.error.partition("\n")[0]
        else:
            text = f"recovery {result.figures['recovery_cells']:.3f}, {result.figures['seconds']:.1f} s"
        line = Text.assemble(mark, (what, "dim"), f"{cell.label:<16} ", text)
        self.console.print(line, highlight=False, soft_wrap=True)


def print_benchmark(benchmark: Benchmark, console: Console) -> None:
    """Both protocols in short, who won, and where the rest is."""
    results, by = benchmark.results, [*GROUP, "method"]
    table = results.short().merge(results.paper(), on=by).merge(results.table([*FAULTS]), on=by)
    console.print()
    for values, group in table.groupby(GROUP, sort=False):
        rows = group.sort_values("rank", kind="stable")
        console.print(f"[bold]{title_of(values)}[/bold]", highlight=False)
        for heading, figures in (("against the truth", SHORT), ("the paper's protocol", PAPER)):
            _print_table(console, heading, rows, figures)
        stated = rows.dropna(subset=[*FAULTS], how="all")
        if len(stated):
            _print_table(console, "cells called faulty", stated, FAULTS)
    overall = results.overall()
    most = overall["groups"].max()
    if most > 1:
        console.print("[bold]over all data sets and noises[/bold]")
        whole, named = overall[overall["groups"] == most], overall.assign(method=coverage_named(overall))
        truth = {name: heading for name, heading in OVERALL.items() if name not in PAPER}
        for heading, figures in (("against the truth", truth), ("the paper's protocol", PAPER)):
            _print_table(console, heading, named, figures, whole)
    console.print(
        "  against the truth: error left over noise added, downstream error and SWD over those of the noisy data;\n"
        "  less is better, 1 is no better than doing nothing\n"
        "  the paper's protocol trains and tests downstream models on refined data, which flatters whatever smooths;\n"
        "  more Imp % is better, and ranks are by it",
        style="dim",
        highlight=False,
    )
    for failure in benchmark.results.failures:
        what = f"{failure.dataset} {failure.noise} {failure.std:g} seed {failure.seed} {failure.method}"
        console.print(Text.assemble(("  ✗ ", "red"), what, ": ", failure.error), highlight=False)
    console.print(f"\n  {winning(benchmark.results, benchmark.results.ranking())}", style="bold", highlight=False)
    for name, path in (("page", benchmark.page), ("figures", benchmark.table)):
        console.print(Text.assemble((f"  {name:<8}", "dim"), short_path(str(path))), highlight=False, soft_wrap=True)


def _print_table(
    console: Console, title: str, rows: pd.DataFrame, headings: dict[str, str], judged: pd.DataFrame | None = None
) -> None:
    """The best figures, of the rows that are judged, in colour: None takes all."""
    best = best_of(rows if judged is None else judged)
    shown = Table(box=None, padding=(0, 2), header_style="dim")
    shown.add_column(title, no_wrap=True)
    there = {name: heading for name, heading in headings.items() if rows[name].notna().any()}
    for heading in there.values():
        shown.add_column(heading.lower(), justify="right")
    for row in rows.to_dict("records"):
        cells = [Text(_number(row[name]), "green" if row[name] == best.get(name) else "") for name in there]
        shown.add_row(row["method"], *cells)
    console.print(shown)
    console.print()


def _anchored(name: str) -> str:
    """A file of the user's own by its whole path, which other processes find as well."""
    place, colon, function = name.rpartition(":")
    return f"{Path(place).expanduser().absolute()}:{function}" if colon and place.endswith(".py") else name


def _machine() -> str:
    import torch

    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    return f"One thread a measurement, on {os.cpu_count()} cores; {system}."


def _number(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.3f}" if value < 9.9995 else f"{value:.1f}"


def _finite(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(name): None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
