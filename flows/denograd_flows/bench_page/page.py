"""The page of a benchmark as one HTML document: what it is given, and how that becomes a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2

from denograd_engine import __version__
from denograd_engine.bench.methods import NONE
from denograd_flows.bench_page import figures
from denograd_tasks.report_page import formats

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.bench.grid import Grid, Subject
    from denograd_engine.bench.ranks import Ranking
    from denograd_engine.bench.results import Results

SHORT = {
    "recovery_features": "Features",
    "recovery_targets": "Targets",
    "recovery_cells": "All cells",
    "downstream": "Downstream",
    "swd_ratio": "SWD",
    "rank": "Rank",
    "seconds": "Seconds",
}
TRUTH = {
    "downstream": "Downstream, clean test",
    "production": "Downstream, noisy inputs",
    "second_half": "Refined inputs alone",
    "recovery_test_features": "Test features",
    "swd_ratio": "SWD to clean",
    "worst_std_ratio": "Worst spread",
}
PAPER = {"imp": "Imp %", "paper_swd": "SWD to noisy", "paper_rho": "rho", "paper_rank": "Rank"}
OVERALL = {**{name: heading for name, heading in SHORT.items() if name != "seconds"}, **PAPER}
INTERVALS = {"coverage_90": "Truth inside", "width_90": "Mean width, std"}
FAULTS = {"fault_precision": "Precision", "fault_recall": "Recall"}
SMALLER_IS_BETTER = {*SHORT, "production", "second_half", "recovery_test_features", "paper_rank"} - {"seconds"}
MORE_IS_BETTER = {"imp", *FAULTS}


@dataclass(frozen=True)
class Table:
    """Rows of a table: a method, then its figures as text and whether each is the best of its column."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]


@dataclass(frozen=True)
class Group:
    """One data set with one noise."""

    title: str
    about: str
    short: Table
    truth: Table
    paper: Table
    by_model: Table
    imp_by_model: Table
    intervals: Table | None
    faults: Table | None


def render_page(grid: Grid, results: Results, machine: str) -> str:
    """Renders the page; the same results give the same bytes.

    Args:
        grid: What was measured.
        results: What came out.
        machine: What it was measured on, for readers of the times.

    Returns:
        A whole HTML document that refers to nothing outside itself, and holds no cell of any data set.
    """
    ranking, downstream = results.ranking(), results.ranking("downstream")
    context = {
        "names": [subject.case.name for subject in grid.subjects],
        "winner": winning(results, ranking),
        "groups": _groups(grid, results),
        "overall": _overall(results),
        "ranking": ranking,
        "p_value": _p(ranking.p_value),
        "diagrams": _both("ranks", figures.critical_difference, ranking),
        "downstream_p": _p(downstream.p_value),
        "downstream_diagrams": _both("downstream", figures.critical_difference, downstream),
        "pareto": _both("pareto", figures.pareto, _points(results)),
        "failures": results.failures,
        "seeds": len(grid.seeds),
        "version": __version__,
        "machine": machine,
    }
    return _environment().get_template("bench.html.j2").render(context)


def winning(results: Results, ranking: Ranking) -> str:
    """One sentence on who won."""
    winner = results.winner()
    if winner is None:
        return "No method recovered more than doing nothing."
    cells = results.table(["recovery_cells"])
    left = float(cells[cells["method"] == winner]["recovery_cells"].mean())
    count = f"{ranking.blocks} measurement{'s' * (ranking.blocks != 1)}"
    place = f"average rank {ranking.average.iloc[0]:.2g} of {len(ranking.average)} over {count}"
    return f"{winner} recovered most: it left {left:.2f} of the noise's error ({place})."


def title_of(group: Sequence[Any]) -> str:
    """`prices, gaussian noise of 0.2 std`."""
    dataset, kind, std, known, told = group
    said = "" if known else ", its size unknown to the methods"
    return f"{dataset}, {kind} noise of {std:g} std{said}" + ("" if told == 1 else f", said to be {told:g} times that")


