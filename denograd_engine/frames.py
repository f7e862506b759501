"""Tables to tensors and back: scaling, categories, missing cells; dtypes and index restored on the way out.

The refined columns and the targets become *cells*, standardised variables that may move. The frozen columns become
*context*, numbers that the backbone sees and nothing moves. Each cell's scale is the standard deviation of the column
winsorised at its 1st and 99th percentile, about the mean of the same: a few gross outliers cannot blow it up, and for
clean columns it is the ordinary standard deviation to within a few per cent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types

from denograd_engine.errors import SchemaError
from denograd_engine.schema import Column, Role, Schema, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_LEVELS = 32
"""Distinct categories that get an indicator of their own; the rarer ones share none."""
TAILS = (0.01, 0.99)
"""Quantiles at which columns are winsorised before their scale is taken."""


@dataclass(frozen=True)
class Scale:
    """Location and spread of one column, in its own unit, and where a missing cell is put (standardised)."""

    center: float
    spread: float
    imputed: float = 0.0


@dataclass(frozen=True)
class Context:
    """How one frozen column becomes numbers: standardised, or one indicator for each level."""

    name: str
    kind: Literal["number", "time", "category"]
    scale: Scale | None = None
    origin: str | None = None
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A table as arrays.

    Attributes:
        cells: Shape (rows, P), standardised; missing cells imputed.
        present: Shape (rows, P), False where the cell is missing.
        context: Shape (rows, Q), standardised numbers and indicators.
    """

    cells: NDArray[Any]
    present: NDArray[np.bool_]
    context: NDArray[Any]


