"""Does training on the refined rows harm?

A network's mistakes go into the rows that it refines, and from there into whatever is trained on them. So small models
of three kinds are fitted twice, on the rows as refined and as observed, and judged by rows that were left out of both,
as observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.bench.downstream import estimator, items_of, units_like, units_of
from denograd_engine.folds import fold_of

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.frames import Encoder

MODELS = ("ridge", "knn", "tree")
FOLDS = 5
"""One part of the rows in so many is left out to judge by."""
MOST_ROWS = 6250
"""Rows that are looked at, evenly spaced."""
FEWEST_ROWS = 10
"""Left out, below which nothing is said."""
STANDARD_ERRORS = 2.326
"""By which the estimate is lowered: what is above it is so in 99 of 100 cases."""


@dataclass(frozen=True)
class Harm:
    """What the model that suffers most loses.

    Attributes:
        model: Which it is.
        ratio: Its mean squared error, or share of wrong classes, after training on refined rows, over that after
            training on observed ones: at the least, with 99% confidence. Above 1 it is worse.
    """

    model: str
    ratio: float


def harm(observed: pd.DataFrame, refined: pd.DataFrame, encoder: Encoder) -> Harm | None:
    """Measure it on a table.

    Args:
        observed: As it came, in the user's units.
        refined: The same rows in the same order.
        encoder: Fitted on the observed.

    Returns:
        None if fewer than 10 rows with a target can be left out.
    """
    schema = encoder.schema
    wanted = [schema.label] if schema.label is not None else list(schema.targets)
    known = np.flatnonzero(observed[wanted].notna().all(axis=1) & refined[wanted].notna().all(axis=1))
    known = known[:: -(-len(known) // MOST_ROWS) or 1]
    before, after = observed.iloc[known], refined.iloc[known]
    out = fold_of(before, schema, FOLDS) == 0
    if min(out.sum(), (~out).sum()) < FEWEST_ROWS:
        return None
    units = None if encoder.classes else units_like(encoder) / units_of(before, schema)
    (x, y), arrays = items_of(before, encoder), [items_of(one[~out], encoder) for one in (before, after)]
    found = []
    for name in MODELS:
        errors = []
        for inputs, outputs in arrays:
            model = estimator(name, bool(encoder.classes)).fit(inputs, outputs[:, 0] if encoder.classes else outputs)
            predicted = np.asarray(model.predict(x[out])).reshape(out.sum(), -1)
            away = predicted != y[out] if units is None else (predicted - y[out]) * units
            errors.append(np.square(away, dtype=np.float64).mean(axis=1))
        worse = errors[1] - errors[0]
        least = worse.mean() - STANDARD_ERRORS * worse.std() / np.sqrt(len(worse))
        scale = errors[0].mean()
        found.append(Harm(name, float(1 + least / scale) if scale else float(1.0 if least <= 0 else np.inf)))
    return max(found, key=lambda one: one.ratio)
