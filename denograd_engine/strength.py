"""How far refinement goes: all the way, a share of it, or as far as a judge of fidelity lets it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.fidelity import Fidelity, measure_fidelity
from denograd_engine.folds import first_half
from denograd_engine.refinement import Refinement, Refining, refine
from denograd_engine.restoration import Restoration

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.frames import Encoder
    from denograd_engine.schema import Schema
    from denograd_engine.training import Backbone

STRENGTHS = tuple(round(step / 20, 2) for step in range(20, 0, -1))
"""What is tried, the largest first."""


def at_strength(observed: pd.DataFrame, refined: pd.DataFrame, schema: Schema, strength: float) -> pd.DataFrame:
    """Every refined cell at observed + strength (refined - observed).

    Args:
        observed: As it came, in the user's units.
        refined: The same rows and columns after refinement.
        schema: The roles of the columns. Whole numbers are rounded again, and declared bounds hold.
        strength: Between 0 and 1. 1 gives `refined` itself.

    >>> import pandas as pd
    >>> from denograd_engine import infer_schema
    >>> before = pd.DataFrame({"x": [0.5, 2.5] * 20, "y": [row + 0.25 for row in range(40)]})
    >>> schema = infer_schema(before, "y", features=["x"])
    >>> at_strength(before, before + 1.0, schema, 0.5).iloc[0].tolist()
    [1.0, 0.75]
    """
    if strength == 1:
        return refined
    names = schema.cells
    shift = np.zeros((len(observed), len(names)))
    for at, name in enumerate(names):
        if schema[name].refined:
            before, after = (frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for frame in (observed, refined))
            shift[:, at] = np.nan_to_num(strength * (after - before))
    restoration = Restoration(observed, schema, np.ones(len(names)))
    restoration.put(0, shift)
    return restoration.frame()


def choose_strength(
    observed: pd.DataFrame, refined: pd.DataFrame, encoder: Encoder, acceptable: Callable[[Fidelity], bool]
) -> float:
    """The largest of `STRENGTHS` that is acceptable on the first half of the rows (see `first_half`).

    Args:
        observed: As it came, in the user's units.
        refined: The same rows and columns after refinement.
        encoder: Fitted on the observed table.
        acceptable: The judge.

    Returns:
        The smallest where none is acceptable.

    Raises:
        TimeAxisError, TooFewRowsError: If the rows cannot be halved.
    """
    rows = first_half(observed, encoder.schema)
    before, after = observed[rows], refined[rows]

    def good(strength: float) -> bool:
        return acceptable(measure_fidelity(before, at_strength(before, after, encoder.schema, strength), encoder))

    return next((strength for strength in STRENGTHS if good(strength)), STRENGTHS[-1])


def weakened(observed: pd.DataFrame, full: Refinement, backbone: Backbone, strength: float, device: str) -> Refinement:
    """What a refinement comes to at a strength: residuals are measured anew, statuses are those of the full one.

    Args:
        observed: As it came, in the user's units.
        full: Its refinement.
        backbone: By which.
        strength: Between 0 and 1.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """
    if strength == 1:
        return full
    frame = at_strength(observed, full.frame, backbone.encoder.schema, strength)
    still = refine(frame, backbone, Refining(tau=math.inf, eta=1.0, max_epochs=1, device=device))
    rows = full.rows.assign(correction=strength * full.rows["correction"], residual_after=still.rows["residual_before"])
    return Refinement(frame, rows, replace(full.totals, residual_after=still.totals.residual_before))