@dataclass(frozen=True)
class Encoder:
    """The scaling of one data set: learnt once by `fit`, then applied to any table with the same columns.

    Attributes:
        schema: The roles of the columns.
        scales: One for each of `schema.cells`, in that order.
        contexts: One for each frozen column that carries information.
        flagged: Features whose missing cells are reported to the backbone by an indicator.
    """

    schema: Schema
    scales: tuple[Scale, ...]
    contexts: tuple[Context, ...]
    flagged: tuple[str, ...]

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: Schema) -> Encoder:
        """Learn scales, levels and imputed values.

        Raises:
            SchemaError: If a refined column or target has infinite values, no values, or a single one.
        """
        scales = tuple(_scale_of_cell(frame[name], schema[name]) for name in schema.cells)
        contexts = [_context_of(frame[name]) for name in schema.names(Role.FROZEN)]
        flagged = tuple(name for name in schema.features if frame[name].isna().any())
        return cls(schema, scales, tuple(context for context in contexts if context is not None), flagged)

    @property
    def spreads(self) -> NDArray[np.float64]:
        """Shape (P,): one standardised unit of each cell column, in its own unit."""
        return np.array([scale.spread for scale in self.scales])

    @property
    def context_width(self) -> int:
        """Q, the number of context columns."""
        return sum(len(c.levels) if c.kind == "category" else 1 for c in self.contexts) + len(self.flagged)

    def limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Declared bounds of the cell columns, standardised; infinite where none is declared. Each of shape (P,)."""
        columns = [self.schema[name] for name in self.schema.cells]
        low = [-np.inf if c.minimum is None else (c.minimum - s.center) / s.spread for c, s in self._paired(columns)]
        high = [np.inf if c.maximum is None else (c.maximum - s.center) / s.spread for c, s in self._paired(columns)]
        return np.array(low), np.array(high)

    def encode(self, frame: pd.DataFrame, dtype: str = "float32") -> Encoded:
        """Arrays for this table, in the row order given. In series, missing cells are interpolated.

        Raises:
            SchemaError: If a column that was fitted is gone or of another kind, or if a cell is infinite.
        """
        self._require_columns(frame)
        names = self.schema.cells
        cells = np.empty((len(frame), len(names)), dtype=dtype)
        present = np.empty(cells.shape, dtype=bool)
        for at, (name, scale) in enumerate(zip(names, self.scales, strict=True)):
            raw = _numbers(frame[name])
            _require_finite(raw, self.schema[name])
            present[:, at] = ~np.isnan(raw)
            standardised = (raw - scale.center) / scale.spread
            if not present[:, at].all():
                standardised = self._impute(frame, standardised, scale.imputed)
            cells[:, at] = standardised
        parts: list[NDArray[Any]] = [_encode_context(frame[context.name], context) for context in self.contexts]
        parts += [frame[name].isna().to_numpy(dtype=np.float64)[:, None] for name in self.flagged]
        context = np.concatenate(parts, axis=1) if parts else np.empty((len(frame), 0))
        return Encoded(cells, present, context.astype(dtype))

    def restore(self, frame: pd.DataFrame, shift: NDArray[Any]) -> pd.DataFrame:
        """The table with its cells shifted.

        Args:
            frame: As observed.
            shift: Shape (rows, P), standardised. A cell whose shift is zero comes back bit-identical, unless it
                violates a declared bound.

        Returns:
            A new table with the same index, columns, dtypes and missing cells; whole numbers stay whole.
        """
        restored = frame.copy()
        for at, (name, scale) in enumerate(zip(self.schema.cells, self.scales, strict=True)):
            column = self.schema[name]
            if column.refined:
                restored[name] = _shifted(frame[name], shift[:, at].astype(np.float64) * scale.spread, column)
        return restored

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Encoder:
        """Read what `to_dict` wrote. Executes nothing that the data name."""
        series = plain["schema"]["series"]
        if series is not None:
            series = Series(**{**series, "entity": tuple(series["entity"])})
        columns = tuple(Column(**{**c, "role": Role(c["role"])}) for c in plain["schema"]["columns"])
        contexts = tuple(
            Context(
                **{**c, "scale": Scale(**c["scale"]) if c["scale"] else None, "levels": tuple(c["levels"])},
            )
            for c in plain["contexts"]
        )
        scales = tuple(Scale(**scale) for scale in plain["scales"])
        return cls(Schema(columns, series), scales, contexts, tuple(plain["flagged"]))

    def _require_columns(self, frame: pd.DataFrame) -> None:
        series = self.schema.series
        kinds: dict[str, str] = {} if series is None else dict.fromkeys((series.time, *series.entity), "")
        kinds |= {context.name: context.kind for context in self.contexts} | dict.fromkeys(self.schema.cells, "cell")
        for name, kind in kinds.items():
            count = int((frame.columns == name).sum())
            if count != 1:
                problem = f"there is no column {name!r}" if count == 0 else f"column {name!r} occurs {count} times"
                raise SchemaError(
                    f"{problem} in the data",
                    expected="the columns that the backbone was fitted on, each once",
                )
            values = frame[name]
            if not _is_of_kind(values, kind):
                raise SchemaError(
                    f"column {name!r} is not of the kind that the backbone was fitted on",
                    expected="time stamps as fitted" if kind == "time" else "numbers",
                    found=f"type {values.dtype}",
                )

    def _paired(self, columns: list[Column]) -> zip[tuple[Column, Scale]]:
        return zip(columns, self.scales, strict=True)

    def _impute(self, frame: pd.DataFrame, values: NDArray[Any], fallback: float) -> NDArray[Any]:
        series = pd.Series(values)
        if self.schema.series is not None:
            entity = list(self.schema.series.entity)
            if entity:
                keys = [frame[name].to_numpy() for name in entity]
                series = series.groupby(keys, dropna=False).transform(
                    lambda one: one.interpolate(limit_direction="both")
                )
            else:
                series = series.interpolate(limit_direction="both")
        return series.fillna(fallback).to_numpy()


def _numbers(values: pd.Series[Any]) -> NDArray[np.float64]:
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def _scale_of_cell(values: pd.Series[Any], column: Column) -> Scale:
    name, where = column.name, f"columns.{column.role}"
    numbers = _numbers(values)
    _require_finite(numbers, column)
    present = numbers[~np.isnan(numbers)]
    if not len(present):
        raise SchemaError(
            f"column {name!r} has no values: all cells are missing",
            expected=f"numbers, as it is a {column.role}",
            where=where,
            remedy=f"add it to columns.ignored: [{name}]",
        )
    if present.min() == present.max():
        raise SchemaError(
            f"column {name!r} is constant",
            expected=f"at least two distinct values, as it is a {column.role}",
            where=where,
            remedy=f"add it to columns.frozen: [{name}]",
        )
    return _robust_scale(present)


def _require_finite(numbers: NDArray[np.float64], column: Column) -> None:
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise SchemaError(
            f"column {column.name!r} holds infinite values",
            expected="finite numbers, or missing cells",
            found=f"{len(infinite):,} infinite cells, the first at row {infinite[0]:,}",
            where=f"columns.{column.role}",
            remedy="replace them by missing cells, or mark the column as ignored",
        )


def _robust_scale(present: NDArray[np.float64]) -> Scale:
    low, high = np.quantile(present, TAILS)
    body = np.clip(present, low, high)
    spread = float(body.std())
    if not spread > 1e-12 * max(1.0, abs(low), abs(high)):
        body = present
        spread = float(present.std())
    center = float(body.mean())
    return Scale(center, spread or 1.0, (float(np.median(present)) - center) / (spread or 1.0))


def _context_of(values: pd.Series[Any]) -> Context | None:
    name = str(values.name)
    present = values.dropna()
    if present.empty:
        return None
    if types.is_numeric_dtype(values.dtype) and not types.is_complex_dtype(values.dtype):
        numbers = _numbers(present)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers) or numbers.min() == numbers.max():
            return None
        return Context(name, "number", scale=_robust_scale(numbers))
    if types.is_datetime64_any_dtype(values.dtype) or types.is_timedelta64_dtype(values.dtype):
        origin = str(present.min()) if types.is_datetime64_any_dtype(values.dtype) else None
        seconds = _seconds(present, origin)
        return Context(name, "time", scale=_robust_scale(seconds), origin=origin) if np.ptp(seconds) else None
    counts = present.astype(str).value_counts()
    frequent = counts.iloc[:MOST_LEVELS] if len(counts) <= MOST_LEVELS or counts.iloc[0] > 1 else counts.iloc[:0]
    levels = tuple(sorted(str(level) for level in frequent.index))
    return Context(name, "category", levels=levels) if len(levels) > 1 else None


def _seconds(values: pd.Series[Any], origin: str | None) -> NDArray[np.float64]:
    elapsed = values if origin is None else values - pd.Timestamp(origin)
    return np.asarray(elapsed.dt.total_seconds(), dtype=np.float64)


def _encode_context(values: pd.Series[Any], context: Context) -> NDArray[np.float64]:
    if context.kind == "category":
        text = values.astype(str).where(values.notna(), None).to_numpy(dtype=object)
        indicators: NDArray[np.float64] = np.asarray(
            text[:, None] == np.array(context.levels, dtype=object), dtype=float
        )
        return indicators
    assert context.scale is not None
    raw = _numbers(values) if context.kind == "number" else _seconds(values, context.origin)
    standardised = (raw - context.scale.center) / context.scale.spread
    return np.where(np.isfinite(standardised), standardised, context.scale.imputed)[:, None]


def _is_of_kind(values: pd.Series[Any], kind: str) -> bool:
    if kind == "time":
        return types.is_datetime64_any_dtype(values.dtype) or types.is_timedelta64_dtype(values.dtype)
    if kind not in ("cell", "number"):
        return True
    numeric = types.is_numeric_dtype(values.dtype) and not types.is_complex_dtype(values.dtype)
    return bool((numeric and not (kind == "cell" and types.is_bool_dtype(values.dtype))) or values.isna().all())


def _shifted(values: pd.Series[Any], shift: NDArray[np.float64], column: Column) -> pd.Series[Any]:
    numbers = _numbers(values)
    present = ~np.isnan(numbers)
    low, high = _limits(column, values.dtype)
    if column.integer or types.is_integer_dtype(values.dtype):
        shift = np.round(shift)
    moved = present & ((shift != 0) | (numbers < low) | (numbers > high))
    if not moved.any():
        return values.copy()
    changed = np.clip(numbers[moved] + shift[moved], low, high)
    array = values.array.copy()
    array[moved] = pd.Series(changed).astype(values.dtype).array
    return pd.Series(array, index=values.index, name=values.name, copy=False)


def _limits(column: Column, dtype: Any) -> tuple[float, float]:
    """The column's bounds, rounded inwards to what its type can hold."""
    low = -np.inf if column.minimum is None else column.minimum
    high = np.inf if column.maximum is None else column.maximum
    if column.integer or types.is_integer_dtype(dtype):
        low, high = float(np.ceil(low)), float(np.floor(high))
    kind = np.dtype(getattr(dtype, "numpy_dtype", dtype))
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        low, high = float(max(low, limits.min)), float(min(high, limits.max))
        return low, high if high <= limits.max else float(np.nextafter(high, 0.0))
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            lowest, highest = np.array([low, high]).astype(kind)
        low = float(lowest if float(lowest) >= low else np.nextafter(lowest, kind.type(np.inf)))
        high = float(highest if float(highest) <= high else np.nextafter(highest, kind.type(-np.inf)))
    return low, high
