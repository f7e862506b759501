"""Is the input fit to be cleaned? Checked before anything is trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import DataError, SchemaError
from denograd_tasks.gates import Measured, judge
from denograd_tasks.keys import digest_of, stage
from denograd_tasks.records import Gate, InputCheck, Snapshot
from denograd_tasks.roles import schema_of, std_name
from denograd_tasks.rule import chosen_rule
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import read_table, to_frame

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.schema import Schema


def _determinants(given: dict[str, Any]) -> dict[str, Any]:
    settings: Settings = given["settings"]
    return {
        "snapshot": given["snapshot"].digest,
        "dataset": settings.dataset,
        "root": settings.publish.root,
        **settings.model_dump(mode="json", include={"columns", "series", "input"}),
        "posterior": chosen_rule(settings).posterior,
        "uncertainty": settings.refine.uncertainty,
    }


@stage(_determinants)
def check_input(snapshot: Snapshot, settings: Settings) -> InputCheck:
    """Check columns, types, missing shares, finite values, time axis and number of rows.

    Raises:
        DataError: If anything is wrong: the first problem, with its place and remedy.
    """
    store = open_store(settings.publish.root)
    frame = to_frame(read_table(store, snapshot.files[0].path))
    measured = _measure(frame, settings)
    key = digest_of(_determinants({"snapshot": snapshot, "settings": settings}))
    gates, docs = judge("input", measured, store, f"{settings.dataset}/evidence/input-{key[:32]}")
    _explain(frame, settings, gates)
    return InputCheck(root=settings.publish.root, files=docs, gates=tuple(gates))


def _measure(frame: pd.DataFrame, settings: Settings) -> list[Measured]:
    import numpy as np
    from pandas.api import types

    columns = settings.columns
    named = [*columns.target, *columns.feature, *columns.frozen, *columns.ignored]
    numeric = [name for name in (*columns.target, *columns.feature) if name in frame]
    wrong = [name for name in numeric if not types.is_numeric_dtype(frame[name].dtype)]
    numbers = frame.select_dtypes("number")
    refined = [name for name in numbers if name not in (*columns.frozen, *columns.ignored)]
    missing = float(numbers[refined].isna().mean().max()) if refined else 0.0
    infinite = sum(int(np.isinf(frame[name].to_numpy(dtype=float, na_value=np.nan)).sum()) for name in refined)
    return [
        Measured("rows", len(frame), minimum=settings.input.min_rows, meaning="number of rows"),
        Measured(
            "absent_columns", sum(n not in frame for n in named), maximum=0, meaning="configured columns not found"
        ),
        Measured("wrong_types", len(wrong), maximum=0, meaning="features and targets that are not numeric"),
        Measured(
            "missing_share",
            missing,
            maximum=settings.input.max_missing,
            severity="warning",
            meaning="largest share of missing cells in a numeric column that is not frozen or ignored",
        ),
        Measured(
            "infinite_cells",
            infinite,
            maximum=0,
            severity="warning",
            meaning="infinite cells in numeric columns; those that would be refined are refused",
        ),
    ]


def _explain(frame: pd.DataFrame, settings: Settings, gates: list[Gate]) -> None:
    """Raise the clearest error for whatever is wrong."""
    import torch

    from denograd_engine.frames import Encoder
    from denograd_engine.posterior.contexts import Contexts
    from denograd_engine.problem import pose

    rows = next(gate for gate in gates if gate.name == "rows")
    if not rows.passed:
        raise DataError(
            "there are too few rows",
            expected=f"at least {settings.input.min_rows:,} rows",
            found=f"{len(frame):,}",
            where=settings.source,
            remedy="collect more data (input.min_rows sets the bound)",
        )
    schema = schema_of(frame, settings)
    encoder = Encoder.fit(frame, schema)
    shares = frame[schema.refined].isna().mean()
    if float(shares.max()) > settings.input.max_missing:
        worst, enough = str(shares.idxmax()), math.ceil(shares.max() * 100) / 100
        raise DataError(
            f"column {worst!r} misses too many cells",
            expected=f"at most {settings.input.max_missing:.0%} missing in a refined column",
            found=f"{shares.max():.1%}",
            where=settings.source,
            remedy=f"add it to columns.frozen or columns.ignored, or raise input.max_missing to {enough:g}",
        )
    if settings.refine.uncertainty:
        _require_free(frame, schema)
    if chosen_rule(settings).posterior:
        Contexts.of(frame, encoder, torch.device("cpu"))
    else:
        pose(frame, encoder, torch.device("cpu"), torch.float32)


def _require_free(frame: pd.DataFrame, schema: Schema) -> None:
    """The names of the columns that will hold posterior stds."""
    taken = [name for name in map(std_name, schema.refined) if name in frame]
    if taken:
        raise SchemaError(
            f"there is a column {taken[0]!r} already, where the uncertainty of a refined column would be published",
            found=", ".join(taken[:12]),
            where="refine.uncertainty",
            remedy="rename it, or leave refine.uncertainty out",
        )
