"""Tables to tensors and back: scaling, categories, missing cells; dtypes and index restored on the way out.

The refined columns and the targets become *cells*, standardised variables that may move. The frozen columns become
*context*, numbers that the backbone sees and nothing moves. Each cell's scale is the standard deviation of the column
winsorised at its 1st and 99th percentile, about the mean of the same: a few gross outliers cannot blow it up, and for
clean columns it is the ordinary standard deviation to within a few per cent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types

from denograd_engine.columns import Column, Role
from denograd_engine.errors import SchemaError
from denograd_engine.restoration import Restoration
from denograd_engine.schema import Schema, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_LEVELS = 32
"""Distinct categories that get an indicator of their own; the rarer ones share none."""
BLOCK = 8192
"""Rows of a table that are encoded at once."""
MOST_CLASSES = 1000
"""Distinct values of a target beyond which it is taken for text, not for classes."""
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
        labels: Shape (rows,), the number of each row's class, -1 where it is missing or was never fitted; empty where
            the targets are numbers.
    """

    cells: NDArray[Any]
    present: NDArray[np.bool_]
    context: NDArray[Any]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Encoder:
    """The scaling of one data set: learnt once by `fit`, then applied to any table with the same columns.

    Attributes:
        schema: The roles of the columns.
        scales: One for each of `schema.cells`, in that order.
        contexts: One for each frozen column that carries information.
        flagged: Features whose missing cells are reported to the backbone by an indicator.
        classes: The classes of a target that is no number, as text, in the order of their numbers.
    """

    schema: Schema
    scales: tuple[Scale, ...]
    contexts: tuple[Context, ...]
    flagged: tuple[str, ...]
    classes: tuple[str, ...] = ()

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: Schema) -> Encoder:
        """Learn scales, levels and imputed values.

        Raises:
            SchemaError: If a refined column or target has infinite values, no values, or a single one, or too many
                classes to learn.
        """
        scales = tuple(_scale_of_cell(frame[name], schema[name]) for name in schema.cells)
        contexts = [_context_of(frame[name]) for name in schema.names(Role.FROZEN)]
        flagged = tuple(name for name in schema.features if frame[name].isna().any())
        classes = () if schema.label is None else _classes_of(frame[schema.label])
        return cls(schema, scales, tuple(context for context in contexts if context is not None), flagged, classes)

    @property
    def spreads(self) -> NDArray[np.float64]:
        """Shape (P,): one standardised unit of each cell column, in its own unit."""
        return np.array([scale.spread for scale in self.scales])

    @property
    def context_width(self) -> int:
        """Q, the number of context columns."""
        return sum(self.context_widths) + len(self.flagged)

    @property
    def context_widths(self) -> tuple[int, ...]:
        """How many of them each frozen column takes; the flags of missing cells come after."""
        return tuple(len(c.levels) if c.kind == "category" else 1 for c in self.contexts)

    def limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Declared bounds of the cell columns, standardised; infinite where none is declared. Each of shape (P,)."""
        columns = [self.schema[name] for name in self.schema.cells]
        low = [-np.inf if c.minimum is None else (c.minimum - s.center) / s.spread for c, s in self._paired(columns)]
        high = [np.inf if c.maximum is None else (c.maximum - s.center) / s.spread for c, s in self._paired(columns)]
        return np.array(low), np.array(high)

    def noise(self) -> NDArray[np.float64]:
        """Declared noise of the cell columns, standardised; 1 where none is declared. Shape (P,)."""
        columns = [self.schema[name] for name in self.schema.cells]
        return np.array([1.0 if c.noise is None else c.noise / s.spread for c, s in self._paired(columns)])

    @property
    def outputs(self) -> int:
        """Numbers that the backbone returns for an item: one for each class, or for each target at each horizon."""
        return len(self.classes) or len(self.schema.outputs)

    def encode(self, frame: pd.DataFrame, dtype: str = "float32") -> Encoded:
        """Arrays for this table, in the row order given. In series, missing cells are interpolated.

        Raises:
            SchemaError: If a column that was fitted is gone or of another kind, or if a cell is infinite.
        """
        self._require_columns(frame)
        cells = np.empty((len(frame), len(self.scales)), dtype=dtype)
        present = np.empty(cells.shape, dtype=bool)
        step = BLOCK if self.schema.series is None else max(1, len(frame))
        for start in range(0, len(frame), step):
            block = slice(start, start + step)
            cells[block], present[block] = self._cells(frame.iloc[block])
        parts: list[NDArray[Any]] = [_encode_context(frame[context.name], context) for context in self.contexts]
        parts += [frame[name].isna().to_numpy(dtype=np.float64)[:, None] for name in self.flagged]
        context = np.concatenate(parts, axis=1) if parts else np.empty((len(frame), 0))
        return Encoded(cells, present, context.astype(dtype), self._labels(frame))

    def restore(self, frame: pd.DataFrame, shift: NDArray[Any]) -> pd.DataFrame:
        """The table with its cells shifted: see `Restoration`.

        Args:
            frame: As observed.
            shift: Shape (rows, P), standardised.
        """
        restoration = Restoration(frame, self.schema, self.spreads)
        restoration.put(0, shift)
        return restoration.frame()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Encoder:
        """Read what `to_dict` wrote. Executes nothing that the data name."""
        series = plain["schema"]["series"]
        if series is not None:
            future = series["future"] if isinstance(series["future"], int) else tuple(series["future"])
            series = Series(**{**series, "entity": tuple(series["entity"]), "future": future})
        columns = tuple(Column(**{**c, "role": Role(c["role"])}) for c in plain["schema"]["columns"])
        contexts = tuple(
            Context(
                **{**c, "scale": Scale(**c["scale"]) if c["scale"] else None, "levels": tuple(c["levels"])},
            )
            for c in plain["contexts"]
        )
        scales = tuple(Scale(**scale) for scale in plain["scales"])
        flagged, classes = tuple(plain["flagged"]), tuple(plain.get("classes", ()))
        return cls(Schema(columns, series), scales, contexts, flagged, classes)

    def _cells(self, frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Standardised cells of these rows, and which are present, each of shape (rows, P)."""
        names = self.schema.cells
        raw = np.empty((len(names), len(frame)))
        for at, name in enumerate(names):
            raw[at] = _numbers(frame[name])
        finite = np.isfinite(raw)
        complete = bool(finite.all())
        present = finite if complete else ~np.isnan(raw)
        if not complete and np.isinf(raw).any():
            for at, name in enumerate(names):
                _require_finite(raw[at], self.schema[name], frame.index)
        raw -= np.array([scale.center for scale in self.scales])[:, None]
        raw /= self.spreads[:, None]
        for at in np.flatnonzero(~present.all(axis=1)).tolist() if not complete else ():
            raw[at] = self._impute(frame, raw[at], self.scales[at].imputed)
        return raw.T, present.T

    def _labels(self, frame: pd.DataFrame) -> NDArray[np.int64]:
        label = self.schema.label
        if label is None:
            return np.empty(0, dtype=np.int64)
        return pd.Index(self.classes).get_indexer(pd.Index(_class_names(frame[label]))).astype(np.int64)

    def _require_columns(self, frame: pd.DataFrame) -> None:
        series = self.schema.series
        kinds: dict[str, str] = {} if series is None else dict.fromkeys((series.time, *series.entity), "")
        kinds |= {context.name: context.kind for context in self.contexts} | dict.fromkeys(self.schema.cells, "cell")
        kinds |= {} if self.schema.label is None else {self.schema.label: ""}
        counts = Counter(frame.columns)
        for name, kind in kinds.items():
            count = counts[name]
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


