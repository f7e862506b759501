"""The measuring stand over real data: `denograd bench` for many data sets at once, with ranks over all of them.

    python -m tests.benchmarks.stand DATA
    python -m tests.benchmarks.stand DATA --only parkinsons --only etth1 --seeds 1 --rows 1000
    python -m tests.benchmarks.stand DATA --method posterior --method published_2.0.0 --told 0.5 --told 2

The roles of the columns are in `schemas/`, a file for each data set, beside which its data would lie; here they are
taken from the folder given. A data set that is not there is left out. The published releases compete as well, except
where the target is a class.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

from denograd_engine.bench.case import Noise
from denograd_engine.bench.grid import Grid, Subject
from denograd_engine.bench.methods import NONE, suited
from denograd_engine.bench.results import GROUP, Results
from denograd_flows.bench import TABLE, print_benchmark, subject_of, work_off
from denograd_flows.bench_page.page import coverage_named, title_of
from denograd_tasks.settings import load_settings
from tests.benchmarks.peer import BENCH, installed
from tests.benchmarks.published import METHODS, VERSIONS

SCHEMAS = Path(__file__).with_name("schemas")
MOST_ROWS = {"daily_climate": 1461}
"""Where a data set cannot be used to its end."""

OURS = "posterior"
SHOWN = {
    "recovery_features": "features",
    "recovery_targets": "target",
    "recovery_cells": "all cells",
    "recovery_test_features": "features without target",
    "downstream": "downstream",
    "swd_ratio": "SWD",
    "coverage_90": "90% intervals hold",
}

OVERALL = {
    "recovery_features": "features",
    "recovery_targets": "target",
    "downstream": "downstream",
    "swd_ratio": "SWD to clean",
    "rank": "rank",
    "imp": "paper: Imp %",
    "paper_swd": "SWD to noisy",
    "paper_rho": "rho",
    "paper_rank": "paper: rank",
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def subjects(
    data: Path, only: list[str], rows: int | None, methods: list[str], models: str | list[str]
) -> list[Subject]:
    """The data sets that are there."""
    found = []
    for schema in sorted(SCHEMAS.glob("*.yaml")):
        settings = load_settings(schema)
        source = data / Path(settings.source).name
        name = settings.dataset
        if (only and name not in only) or not source.exists():
            continue
        most = min(rows or MOST_ROWS.get(name, 10**9), MOST_ROWS.get(name, 10**9))
        here = settings.model_copy(update={"source": str(source)})
        wanted = methods or [*suited("table" if settings.series is None else "series"), *METHODS]
        if settings.columns.task == "classification":
            wanted = [one for one in wanted if one not in METHODS]
        specs = [METHODS.get(one, one) for one in wanted]
        found.append(subject_of(here, most if most < 10**9 else None, specs, models))
    return found


def markdown(results: Results) -> str:
    """The README's tables, a pair for each noise: our rule on each data set, and every method over all of them."""
    noises = GROUP[1:]
    parts = [
        f"{title(values)}\n\n{by_data_set(part)}\n\n{by_method(Results(part, ()).overall())}"
        for values, part in results.long.groupby(noises, sort=False)
    ]
    return "\n\n".join(parts)


def title(noise: tuple[Any, ...]) -> str:
    """`gaussian noise of 0.3 std`."""
    return title_of(("", *noise)).removeprefix(", ")


def by_data_set(long: pd.DataFrame) -> str:
    """What our rule leaves of the error on each data set, means over seeds, beside the next best method's all cells."""
    plain = long[long["model"] == ""]
    found = plain.pivot_table(index=["dataset", "method"], columns="measure", values="value", sort=False)
    rows = []
    for name, methods in found.groupby(level="dataset", sort=False):
        each = methods.droplevel("dataset").reindex(columns=[*SHOWN])
        others = each.drop(index=[OURS, NONE], errors="ignore")["recovery_cells"].dropna().sort_values()
        best = [f"{others.index[0]} {others.iloc[0]:.3f}"] if len(others) else ["-"]
        rows.append([str(name), *map(_number, each.reindex([OURS]).iloc[0]), *best])
    return _table(["data", *SHOWN.values(), "next best, all cells"], rows)


def by_method(overall: pd.DataFrame) -> str:
    """Both protocols, means over data sets; a method that is not in all of them has no rank."""
    named = overall.assign(method=coverage_named(overall))
    rows = [[row["method"], *(_number(row[name]) for name in OVERALL)] for row in named.to_dict("records")]
    return _table(["method", *OVERALL.values()], rows)


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


@app.command(epilog="Examples:  python -m tests.benchmarks.stand ../shared/data --only parkinsons --seeds 1")
def main(
    data: Annotated[Path, typer.Argument(help="The folder with the Parquet files.")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Just these data sets.")] = None,
    noise: Annotated[list[float] | None, typer.Option(help="In std of each column.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Kinds of noise.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Just these methods, {' and '.join(METHODS)} among them.")
    ] = None,
    models: Annotated[str, typer.Option(help="quick, all, or names with commas.")] = "quick",
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="So many seeds.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, metavar="N", help="The first of them.")] = 0,
    rows: Annotated[int | None, typer.Option(help="At most so many of each data set.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes side by side.")] = None,
    unknown_noise: Annotated[bool, typer.Option("--unknown-noise", help="Do not tell methods its size.")] = False,
    told: Annotated[
        list[float] | None, typer.Option(metavar="FACTOR", help="What methods are told of its size, over what it is.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results are kept.")] = BENCH / "stand",
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Measure nothing: print the README's tables from what --out holds.")
    ] = False,
) -> None:
    """Measure every method on every data set."""
    if as_markdown:
        print(markdown(Results(pd.read_parquet(out / TABLE), ())))
        return
    console = Console(width=None if Console().is_terminal else 160)
    chosen: str | list[str] = models if models in ("quick", "all") else models.split(",")
    found = subjects(data, only or [], rows, method or [], chosen)
    if not found:
        raise SystemExit(f"none of the data sets is in {data}")
    for version in dict.fromkeys(
        VERSIONS[one] for subject in found for one in VERSIONS if METHODS[one] in subject.methods
    ):
        installed(version)
    noises = tuple(
        Noise(one, std, not unknown_noise, factor)
        for one, std, factor in product(kind or ["gaussian"], noise or [0.2], told or [1.0])
    )
    grid = Grid(tuple(found), noises, tuple(range(first_seed, first_seed + seeds)))
    print_benchmark(work_off(grid, out, jobs, console), console)


if __name__ == "__main__":
    app()
