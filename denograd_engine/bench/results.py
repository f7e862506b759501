"""From the cells' files to one long table, with every ratio to the unrefined data, and to a few figures a method."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from denograd_engine.bench import records
from denograd_engine.bench.methods import NONE
from denograd_engine.bench.ranks import Ranking, rank

if TYPE_CHECKING:
    from denograd_engine.bench.grid import Cell, Grid

GROUP = ["dataset", "noise", "std", "known", "told"]
"""A data set with a noise."""
BLOCK = [*GROUP, "seed"]
"""What tells one comparison of methods from another."""
MAIN = ("recovery_features", "recovery_targets", "recovery_cells", "downstream", "swd_ratio")
"""The short form. `downstream`: geometric mean over models of the error on the clean test set, over that of `none`."""
PAPER = ("imp", "paper_swd", "paper_rho")
"""The paper's. `imp`: mean over models of 100 (1 - error / that of `none`), trained and tested on refined data."""
MORE_IS_BETTER = ("imp", "paper_rho")
RANKS = {"rank": "recovery_cells", "paper_rank": "imp"}
"""What the methods are ranked by, in each protocol."""


@dataclass(frozen=True)
class Failure:
    """A cell that came to nothing, and why."""

    dataset: str
    noise: str
    std: float
    seed: int
    method: str
    error: str


