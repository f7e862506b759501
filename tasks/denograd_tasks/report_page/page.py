"""The report as one HTML document: what it is given, and how that becomes a page."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from denograd_tasks.report_page import figures, formats
from denograd_tasks.report_page.cards import cards
from denograd_tasks.report_page.cells import SAMPLE_ROWS, Floats, sample_rows, values
from denograd_tasks.report_page.matrices import matrix
from denograd_tasks.report_page.movement import Movement, measure
from denograd_tasks.report_page.outcomes import outcomes
from denograd_tasks.report_page.stretch import most_corrected_stretch
from denograd_tasks.report_page.structure import Structure, compare_structure
from denograd_tasks.report_page.uncertainty import Uncertainty, band_of
from denograd_tasks.report_page.way import Station

_MARGINALS = 9
_CORRELATED = 25
_RANKED = 12


@dataclass(frozen=True)
class GateRow:
    """One check of the refined data.

    Attributes:
        name: The gate.
        value: What was measured; None where it could not be.
        bound: What it must satisfy, as text.
        severity: `error` refuses the refined data, `warning` does not.
        passed: Whether it holds.
        meaning: One plain sentence on what the gate protects.
    """

    name: str
    value: float | None
    bound: str
    severity: str
    passed: bool
    meaning: str


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        dataset: Name of the data set.
        kind: `table` or `series`.
        verdict: `passed` or `refused`.
        created: ISO time in UTC.
        observed: Data before; missing cells are NaN.
        refined: Data after, same index and columns.
        features: Refined features; columns in neither list are not looked at.
        targets: Refined targets.
        scales: Standard deviation of each refined column, in its own unit.
        time: Time column of a series.
        entity: Columns that tell one series from another.
        rows: For each row its status, iterations, and in std residual_before, residual_after and correction (L2).
        history: One record per epoch: epoch, train_loss, holdout_loss.
        skill: Held-out R2 per target.
        gates: Every check.
        lineage: Sections of labelled values.
        settings_yaml: The settings of the run.
        truth: Shares such as the noise removed, where the clean data is known.
        way: The stations of the way from the source to the result.
        uncertainty: What a posterior model says of its corrections; None where the rule is another.
    """

    dataset: str
    kind: str
    verdict: str
    created: str
    observed: pd.DataFrame
    refined: pd.DataFrame
    features: list[str]
    targets: list[str]
    scales: dict[str, float]
    time: str | None
    entity: list[str]
    rows: pd.DataFrame
    history: list[dict[str, Any]]
    skill: dict[str, float]
    gates: list[GateRow]
    lineage: dict[str, dict[str, str]]
    settings_yaml: str
    truth: dict[str, float] | None = None
    way: Sequence[Station] = ()
    uncertainty: Uncertainty | None = None


