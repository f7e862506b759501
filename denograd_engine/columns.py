"""One column: what it is, and how it comes by its role where none is declared.

Features and continuous targets are measurements: they are refined. Frozen columns are context, seen by the backbone and
never changed. Ignored columns are carried along unseen.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import SchemaError

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
        noise: Standard deviation of the measurement noise, in the column's own unit; None where it is not declared.
        noise_correlation: Steps of a series over which that noise hangs together; 0 where it is independent.
        classes: Whether the column holds classes, told apart by their text.
        why: The reason for an inferred role, for people.
    """

    name: str
    role: Role
    refined: bool = False
    integer: bool = False
    minimum: float | None = None
    maximum: float | None = None
    noise: float | None = None
    noise_correlation: int = 0
    classes: bool = False
    why: str = ""


def inferred_column(name: str, values: pd.Series[Any], in_series: bool) -> Column:
    """The role of a column by its type and values."""
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
        if distinct > len(present) // 2 and looks_like_an_identifier(name):
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


def looks_like_an_identifier(name: str) -> bool:
    """Whether the name of a column says that it tells rows apart."""
    words = name.lower().replace("-", "_").replace(".", "_").replace(" ", "_").split("_")
    return bool({"id", "uuid", "index", "key", "unnamed:", "rownum"} & set(words))


def _holds_unhashable(present: pd.Series[Any]) -> bool:
    return present.dtype == object and any(not isinstance(value, Hashable) for value in present.head(5))


def declared_column(inferred: Column, values: pd.Series[Any], role: Role, task: str | None) -> Column:
    """The column in the role that was declared for it.

    Raises:
        SchemaError: If its type does not fit.
    """
    from pandas.api import types

    name = inferred.name
    if role in (Role.FROZEN, Role.IGNORED):
        return Column(name, role, why="declared")
    if role is Role.TARGET and _holds_classes(values, task):
        return Column(name, role, classes=True, why=f"{values.nunique():,} classes")
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


def _holds_classes(values: pd.Series[Any], task: str | None) -> bool:
    """Whether a target is to be predicted as classes: told so, or text, categories, true and false."""
    from pandas.api import types

    if task is not None:
        return task == "classification"
    if types.is_bool_dtype(values.dtype) or str(values.dtype) == "category":
        return True
    return types.is_string_dtype(values.dropna())


def with_noise(column: Column, noise: float) -> Column:
    """The column with its noise.

    Raises:
        SchemaError: If it never changes, or the noise is not positive.
    """
    where = f"columns.noise.{column.name}"
    if not column.refined:
        raise SchemaError(
            f"column {column.name!r} is {column.role} and never changes, so its noise has no meaning",
            where=where,
            remedy="remove it, or list the column under columns.feature",
        )
    if not 0 < noise < math.inf:
        raise SchemaError(
            f"the noise of column {column.name!r} must be positive",
            expected="a standard deviation in the column's own unit",
            found=str(noise),
            where=where,
        )
    return replace(column, noise=noise)


def with_noise_correlation(column: Column, steps: int, in_series: bool) -> Column:
    """The column with the steps over which its noise hangs together.

    Raises:
        SchemaError: If the rows have no order, its noise is not declared, or the steps are none.
    """
    where = f"columns.noise_correlation.{column.name}"
    if not in_series:
        raise SchemaError(
            f"the noise of column {column.name!r} cannot hang together: the rows of a table have no order",
            expected="a series",
            where=where,
            remedy="remove it, or name the column of time stamps under series.time",
        )
    if column.noise is None:
        raise SchemaError(
            f"the noise of column {column.name!r} is not declared, and where it hangs together it cannot be estimated",
            expected="its standard deviation, in the column's own unit",
            where=where,
            remedy=f"declare it, such as columns.noise: {{{column.name}: 0.5}}",
        )
    if steps < 1:
        raise SchemaError(
            f"the noise of column {column.name!r} must hang together over at least 1 step",
            found=str(steps),
            where=where,
            remedy="remove it where the noise is independent",
        )
    return replace(column, noise_correlation=steps)


def bounded(column: Column, minimum: float | None, maximum: float | None) -> Column:
    """The column with its bounds.

    Raises:
        SchemaError: If it never changes, or the bounds leave no room.
    """
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
