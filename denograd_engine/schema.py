"""What a column is: feature, target, frozen or ignored.

Features and continuous targets are measurements: they are refined. Frozen columns are context, seen by the backbone and
never changed. Ignored columns are carried along unseen. Units stay the user's: scaling is the business of `frames`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import ConfigError, SchemaError

if TYPE_CHECKING:
    import pandas as pd

FEW_VALUES = 20
"""Whole numbers with at most this many distinct values are codes or counts, not measurements."""
FEW_VALUES_IN_TABLES = 100
"""The same in tables, where codes such as postal areas are common, as long as each value recurs often."""
FEW_LEVELS = 10
"""Fractional numbers with at most this many distinct values are levels, not measurements."""


class Role(StrEnum):
    """What the refinement does with a column."""

    FEATURE = "feature"
    TARGET = "target"
    FROZEN = "frozen"
    IGNORED = "ignored"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: As in the data.
        role: See `Role`.
        refined: Whether its cells may move. Always for features, for targets where they are continuous.
        integer: Whether a refined cell is rounded to a whole number.
        minimum: Lower bound in the column's own unit, held in the output; None is unbounded.
        maximum: Upper bound, likewise.
        why: The reason for an inferred role, for people.
    """

    name: str
    role: Role
    refined: bool = False
    integer: bool = False
    minimum: float | None = None
    maximum: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Series:
    """How the rows form series.

    Attributes:
        time: The column of time stamps (or a number that grows with time).
        entity: Columns whose combination names one series; empty if there is only one.
        window: Steps that the backbone sees, W.
        future: Steps ahead: a window over steps s..s+W-1 predicts step s+W+future-1.
        stride: Steps between the starts of neighbouring windows.
        max_gap: The longest pause between neighbouring steps that does not break a series, as a pandas offset
            ("4D") or a number for numeric time; None allows 1.5 times the usual step.
    """

    time: str
    entity: tuple[str, ...] = ()
    window: int = 24
    future: int = 1
    stride: int = 1
    max_gap: str | None = None

    def __post_init__(self) -> None:
        for name in ("window", "future", "stride"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"series.{name} must be at least 1", found=str(getattr(self, name)), where=f"series.{name}"
                )

    @property
    def span(self) -> int:
        """Steps from a window's first to its predicted one, both counted."""
        return self.window + self.future


@dataclass(frozen=True)
class Schema:
    """The columns in the order of the data, and the time axis if the rows form series."""

    columns: tuple[Column, ...]
    series: Series | None = None

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def names(self, role: Role) -> list[str]:
        """Names of the columns with this role, in the data's order."""
        return [column.name for column in self.columns if column.role is role]

    @property
    def features(self) -> list[str]:
        return self.names(Role.FEATURE)

    @property
    def targets(self) -> list[str]:
        return self.names(Role.TARGET)

    @property
    def cells(self) -> list[str]:
        """The columns that enter refinement as variables: features, then targets."""
        return self.features + self.targets

    @property
    def refined(self) -> list[str]:
        """The columns whose cells may move: features, then continuous targets."""
        return [name for name in self.cells if self[name].refined]

    @property
    def untouched(self) -> list[str]:
        """The columns that must come out bit-identical."""
        moving = set(self.refined)
        return [column.name for column in self.columns if column.name not in moving]