@dataclass(frozen=True)
class Results:
    """All measurements of a grid.

    Attributes:
        long: One row for each figure: the columns of `BLOCK`, method, measure, model (empty where it is about none),
            value.
        failures: Cells that failed.
    """

    long: pd.DataFrame
    failures: tuple[Failure, ...]

    def table(self, measures: Sequence[str]) -> pd.DataFrame:
        """Means over seeds: a row for each group and method, a column for each measure."""
        return self._pivot(
            self.long[self.long["measure"].isin(measures) & (self.long["model"] == "")], "measure", measures
        )

    def by_model(self, measure: str) -> pd.DataFrame:
        """Means over seeds of one measure: a row for each group and method, a column for each downstream model."""
        chosen = self.long[(self.long["measure"] == measure) & (self.long["model"] != "")]
        return self._pivot(chosen, "model", list(chosen["model"].unique()))

    def short(self) -> pd.DataFrame:
        """A row for each group and method: the means of `MAIN`, the average rank in it, and the median seconds."""
        by = [*GROUP, "method"]
        seconds = self._of("seconds").groupby(by)["value"].median().rename("seconds").reset_index()
        return self._with_rank(self.table(MAIN), "rank").merge(seconds, on=by, how="left")

    def paper(self) -> pd.DataFrame:
        """A row for each group and method: the means of `PAPER`, and the average rank by it."""
        return self._with_rank(self.table(PAPER), "paper_rank")

    def overall(self) -> pd.DataFrame:
        """A row for each method: means over groups of `MAIN` and `PAPER`, and the average ranks over blocks.

        Column `groups` counts those that have the method. One that is not in all of them has means over those that it
        is in, which are not to be compared with others', and no rank.
        """
        table = self.table([*MAIN, *PAPER])
        methods = table.groupby("method", sort=False)
        found = methods[[*MAIN, *PAPER]].mean()
        found["groups"] = methods["recovery_cells"].count()
        for name, measure in RANKS.items():
            found[name] = self.ranking(measure).average.reindex(found.index)
        return found.sort_values("rank", kind="stable").reset_index()

    def ranking(self, measure: str = "recovery_cells") -> Ranking:
        """The methods over all blocks.

        A method that is missing in any group is left out, so that all are ranked over the same; a block that one of
        the others did not finish is left out for all.
        """
        blocks = self._of(measure).pivot_table(index=BLOCK, columns="method", values="value", dropna=False, sort=False)
        blocks = blocks.dropna(how="all")
        everywhere = blocks.notna().groupby(level=GROUP).any().all()
        found = rank(blocks.loc[:, everywhere] * (-1 if measure in MORE_IS_BETTER else 1))
        return replace(found, left_out=tuple(str(name) for name in blocks.columns[~everywhere]))

    def winner(self) -> str | None:
        """The method of the best average rank in recovery; None if none is better than doing nothing."""
        first = next(iter(self.ranking().average.index), NONE)
        return None if first == NONE else str(first)

    def write(self, path: Path) -> None:
        """Write the long form as Parquet, in one step."""
        buffer = io.BytesIO()
        self.long.to_parquet(buffer, index=False)
        records.replace(path, buffer.getvalue())

    def _of(self, measure: str) -> pd.DataFrame:
        return self.long[(self.long["measure"] == measure) & (self.long["model"] == "")]

    def _with_rank(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        figures, by = self._of(RANKS[name]), [*GROUP, "method"]
        ranks = figures.groupby(BLOCK)["value"].rank(ascending=RANKS[name] not in MORE_IS_BETTER)
        return table.merge(
            ranks.groupby([figures[one] for one in by]).mean().rename(name).reset_index(), on=by, how="left"
        )

    def _pivot(self, chosen: pd.DataFrame, columns: str, order: Sequence[str]) -> pd.DataFrame:
        by = [*GROUP, "method"]
        means = chosen.groupby([*by, columns], sort=False)["value"].mean().unstack(columns)
        known = self.long[by].drop_duplicates()
        return known.merge(means.reindex(columns=list(order)).reset_index(), on=by, how="left")


def gather(grid: Grid, folder: Path) -> Results:
    """Read the cells of a grid that are there."""
    found: dict[tuple[int, str, int], dict[str, dict[str, float]]] = {}
    blocks: dict[tuple[int, str, int], Cell] = {}
    failures = []
    for cell in grid.cells:
        result = records.read(folder, cell)
        if result is None:
            continue
        if result.error is not None:
            noise = cell.noise
            failures.append(Failure(cell.dataset, noise.kind, noise.std, cell.seed, cell.label, result.error))
            continue
        key = (cell.subject, repr(cell.noise), cell.seed)
        found.setdefault(key, {})[cell.label] = result.figures
        blocks.setdefault(key, cell)
    rows = []
    for key, methods in found.items():
        cell = blocks[key]
        noise = cell.noise
        block = (cell.dataset, noise.kind, noise.std, noise.known, noise.told, cell.seed)
        for method, figures in methods.items():
            for name, value in {**figures, **_compared(figures, methods.get(NONE, {}))}.items():
                measure, _, model = name.partition("/")
                rows.append((*block, method, measure, model, value))
    long = pd.DataFrame(rows, columns=[*BLOCK, "method", "measure", "model", "value"]).astype({"value": float})
    return Results(long, tuple(failures))


def _compared(figures: dict[str, float], unrefined: dict[str, float]) -> dict[str, float]:
    """Ratios to the unrefined data, by model and as means over models."""
    models = [name.partition("/")[2] for name in figures if name.startswith("clean_test/")]
    found = {"swd_ratio": _ratio(figures.get("swd_to_clean"), unrefined.get("swd_to_clean"))}
    ways = {
        "downstream": ("clean_test", unrefined, "clean_test"),
        "second_half": ("refined_inputs", figures, "noisy_inputs"),
        "production": ("refined_inputs", unrefined, "noisy_inputs"),
        "ceiling_ratio": ("ceiling", unrefined, "clean_test"),
        "paper_ratio": ("paper", unrefined, "paper"),
    }
    for name, (above, of, below) in ways.items():
        ratios = {model: _ratio(figures.get(f"{above}/{model}"), of.get(f"{below}/{model}")) for model in models}
        found |= {f"{name}/{model}": value for model, value in ratios.items()}
        found[name] = _geometric_mean(list(ratios.values()))
    improvements = {model: 100 * (1 - found[f"paper_ratio/{model}"]) for model in models}
    found |= {f"imp/{model}": value for model, value in improvements.items()}
    found["imp"] = float(np.mean(list(improvements.values()))) if improvements else math.nan
    return found


def _ratio(above: float | None, below: float | None) -> float:
    if above is None or below is None or not below > 0:
        return math.nan
    return above / below


def _geometric_mean(ratios: list[float]) -> float:
    if not ratios or not all(ratio > 0 for ratio in ratios):
        return math.nan
    return float(np.exp(np.mean(np.log(ratios))))
