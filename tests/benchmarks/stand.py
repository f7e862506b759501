"""The measuring stand over real data: `denograd bench` for many data sets at once, with ranks over all of them.

    python -m tests.benchmarks.stand ../shared/data
    python -m tests.benchmarks.stand ../shared/data --only parkinsons --only etth1 --seeds 1 --rows 1000

The roles of the columns are in `schemas/`, a file for each data set, beside which its data would lie; here they are
taken from the folder given. A data set that is not there is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

from denograd_engine.bench.case import Noise
from denograd_engine.bench.grid import Grid, Subject
from denograd_flows.bench import TABLE, print_benchmark, subject_of, work_off
from denograd_tasks.settings import load_settings
from tests.benchmarks.peer import BENCH

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
        found.append(subject_of(here, most if most < 10**9 else None, methods, models))
    return found


def markdown(long: pd.DataFrame) -> str:
    """What our rule leaves of the error on each data set, means over seeds, beside the next best method's all cells."""
    plain = long[long["model"] == ""]
    found = plain.pivot_table(index=["dataset", "method"], columns="measure", values="value", sort=False)
    lines = [f"| data | {' | '.join(SHOWN.values())} | next best, all cells |", "| --- " * (len(SHOWN) + 2) + "|"]
    for name, methods in found.groupby(level="dataset", sort=False):
        each = methods.droplevel("dataset")
        others = each.drop(index=[OURS, "none"], errors="ignore")["recovery_cells"].sort_values()
        ours = " | ".join("-" if pd.isna(value) else f"{value:.3f}" for value in each.loc[OURS, list(SHOWN)])
        lines.append(f"| {name} | {ours} | {others.index[0]} {others.iloc[0]:.3f} |")
    return "\n".join(lines)


@app.command(epilog="Examples:  python -m tests.benchmarks.stand ../shared/data --only parkinsons --seeds 1")
def main(
    data: Annotated[Path, typer.Argument(help="The folder with the Parquet files.")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Just these data sets.")] = None,
    noise: Annotated[list[float] | None, typer.Option(help="In std of each column.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Kinds of noise.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Just these methods.")] = None,
    models: Annotated[str, typer.Option(help="quick, all, or names with commas.")] = "quick",
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Seeds 0 to N-1.")] = 3,
    rows: Annotated[int | None, typer.Option(help="At most so many of each data set.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes side by side.")] = None,
    unknown_noise: Annotated[bool, typer.Option("--unknown-noise", help="Do not tell methods its size.")] = False,
    out: Annotated[Path, typer.Option(help="Where results are kept.")] = BENCH / "stand",
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Measure nothing: print the README's table from what --out holds.")
    ] = False,
) -> None:
    """Measure every method on every data set."""
    if as_markdown:
        print(markdown(pd.read_parquet(out / TABLE)))
        return
    console = Console(width=None if Console().is_terminal else 160)
    chosen: str | list[str] = models if models in ("quick", "all") else models.split(",")
    found = subjects(data, only or [], rows, method or [], chosen)
    if not found:
        raise SystemExit(f"none of the data sets is in {data}")
    noises = tuple(Noise(one, std, not unknown_noise) for one in kind or ["gaussian"] for std in noise or [0.2])
    print_benchmark(work_off(Grid(tuple(found), noises, tuple(range(seeds))), out, jobs, console), console)


if __name__ == "__main__":
    app()