def infer_schema(
    frame: pd.DataFrame,
    target: str | Sequence[str],
    features: Iterable[str] = (),
    frozen: Iterable[str] = (),
    ignored: Iterable[str] = (),
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
    series: Series | None = None,
) -> Schema:
    """Give every column a role: the declared one, else one inferred from its type and values.

    Numbers are features, except whole numbers with few distinct values (codes, counts of rooms), which are frozen like
    booleans, categories, strings and time stamps. Row identifiers and free text are ignored.

    Args:
        frame: Shape (rows, columns), in the user's units.
        target: Column or columns to predict.
        features: Columns to refine whatever their values look like.
        frozen: Columns to keep, seen by the backbone.
        ignored: Columns to keep, unseen by the backbone.
        bounds: Lower and upper bound per refined column, in its own unit.
        series: The time axis, if the rows form series.

    Raises:
        SchemaError: If a named column is absent or named twice, if column names repeat or are no text, or if a
            feature or target is not numeric.

    >>> import pandas as pd
    >>> data = pd.DataFrame({"rooms": [1, 2] * 20, "area": [x * 1.5 for x in range(40)], "price": range(40)})
    >>> [(c.name, str(c.role)) for c in infer_schema(data, target="price").columns]
    [('rooms', 'frozen'), ('area', 'feature'), ('price', 'target')]
    """
    targets = [target] if isinstance(target, str) else list(target)
    declared = _declared_roles(frame, targets, features, frozen, ignored, series)
    bounds = dict(bounds or {})
    for name in bounds:
        _require(frame, name, "bounds")
    columns = []
    for name in frame.columns:
        values = frame[name]
        column = _inferred_column(str(name), values, series is not None)
        if name in declared:
            column = _declared_column(column, values, declared[name])
        if name in bounds:
            column = _bounded(column, *bounds[name])
        columns.append(column)
    schema = Schema(tuple(columns), series)
    if not schema.targets:
        raise SchemaError(
            "no target column is named",
            expected="at least one numeric column to predict",
            where="columns.target",
            remedy="name the column that the others should explain",
        )
    if not schema.refined:
        raise SchemaError(
            "no column can be refined",
            expected="at least one numeric feature, or a continuous target",
            where="columns",
            remedy="list the measured columns under columns.feature",
        )
    return schema


def _declared_roles(
    frame: pd.DataFrame,
    targets: list[str],
    features: Iterable[str],
    frozen: Iterable[str],
    ignored: Iterable[str],
    series: Series | None,
) -> dict[str, Role]:
    unnamed = [name for name in frame.columns if not isinstance(name, str)]
    if unnamed:
        raise SchemaError(
            "column names must be text",
            found=", ".join(map(repr, unnamed[:5])) + (", ..." if len(unnamed) > 5 else ""),
            remedy="name the columns: frame.columns = frame.columns.astype(str)",
        )
    repeated = frame.columns[frame.columns.duplicated()].unique().tolist()
    if repeated:
        raise SchemaError(
            f"column names occur more than once: {', '.join(map(repr, repeated[:5]))}",
            expected="every column name once",
            remedy="rename or drop the repeated columns",
        )
    roles: dict[str, Role] = {}
    listed = {Role.TARGET: targets, Role.FEATURE: features, Role.FROZEN: frozen, Role.IGNORED: ignored}
    for role, names in listed.items():
        for name in names:
            _require(frame, name, f"columns.{role}")
            if roles.get(name, role) is not role:
                raise SchemaError(
                    f"column {name!r} has two roles: {roles[name]} and {role}",
                    expected="one role for each column",
                    where=f"columns.{role}",
                    remedy="remove it from one of the lists",
                )
            roles[name] = role
    if series is not None:
        for key, names in (("series.time", [series.time]), ("series.entity", list(series.entity))):
            for name in names:
                _require(frame, name, key)
                if roles.get(name) in (Role.FEATURE, Role.TARGET):
                    raise SchemaError(
                        f"column {name!r} is both {roles[name]} and {key.removeprefix('series.')}",
                        where=key,
                        remedy=f"remove it from columns.{roles[name]}",
                    )
                roles[name] = Role.IGNORED if key == "series.time" else Role.FROZEN
    return roles


def _require(frame: pd.DataFrame, name: str, where: str) -> None:
    if name in frame.columns:
        return
    from difflib import get_close_matches

    names = [str(column) for column in frame.columns]
    by_lower = {column.lower(): column for column in names}
    near = [by_lower[one] for one in get_close_matches(str(name).lower(), by_lower, n=1)]
    raise SchemaError(
        f"there is no column {name!r} in the data",
        found=", ".join(names[:12]) + (", ..." if len(names) > 12 else ""),
        where=where,
        remedy=f"did you mean {near[0]!r}?" if near else "use one of the columns found",
    )