def _classes_of(values: pd.Series[Any]) -> tuple[str, ...]:
    classes = tuple(sorted(_class_names(values.dropna()).unique()))
    if not 1 < len(classes) <= MOST_CLASSES:
        raise SchemaError(
            f"column {values.name!r} does not hold classes that can be learnt",
            expected=f"2 to {MOST_CLASSES} distinct values",
            found=f"{len(classes):,}",
            where="columns.target",
            remedy="choose another target, or set columns.task: regression if it holds numbers",
        )
    return classes


def _class_names(values: pd.Series[Any]) -> pd.Series[str]:
    """The text by which classes are told apart, None where missing: 1 and 1.0 are the same."""
    text = values.astype(str).where(values.notna(), None)
    return text.str.removesuffix(".0") if types.is_float_dtype(values.dtype) else text


def _numbers(values: pd.Series[Any]) -> NDArray[np.float64]:
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def _scale_of_cell(values: pd.Series[Any], column: Column) -> Scale:
    name, where = column.name, f"columns.{column.role}"
    numbers = _numbers(values)
    _require_finite(numbers, column, values.index)
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


def _require_finite(numbers: NDArray[np.float64], column: Column, index: pd.Index[Any]) -> None:
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        first = infinite[0] + (index.start if isinstance(index, pd.RangeIndex) else 0)
        raise SchemaError(
            f"column {column.name!r} holds infinite values",
            expected="finite numbers, or missing cells",
            found=f"{len(infinite):,} infinite cells, the first at row {first:,}",
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
