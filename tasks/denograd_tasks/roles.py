"""From the configuration's sections to the engine's dataclasses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from denograd_engine.schema import Schema, Series, infer_schema
from denograd_tasks.rule import OF_POSTERIORS, SUPERVISED, chosen_rule, fit_arguments

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.posterior.task import Fit
    from denograd_engine.refinement import Refining
    from denograd_engine.training import Training
    from denograd_tasks.settings import Settings

SEEDS = 2**40
"""The engine derives further seeds from one, which must stay below 2^64."""


def schema_of(frame: pd.DataFrame, settings: Settings) -> Schema:
    """The roles of the columns: declared ones first, the others inferred."""
    columns = settings.columns
    series = None if settings.series is None else Series(**settings.series.model_dump())
    return infer_schema(
        frame,
        target=columns.target,
        features=columns.feature,
        frozen=columns.frozen,
        ignored=(*columns.ignored, *(name for name in columns.key if name not in columns.frozen)),
        bounds=columns.bounds,
        series=series,
        noise=columns.noise,
        noise_correlation=columns.noise_correlation,
        task=columns.task,
    )


def std_name(column: str) -> str:
    """The published column that holds the posterior standard deviation of each cell of another."""
    return f"{column}__std"


def training_of(settings: Settings) -> Training:
    """How the backbone is fitted."""
    from denograd_engine.training import Training

    plain = settings.backbone.training.model_dump(exclude={"folds"})
    return Training(**plain, seed=settings.seed, device=settings.device)


def fit_of(settings: Settings) -> Fit:
    """How the model of rule `posterior` is fitted."""
    from denograd_engine.posterior.task import Fit

    return Fit(**fit_arguments(settings), faults=settings.refine.faults, seed=settings.seed % SEEDS)


def refining_of(settings: Settings) -> Refining:
    """How the data are refined step by step; where the rule is `posterior`, how `denograd` would do it by default."""
    from denograd_engine.refinement import Refining
    from denograd_engine.smoothing import Smoothing

    plain = settings.refine.model_dump(exclude={*OF_POSTERIORS, "strength"})
    chosen = chosen_rule(settings)
    plain["rule"] = chosen.rule
    if chosen.posterior:
        plain |= {"rule": SUPERVISED, "arguments": {}}
    smoothing = plain.pop("smoothing")
    if smoothing is not None:
        smoothing = Smoothing(**smoothing, seed=settings.seed)
    return Refining(**plain, smoothing=smoothing, device=settings.device)
