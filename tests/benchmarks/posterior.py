"""What does the rule posterior cost, fitted and applied?

python -m tests.benchmarks.posterior
python -m tests.benchmarks.posterior --rows 10000 --columns 10
"""

from __future__ import annotations

import time
from typing import Annotated

import torch
import typer
from rich.console import Console

from denograd_engine import infer_schema
from denograd_engine.posterior.model import fit_posterior
from denograd_engine.posterior.refining import clean
from denograd_engine.posterior.task import Fit
from tests.benchmarks import machine
from tests.benchmarks.works import table

NOISE = 0.3

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog="Examples:  python -m tests.benchmarks.posterior --rows 10000 --columns 10")
def main(
    rows: Annotated[int, typer.Option(min=100, help="Of the table.")] = 100_000,
    columns: Annotated[int, typer.Option(min=3, help="Of the table, the target among them.")] = 20,
    repetitions: Annotated[int, typer.Option(min=1, metavar="N", help="Of the refinement alone.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Time the training and the refinement of a table whose columns are all noisy."""
    console = Console(width=None if Console().is_terminal else 160)
    frame = table(rows, columns)
    noise = {str(name): NOISE * float(frame[name].std()) for name in frame.columns}
    schema = infer_schema(frame, target="y", features=[name for name in noise if name != "y"], noise=noise)
    started = time.perf_counter()
    model = fit_posterior(frame, schema, Fit(), device)
    fitted = time.perf_counter() - started
    refined = []
    for _ in range(repetitions):
        started = time.perf_counter()
        clean(frame, model, device)
        refined.append(time.perf_counter() - started)
    console.print(
        f"{rows:,} x {columns}: training {fitted:.1f} s, refinement {sorted(refined)[repetitions // 2]:.2f} s"
    )
    console.print(machine.in_words(machine.describe(torch.device(device))))


if __name__ == "__main__":
    app()
