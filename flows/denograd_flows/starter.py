"""Writing a first configuration: every column's inferred role, with the reason beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.columns import Column
    from denograd_engine.schema import Schema

LOOKED_AT = 100_000
"""Rows from the start of the data on which the guesses rest."""
LIKELY_TARGETS = ("target", "y", "label", "outcome", "price", "value")


@dataclass(frozen=True)
class Starter:
    """What was written."""

    path: str
    dataset: str
    schema: Schema

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        columns = {column.name: {"role": str(column.role), "why": column.why} for column in self.schema.columns}
        return {
            "written": self.path,
            "dataset": self.dataset,
            "kind": "series" if self.schema.series else "table",
            "columns": columns,
        }

    def describe(self) -> str:
        """In one line."""
        from denograd_engine.columns import Role

        counts = ", ".join(f"{len(self.schema.names(role))} {role}" for role in Role)
        return f"a {'series' if self.schema.series else 'table'} with {counts}"


def write_starter(
    data: Path,
    output: Path,
    target: Sequence[str] | None,
    time: str | None,
    entity: Sequence[str],
    table: bool,
    force: bool,
) -> Starter:
    """Look at the data and write a commented configuration.

    Raises:
        ConfigError: If the output exists.
        DataError: If the data cannot be read or hold no numeric column to predict.
    """
    from denograd_engine.schema import Series, infer_schema

    if output.exists() and not force:
        raise ConfigError(f"{output} exists", remedy="choose another --output, or overwrite it with --force")
    frame, rows = _head(str(data))
    axis = None if table else (time or _guess_time(frame))
    series = Series(axis, entity=tuple(entity), max_gap=_guess_gap(frame, axis, entity)) if axis else None
    guessed = not target
    targets = list(target) if target else [_guess_target(frame, axis)]
    sparse, empty = _sparse(frame, targets)
    schema = infer_schema(frame, targets, frozen=sparse, ignored=empty, series=series)
    dataset = re.sub(r"[^a-z0-9_.-]+", "-", data.stem.lower()).strip("-._") or "dataset"
    text = _text(data, output, dataset, frame, rows, schema, guessed)
    output.write_text(text, encoding="utf-8")
    return Starter(str(output), dataset, schema)


def _head(source: str) -> tuple[pd.DataFrame, int]:
    import pyarrow as pa

    from denograd_tasks.sources import open_source, unreadable
    from denograd_tasks.tables import to_frame

    dataset = open_source(source)
    try:
        table, rows = dataset.head(LOOKED_AT), dataset.count_rows()
    except pa.ArrowException as error:
        raise unreadable(source, error) from None
    if not rows:
        raise DataError("the data hold no rows", where=source)
    return to_frame(table), rows


def _sparse(frame: pd.DataFrame, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Numeric columns with too many missing cells to be refined, and columns with nothing but missing cells."""
    from denograd_tasks.settings import InputSettings

    missing = frame.drop(columns=[name for name in targets if name in frame]).isna().mean()
    empty = [str(name) for name in missing.index[missing == 1.0]]
    numeric = set(frame.select_dtypes("number"))
    allowed = InputSettings().max_missing
    return [str(n) for n in missing.index[(missing > allowed) & (missing < 1.0)] if n in numeric], empty


def _guess_time(frame: pd.DataFrame) -> str | None:
    """The only column of ascending time stamps, if there is exactly one and it hardly repeats."""
    from pandas.api import types

    stamps = [
        str(name)
        for name in frame
        if types.is_datetime64_any_dtype(frame[name].dtype)
        and frame[name].is_monotonic_increasing
        and frame[name].nunique() > 0.9 * len(frame)
    ]
    return stamps[0] if len(stamps) == 1 else None


def _guess_gap(frame: pd.DataFrame, axis: str, entity: Sequence[str]) -> str | None:
    """A longer allowed pause where pauses are the rule, as over week-ends."""
    import pandas as pd
    from pandas.api import types

    if axis not in frame or not types.is_datetime64_any_dtype(frame[axis].dtype):
        return None
    times = frame.groupby(list(entity), sort=False)[axis] if entity and set(entity) <= set(frame) else frame[axis]
    steps = times.diff().dropna()
    steps = steps[steps > pd.Timedelta(0)]
    if steps.empty or float((steps > 1.5 * steps.median()).mean()) < 0.05:
        return None
    longest = pd.Timedelta(str(steps.quantile(0.995))).ceil("h")
    return f"{longest // pd.Timedelta('1h')}h"