def render_report(data: ReportData) -> str:
    """Renders the page; the same data gives the same bytes.

    Args:
        data: What to show.

    Returns:
        A whole HTML document that refers to nothing outside itself. Of the data it holds aggregates, extremes, the
        plotted stretch of a series, and with uncertainties some cells of one column, never a row of a table.
    """
    roles = dict.fromkeys(data.features, "feature") | dict.fromkeys(data.targets, "target")
    movement = measure(data.observed, data.refined, roles, data.scales)
    moved_most = [column.name for column in movement.columns]
    structure = compare_structure(data.observed, data.refined, moved_most[:_CORRELATED])
    gates = sorted(data.gates, key=lambda gate: (gate.passed, gate.severity != "error"))
    failed = [gate for gate in gates if not gate.passed]
    refused = data.verdict != "passed"
    left = data.uncertainty.left if data.uncertainty else None
    noisy = sorted(data.uncertainty.columns, key=lambda column: -column.left) if data.uncertainty else []
    context = {
        "data": data,
        "refused": refused,
        "gates": gates,
        "failed_errors": [gate for gate in failed if gate.severity == "error"],
        "failed_warnings": [gate for gate in failed if gate.severity != "error"],
        "movement": movement,
        "sampled": formats.count(SAMPLE_ROWS) if movement.rows > SAMPLE_ROWS else None,
        "cards": cards(movement, data.skill, [gate.passed for gate in gates], data.truth, left),
        "ranked": movement.columns[:_RANKED],
        "ranked_rest": movement.columns[_RANKED:],
        "reach": max((column.mean for column in movement.columns), default=0.0) or 1.0,
        "magnitudes": figures.corrections("magnitudes", movement.magnitudes) if movement.magnitudes.size else "",
        "residuals": _residuals(data.rows),
        "marginals": _marginals(data, movement),
        "overlay": _overlay(data, movement),
        "structure": structure,
        "matrices": _matrices(structure),
        "pairs": structure.most_changed(),
        "training": _training(data.history, "% of the work" if data.uncertainty else "epoch"),
        "noisy": noisy[:_RANKED],
        "noisy_rest": noisy[_RANKED:],
        "band": _band(data, movement),
        "outcomes": outcomes(data.rows["status"]),
        "sections": _sections(data, refused),
        "moment": _moment(data.created),
        "effort": _effort(data.rows) if movement.moved_rows else None,
        "unmoved": movement.moved_rows == 0,
    }
    return _environment().get_template("page.html.j2").render(context)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("denograd_tasks.report_page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    for name in ("number", "std", "shift", "ratio", "percent", "count", "shorten"):
        environment.filters[name] = getattr(formats, name)
    return environment


def _sections(data: ReportData, refused: bool) -> list[tuple[str, str, str]]:
    """Each section's anchor, its short name in the navigation, and its heading; failed gates come first."""
    found = [
        ("corrections", "Corrections", "What was corrected"),
        ("marginals", "Before and after", "Before and after"),
        ("structure", "Correlation", "How columns relate"),
        ("model", "Model", "The model"),
        ("rows", "Rows", "What became of each row"),
        ("lineage", "Lineage", "Where it came from"),
        ("settings", "Settings", "Settings"),
    ]
    found.insert(0 if refused else 5, ("gates", "Gates", "Gates"))
    if data.uncertainty:
        at = [anchor for anchor, _, _ in found].index("corrections") + 1
        found.insert(at, ("uncertainty", "Uncertainty", "How sure the model is"))
    if data.truth:
        found.insert(1 if refused else 0, ("truth", "Truth", "Against the known truth"))
    return found


def _moment(created: str) -> str:
    """`2025-11-22T12:17:05+00:00` as `2025-11-22 12:17 UTC`; any other text as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _effort(rows: pd.DataFrame) -> dict[str, str] | None:
    """Median iterations and median correction of the rows that moved; None where none did."""
    moved = rows[values(rows, "correction") > 0]
    if moved.empty:
        return None
    return {
        "iterations": formats.number(float(np.nanmedian(values(moved, "iterations")))),
        "correction": formats.std(float(np.nanmedian(values(moved, "correction")))),
    }


def _residuals(rows: pd.DataFrame) -> str:
    before, after = values(rows, "residual_before"), values(rows, "residual_after")
    return figures.residuals("residuals", before, after)


def _marginals(data: ReportData, movement: Movement) -> list[dict[str, Any]]:
    picked = sample_rows(len(data.observed))
    panels = []
    for place, column in enumerate(movement.columns[:_MARGINALS]):
        svg = figures.marginal(
            f"marginal-{place}",
            f"Distribution of {column.name} before and after",
            values(data.observed, column.name)[picked],
            values(data.refined, column.name)[picked],
        )
        panels.append({"column": column, "svg": svg})
    return panels


def _overlay(data: ReportData, movement: Movement) -> dict[str, Any] | None:
    if data.kind != "series" or not movement.columns:
        return None
    column = movement.columns[0].name
    scale = data.scales.get(column, 1.0)
    stretch = most_corrected_stretch(data.observed, data.refined, column, scale, time=data.time, entity=data.entity)
    if stretch is None:
        return None
    wide, narrow = (figures.overlay(f"overlay-{narrow}", stretch, narrow) for narrow in (False, True))
    profiles = [figures.profile(f"profile-{narrow}", stretch, narrow) for narrow in (False, True)]
    return {"column": column, "steps": len(stretch.observed), "wide": wide, "narrow": narrow, "profiles": profiles}


def _band(data: ReportData, movement: Movement) -> dict[str, Any] | None:
    if data.uncertainty is None:
        return None
    names = [column.name for column in movement.columns if column.name in data.uncertainty.std]
    if not names:
        return None
    found = band_of(
        data.observed,
        data.refined,
        data.uncertainty.std,
        names[0],
        data.scales,
        series=data.kind == "series",
        time=data.time,
        entity=data.entity,
    )
    if found is None:
        return None
    wide, narrow = (found.draw(f"band-{narrow}", narrow) for narrow in (False, True))
    return {"column": found.column, "count": len(found.observed), "wide": wide, "narrow": narrow}


def _matrices(structure: Structure) -> dict[str, Any] | None:
    names = structure.names
    if len(names) < 2:
        return None
    change = np.abs(structure.difference)
    largest = float(np.nanmax(change)) if np.isfinite(change).any() else 0.0
    limit = max(math.ceil(largest * 20) / 20, 0.05)
    return {
        "before": matrix(names, structure.before, 1.0, "Correlation before"),
        "after": matrix(names, structure.after, 1.0, "Correlation after"),
        "change": matrix(names, structure.difference, limit, "Change of the correlation"),
        "limit": limit,
    }


def _floats(records: Iterable[dict[str, Any]], key: str) -> Floats:
    found = (record.get(key) for record in records)
    return np.array([math.nan if value is None else float(value) for value in found], dtype=np.float64)


def _training(history: list[dict[str, Any]], unit: str) -> dict[str, Any] | None:
    train, holdout = _floats(history, "train_loss"), _floats(history, "holdout_loss")
    if not (np.isfinite(train).any() or np.isfinite(holdout).any()):
        return None
    epochs = np.array([float(record.get("epoch", place)) for place, record in enumerate(history)])
    best = int(np.nanargmin(holdout)) if np.isfinite(holdout).any() else None
    wide, narrow = (
        figures.training_curve(f"training-{narrow}", epochs, train, holdout, best=best, narrow=narrow, unit=unit)
        for narrow in (False, True)
    )
    return {
        "wide": wide,
        "narrow": narrow,
        "epochs": len(history),
        "best": formats.number(epochs[best]) if best is not None else None,
        "best_loss": float(holdout[best]) if best is not None else None,
    }