def _groups(grid: Grid, results: Results) -> list[Group]:
    from denograd_engine.bench.results import GROUP

    subjects = {subject.case.name: subject for subject in grid.subjects}
    parts = {
        "short": (results.short().sort_values("rank", kind="stable"), SHORT),
        "truth": (results.table([*TRUTH]), TRUTH),
        "paper": (results.paper(), PAPER),
        "intervals": (results.table([*INTERVALS]), INTERVALS),
        "faults": (results.table([*FAULTS]), FAULTS),
    }
    for name, measure in (("by_model", "downstream"), ("ceiling", "ceiling_ratio"), ("imp_by_model", "imp")):
        table = results.by_model(measure)
        parts[name] = (table, {one: one for one in table.columns if one not in (*GROUP, "method")})
    found = []
    for values, _ in results.long.groupby(GROUP, sort=False):
        here = {name: _rows_of(table, GROUP, values) for name, (table, _) in parts.items()}
        tables = {name: _table(here[name], headings) for name, (_, headings) in parts.items()}
        ceiling = [("trained on clean data", figures) for method, figures in tables["ceiling"].rows if method == NONE]
        found.append(
            Group(
                title=title_of(values),
                about=_about(subjects[str(values[0])]),
                short=tables["short"],
                truth=tables["truth"],
                paper=tables["paper"],
                by_model=Table(tables["by_model"].headings, (*tables["by_model"].rows, *ceiling)),
                imp_by_model=tables["imp_by_model"],
                intervals=_stated(here["intervals"], INTERVALS),
                faults=_stated(here["faults"], FAULTS),
            )
        )
    return found


def _rows_of(table: pd.DataFrame, by: list[str], values: tuple[Any, ...]) -> pd.DataFrame:
    chosen = (table[by] == list(values)).all(axis=1)
    return table[chosen]


def best_of(frame: pd.DataFrame) -> dict[str, float]:
    """The best figure of each column in which one is better than another."""
    told_apart = [name for name in frame.columns if frame[name].nunique() > 1]
    least = {name: float(frame[name].min()) for name in told_apart if name in SMALLER_IS_BETTER}
    return least | {name: float(frame[name].max()) for name in told_apart if name in MORE_IS_BETTER}


def _stated(frame: pd.DataFrame, headings: dict[str, str]) -> Table | None:
    """The methods that have any of these; None if none has."""
    those = frame.dropna(subset=[*headings], how="all")
    return _table(those, headings) if len(those) else None


def _overall(results: Results) -> Table | None:
    """Every method over all groups; None if there are not several."""
    overall = results.overall()
    most = overall["groups"].max()
    if not most > 1:
        return None
    whole = overall["groups"] == most
    return _table(overall.assign(method=coverage_named(overall)), OVERALL, overall[whole])


def coverage_named(overall: pd.DataFrame) -> pd.Series[str]:
    """The methods; one that is not in every group says in how many it is."""
    most = overall["groups"].max()
    partly = " (" + overall["groups"].astype(str) + f" of {most})"
    return overall["method"].where(overall["groups"] == most, overall["method"] + partly)


def _table(frame: pd.DataFrame, headings: dict[str, str], judged: pd.DataFrame | None = None) -> Table:
    """The best figures are those of the rows that are judged: None takes all."""
    shown = {name: heading for name, heading in headings.items() if frame[name].notna().any()}
    best = best_of(frame if judged is None else judged)
    rows = []
    for row in frame.to_dict("records"):
        figures = tuple((_text(name, row[name]), row[name] == best.get(name, math.nan)) for name in shown)
        rows.append((str(row["method"]), figures))
    return Table(tuple(shown.values()), tuple(rows))


def _text(name: str, value: float) -> str:
    if name == "seconds":
        return "<0.1" if 0 <= value < 0.05 else formats.number(round(value, 1))
    if name in ("rank", "paper_rank"):
        return formats.number(value)
    return formats.ratio(value)


def _about(subject: Subject) -> str:
    case = subject.case
    train, test = case.split(0)
    unit = "rows" if case.schema.series is None else "steps"
    targets = [name for name in case.schema.targets if name in case.noisy]
    counts = {"feature": len(case.noisy) - len(targets), "target": len(targets)}
    parts = " and ".join(f"{count} noisy {what}{'s' * (count != 1)}" for what, count in counts.items() if count)
    return (
        f"A {case.kind}, {len(train):,} {unit} to refine and train on and {len(test):,} to test on; {parts}. "
        f"Downstream models: {', '.join(subject.models)}."
    )


def _points(results: Results) -> pd.DataFrame:
    """Means over all groups, of the methods that were measured in each of them."""
    table = results.table(["recovery_cells", "swd_ratio"])
    counts = table.groupby("method")["recovery_cells"].count()
    means = table.groupby("method", sort=False)[["recovery_cells", "swd_ratio"]].mean()
    return means[counts.reindex(means.index) == counts.max()]


def _both(name: str, draw: Any, given: Any) -> tuple[str, str] | None:
    wide = draw(f"{name}-wide", given, False)
    return (wide, draw(f"{name}-narrow", given, True)) if wide else None


def _p(value: float | None) -> str | None:
    if value is None or not math.isfinite(value):
        return None
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _environment() -> jinja2.Environment:
    loaders = [jinja2.PackageLoader(package, ".") for package in (__package__, "denograd_tasks.report_page")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