def _guess_target(frame: pd.DataFrame, axis: str | None) -> str:
    from denograd_engine.columns import Role
    from denograd_engine.schema import infer_schema

    numeric = [str(name) for name in frame.select_dtypes("number")]
    if not numeric:
        raise DataError("the data hold no numeric column to predict", expected="at least one column of numbers")
    inferred = infer_schema(frame, numeric[-1])
    measured = [c.name for c in inferred.columns if c.role is Role.FEATURE or (c.refined and c.role is Role.TARGET)]
    named = [name for name in measured if name.lower() in LIKELY_TARGETS]
    return (named or measured[-1:] or numeric[-1:])[0]


def _text(data: Path, output: Path, dataset: str, frame: pd.DataFrame, rows: int, schema: Schema, guessed: bool) -> str:
    from denograd_engine.columns import Role

    source = os.path.relpath(data.absolute(), output.absolute().parent)
    lines = [
        f"# Written by: denograd init {data}",
        f"# {rows:,} rows, {len(schema.columns)} columns. Check the roles below, then: denograd run {output}",
        "",
        f"dataset: {dataset}",
        f"source: {_scalar(source)}",
        "",
        "columns:",
        "  # What the other columns should explain; refined where it is continuous."
        + (" This is a guess: please check." if guessed else ""),
        *_listed(schema, Role.TARGET, frame),
        "  # Measurements: refined.",
        *_listed(schema, Role.FEATURE, frame),
        "  # Context: seen by the model, never changed.",
        *_listed(schema, Role.FROZEN, frame),
        "  # Carried along, unseen.",
        *_listed(schema, Role.IGNORED, frame),
        "  # Lowest and highest possible value of refined columns; null is unbounded. Example:",
        "  # bounds: {" + _scalar(schema.refined[0]) + ": [0, null]}",
        "  # Standard deviation of the measurement noise, where it is known: these columns are then refined all at",
        "  # once, each cell as far as its noise and its context imply. Example:",
        "  # noise: {" + _scalar(schema.refined[0]) + ": 0.5}",
    ]
    if schema.series is not None:
        series = schema.series
        lines += [
            "  # Steps over which that noise hangs together, of a sensor that drifts. Example:",
            "  # noise_correlation: {" + _scalar(schema.refined[0]) + ": 12}",
            "",
            "series:",
            f"  time: {_scalar(series.time)}",
            f"  entity: [{', '.join(map(_scalar, series.entity))}]   # columns that tell several series apart",
            f"  window: {series.window}   # steps that the model sees",
            f"  future: {series.future}   # steps ahead that it predicts",
        ]
        gap = f"  max_gap: {series.max_gap}" if series.max_gap else "  # max_gap: 4D"
        lines.append(f"{gap}   # the longest pause that does not break the series")
    kind = "lstm" if schema.series else "mlp"
    lines += [
        "",
        "# Everything below is optional; these are the defaults.",
        f"# backbone: {{kind: {kind}, training: {{epochs: 100, patience: 10, holdout: 0.2}}}}",
        "# refine: {rule: auto}   # posterior where noise is declared or in a series, else denograd; each in full:",
        "# refine: {rule: posterior, arguments: {folds: 5}, uncertainty: false, draw: false, faults: false}",
        "# refine: {rule: denograd, tau: 0.1, max_epochs: 100, refine_targets: true}",
        "# gates: {swd: {max: 0.15}, rho: {min: 0.90}, skill: {min: 0.10}}",
        "# publish: {root: .denograd/published}   # a folder, or a URL such as s3://bucket/prefix",
        "# seed: 0",
        "# device: auto",
    ]
    return "\n".join(lines) + "\n"


def _listed(schema: Schema, role: Any, frame: pd.DataFrame) -> list[str]:
    columns = [column for column in schema.columns if column.role is role and not _is_time(schema, column)]
    if not columns:
        return [f"  {role}: []"]
    names = [_scalar(column.name) for column in columns]
    width = max(map(len, names))
    return [f"  {role}:"] + [
        f"    - {name:<{width}}  # {_reason(column, frame)}" for name, column in zip(names, columns, strict=True)
    ]


def _is_time(schema: Schema, column: Column) -> bool:
    return schema.series is not None and column.name == schema.series.time


def _reason(column: Column, frame: pd.DataFrame) -> str:
    from denograd_engine.columns import inferred_column

    why = column.why if column.why != "declared" else inferred_column(column.name, frame[column.name], False).why
    missing = float(frame[column.name].isna().mean())
    if not missing:
        return why
    return f"{why}, {'<0.1%' if missing < 0.001 else f'{missing:.1%}'} missing"


def _scalar(text: str) -> str:
    """A YAML scalar, quoted where it must be."""
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./ -]*", text)
    words = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
    if plain and text.lower() not in words and text == text.strip():
        return text
    return "'" + text.replace("'", "''") + "'"
