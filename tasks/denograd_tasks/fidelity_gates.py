"""The gates on how far data were moved: Great Expectations judges by them, the search for a strength asks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from denograd_tasks.gates import Measured
from denograd_tasks.rule import chosen_rule
from denograd_tasks.settings import Bound, Settings

if TYPE_CHECKING:
    from denograd_engine.fidelity import Fidelity

SOFTER = "raise refine.tau, lower refine.max_epochs, or set refine.strength: auto, so that less is moved"
LESS_NOISE = "check columns.noise: the larger the declared noise, the more is moved; or set refine.strength: auto"


def acceptable(fidelity: Fidelity, settings: Settings) -> bool:
    """Whether no gate of severity `error` refuses it."""
    return all(one.within for one in of_fidelity(fidelity, settings) if one.severity == "error")


def bounded(name: str, value: float, bound: Bound, meaning: str, remedy: str) -> Measured:
    """A value with the bounds that the configuration sets."""
    return Measured(name, value, bound.min, bound.max, bound.severity, meaning, remedy)


def of_fidelity(fidelity: Fidelity, settings: Settings) -> list[Measured]:
    """Every gate on how far the refined data are from the observed."""
    posterior = chosen_rule(settings).posterior
    bounds, softer = settings.gates, LESS_NOISE if posterior else SOFTER
    other = softer if posterior else "raise refine.tau"
    worst_rho = min(fidelity.rho, key=lambda name: fidelity.rho[name])
    worst_drift = max(fidelity.mean_drift, key=lambda name: fidelity.mean_drift[name])
    worst_ratio = max(fidelity.std_ratio, key=lambda name: abs(fidelity.std_ratio[name] - 1))

    return [
        bounded(
            "swd",
            fidelity.swd,
            bounds.swd,
            "sliced Wasserstein distance between observed and refined rows, in std",
            softer,
        ),
        bounded("rho", fidelity.mean_rho, bounds.rho, "mean correlation of a column with itself before", softer),
        bounded(
            "mean_drift",
            fidelity.mean_drift[worst_drift],
            bounds.mean_drift,
            f"largest change of a column's mean, in std ({worst_drift})",
            softer,
        ),
        bounded(
            "std_ratio",
            fidelity.std_ratio[worst_ratio],
            bounds.std_ratio,
            f"spread of a column after over before, the furthest from 1 ({worst_ratio})",
            softer,
        ),
        bounded(
            "correlation_change",
            fidelity.correlation_change,
            bounds.correlation_change,
            "mean absolute change of the correlations between columns",
            softer,
        ),
        bounded(
            "column_rho",
            fidelity.rho[worst_rho],
            bounds.column_rho,
            f"smallest correlation of a column with itself before ({worst_rho})",
            f"freeze column {worst_rho!r}, or {other}",
        ),
        bounded(
            "largest_correction",
            fidelity.largest_correction,
            bounds.largest_correction,
            "largest correction of a single cell, in std",
            "look at the most corrected rows in the report: they may be gross errors",
        ),
        Measured(
            "untouched_identical",
            float(fidelity.untouched_identical),
            minimum=1,
            meaning="frozen and ignored columns are bit-identical (1) or not (0)",
            remedy="this is a defect: please report it",
        ),
        Measured(
            "rows_kept",
            float(fidelity.rows_kept),
            minimum=1,
            meaning="number and order of the rows are the same (1) or not (0)",
            remedy="this is a defect: please report it",
        ),
    ]
