"""Do the supervised rules add anything to posterior, or posterior to them? Error left over error before, in tables.

python -m tests.benchmarks.combined DATA --only parkinsons --only house_prices
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

from denograd_engine.bench.case import Noise, Trial, contaminate
from denograd_engine.evaluate import recovery
from denograd_engine.posterior.model import fit_posterior
from denograd_engine.posterior.refining import clean
from denograd_engine.refinement import Refining, refine
from denograd_engine.training import Training, train
from tests.benchmarks.recovery import spread
from tests.benchmarks.stand import subjects

RULES = ("denograd", "gauss_newton", "proximal")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog="Examples:  python -m tests.benchmarks.combined ../shared/data --only parkinsons --seeds 1")
def main(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The folder with the Parquet files.")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Just these data sets.")] = None,
    noise: Annotated[float, typer.Option(help="In std of each column.")] = 0.3,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="So many seeds.")] = 3,
) -> None:
    """One rule after the other, beside each alone."""
    console = Console(width=None if Console().is_terminal else 160)
    console.print("| data | rules | features | target |\n|---|---|---|---|")
    for subject in subjects(data, only or [], None, ["posterior"], "ridge"):
        trials = [contaminate(subject.case, Noise(std=noise), seed) for seed in range(seeds)]
        if trials[0].schema.series is not None or trials[0].schema.label is not None:
            continue
        found = [_ways(trial) for trial in trials]
        for way in found[0]:
            features, targets = zip(*(one[way] for one in found), strict=True)
            console.print(f"| {subject.case.name} | {way} | {spread(list(features))} | {spread(list(targets))} |")


def _ways(trial: Trial) -> dict[str, tuple[float, float]]:
    """What each way leaves of the features' and of the targets' error."""
    noisy, schema = trial.given.train, trial.schema

    def left(refined: pd.DataFrame) -> tuple[float, float]:
        found = recovery(trial.train, noisy, refined, trial.features, trial.targets)
        return found.features, found.targets

    def posterior(frame: pd.DataFrame) -> pd.DataFrame:
        return clean(frame, fit_posterior(frame, schema, device="cpu"), "cpu").frame

    first = posterior(noisy)
    ways = {"posterior": left(first)}
    of_noisy, of_first = (train(frame, schema, "mlp", training=Training(device="cpu")) for frame in (noisy, first))
    for rule in RULES:
        refining = Refining(rule=rule, device="cpu")
        alone = refine(noisy, of_noisy, refining).frame
        ways[rule] = left(alone)
        ways[f"posterior, then {rule}"] = left(refine(first, of_first, refining).frame)
        ways[f"{rule}, then posterior"] = left(posterior(alone))
    return ways


if __name__ == "__main__":
    app()