def _inferred_column(name: str, values: pd.Series[Any], in_series: bool) -> Column:
    from pandas.api import types

    present = values.dropna()
    if types.is_bool_dtype(values.dtype):
        return Column(name, Role.FROZEN, why="true or false")
    if types.is_datetime64_any_dtype(values.dtype) or types.is_timedelta64_dtype(values.dtype):
        return Column(name, Role.FROZEN, why="time stamp")
    if types.is_numeric_dtype(values.dtype) and not types.is_complex_dtype(values.dtype):
        return _inferred_number(name, present, in_series)
    distinct = present.nunique() if not _holds_unhashable(present) else len(present)
    if len(present) and distinct > max(FEW_VALUES_IN_TABLES, len(present) // 2):
        return Column(name, Role.IGNORED, why=f"text, {distinct:,} distinct values")
    return Column(name, Role.FROZEN, why=f"category, {distinct:,} distinct values")


def _inferred_number(name: str, present: pd.Series[Any], in_series: bool) -> Column:
    from pandas.api import types as pandas_types

    distinct = int(present.nunique())
    if len(present) == 0:
        return Column(name, Role.FEATURE, refined=True, why="number, all cells missing")
    whole = _whole_numbers(present)
    if whole:
        if distinct > len(present) // 2 and _looks_like_an_identifier(name):
            return Column(name, Role.IGNORED, why="row identifier")
        few = FEW_VALUES if in_series else max(FEW_VALUES, min(FEW_VALUES_IN_TABLES, len(present) // 20))
        if distinct <= few:
            return Column(name, Role.FROZEN, why=f"whole numbers, only {distinct} distinct values")
    elif distinct <= FEW_LEVELS:
        return Column(name, Role.FROZEN, why=f"numbers, only {distinct} distinct values")
    kind = "whole numbers" if whole else "numbers"
    integer = pandas_types.is_integer_dtype(present.dtype)
    return Column(name, Role.FEATURE, refined=True, integer=integer, why=f"{kind}, {distinct:,} distinct values")


def _whole_numbers(present: pd.Series[Any]) -> bool:
    import numpy as np
    from pandas.api import types

    if types.is_integer_dtype(present.dtype):
        return True
    numbers = present.to_numpy(dtype=float)
    return bool(np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())


def _looks_like_an_identifier(name: str) -> bool:
    words = name.lower().replace("-", "_").replace(".", "_").replace(" ", "_").split("_")
    return bool({"id", "uuid", "index", "key", "unnamed:", "rownum"} & set(words))


def _holds_unhashable(present: pd.Series[Any]) -> bool:
    return present.dtype == object and any(not isinstance(value, Hashable) for value in present.head(5))


def _declared_column(inferred: Column, values: pd.Series[Any], role: Role) -> Column:
    from pandas.api import types

    name = inferred.name
    if role in (Role.FROZEN, Role.IGNORED):
        return Column(name, role, why="declared")
    numeric = types.is_numeric_dtype(values.dtype) and not types.is_bool_dtype(values.dtype)
    if not numeric or types.is_complex_dtype(values.dtype):
        remedy = (
            f"mark it as frozen: columns.frozen: [{name}]"
            if role is Role.FEATURE
            else "choose a numeric column, or encode this one as numbers first"
        )
        raise SchemaError(
            f"column {name!r} cannot be a {role}: it is not numeric",
            expected="integers or floating-point numbers",
            found=f"type {values.dtype}",
            where=f"columns.{role}",
            remedy=remedy,
        )
    integer = types.is_integer_dtype(values.dtype)
    if role is Role.FEATURE:
        return Column(name, role, refined=True, integer=integer, why="declared")
    continuous = inferred.role is Role.FEATURE
    return Column(name, role, refined=continuous, integer=integer, why="declared")


def _bounded(column: Column, minimum: float | None, maximum: float | None) -> Column:
    where = f"columns.bounds.{column.name}"
    if not column.refined:
        raise SchemaError(
            f"column {column.name!r} is {column.role} and never changes, so bounds have no meaning for it",
            where=where,
            remedy="remove the bounds, or list the column under columns.feature",
        )
    low = -math.inf if minimum is None else minimum
    high = math.inf if maximum is None else maximum
    finite = math.isfinite(low) and math.isfinite(high)
    if not low < high or (column.integer and finite and math.ceil(low) > math.floor(high)):
        raise SchemaError(
            f"the bounds of column {column.name!r} leave no room",
            expected="a lower bound below the upper one" + (", and a whole number between them" * column.integer),
            found=f"[{minimum}, {maximum}]",
            where=where,
        )
    return replace(column, minimum=minimum, maximum=maximum)
