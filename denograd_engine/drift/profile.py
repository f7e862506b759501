"""What the reference looks like, in a few thousand numbers whatever its size: all that later rows are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api import types

from denograd_engine.drift.bins import BINS, Bins, bins_of, watched
from denograd_engine.drift.counting import Clock, Counted, count
from denograd_engine.drift.dependence import LONGEST, dependence
from denograd_engine.drift.joint import Whole, blocks_of
from denograd_engine.drift.scores import DEGREES, indicator, means_by_phase, normal_scores
from denograd_engine.errors import ConfigError, SchemaError, TooFewRowsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_engine.drift.counting import Residuals
    from denograd_engine.schema import Schema

FEWEST_ROWS = 50
FEWEST_DAYS = 4
"""Days that a series spans before each of its rows is compared with those of the same hour."""
REACHES = 0.2
"""Steps of resemblance below which rows are independent for the joint test."""


@dataclass(frozen=True)
class Profile:
    """A reference, counted. P is 24 where rows are compared hour by hour, else 1; C the number of columns.

    Attributes:
        columns: How each is counted: the table's, then residuals.
        clock: How time is told.
        counts: Cells in each bin, shape (P, C, BINS).
        moments: Sums of the standardised cells and of their squares, shape (P, C, 2).
        inflation: See `dependence`: of the four scores (of categories: in the place of the first), and of missing
            cells, shape (C, 5).
        block: Rows that stay together in the joint test; 1 where rows are independent.
        sample: Location scores of some rows, block by block, in steps of 1/32 std, shape (rows, ordered columns).
    """

    columns: tuple[Bins, ...]
    clock: Clock
    counts: NDArray[np.int64]
    moments: NDArray[np.float64]
    inflation: NDArray[np.float64]
    block: int
    sample: NDArray[np.int8]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Of each bin among the cells of an hour, shape (P, C, BINS)."""
        return means_by_phase(self.counts, self.counts[:, 0].sum(axis=1))

    @property
    def means(self) -> NDArray[np.float64]:
        """Of the standardised cells and of their squares over the rows of an hour, shape (P, C, 2)."""
        return means_by_phase(self.moments, self.counts[:, 0].sum(axis=1))

    def to_plain(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain data for JSON, and named arrays; `from_plain` reads them back."""
        plain = {
            "columns": [asdict(column) for column in self.columns],
            "clock": asdict(self.clock),
            "block": self.block,
        }
        return plain, {name: getattr(self, name) for name in ("counts", "moments", "inflation", "sample")}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Profile:
        """Read what `to_plain` wrote. Executes nothing that the data name.

        Raises:
            ConfigError: If the two do not fit together.
        """
        try:
            columns = tuple(
                Bins(**{**column, "cuts": tuple(column["cuts"]), "levels": tuple(column["levels"])})
                for column in plain["columns"]
            )
            read = cls(columns, Clock(**plain["clock"]), block=int(plain["block"]), **arrays)
            shape = (read.clock.phases, len(columns))
            fits = read.counts.shape == (*shape, BINS) and read.moments.shape == (*shape, 2)
            found = None if fits and len(read.inflation) == len(columns) else "arrays of other shapes"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = type(error).__name__
        if found is not None:
            raise ConfigError(
                "the stored profile is damaged, or of another version", found=found, where="reference profile"
            )
        return read


def profile_of(frame: pd.DataFrame, schema: Schema, residuals: Residuals | None = None, seed: int = 0) -> Profile:
    """Describe a reference.

    Rows of a series whose time stamps span four days or more are described for each hour of the day, so that a morning
    is compared with mornings. Other seasons count as dependence between rows.

    Args:
        frame: Shape (rows, columns), as it arrived: in a table too, the order of the rows shows how much they depend
            on each other.
        schema: Roles of the columns; ignored ones and time stamps are not watched.
        residuals: Of a model, by the name of what it predicts, one for each row, NaN where there is none. They must be
            out of fold: those of rows that the model has seen are smaller than later ones will be.
        seed: Of the rows that are kept for the joint test.

    Raises:
        TooFewRowsError: If there are fewer than 50 rows.
        SchemaError: If there is no column to watch, or if residuals do not fit the rows.

    >>> from denograd_engine.schema import infer_schema
    >>> data = pd.DataFrame({"a": np.arange(200) * 37 % 101 / 3, "y": np.arange(200) * 53 % 97 / 2})
    >>> profile = profile_of(data, infer_schema(data, "y"))
    >>> [column.name for column in profile.columns], profile.counts.shape
    (['a', 'y'], (1, 2, 33))
    """
    if len(frame) < FEWEST_ROWS:
        raise TooFewRowsError(
            "there are too few rows to tell a change from chance",
            expected=f"at least {FEWEST_ROWS} rows",
            found=str(len(frame)),
        )
    residuals = residuals or {}
    columns = [bins_of(name, frame[name]) for name in watched(frame, schema)]
    if not columns:
        raise SchemaError("there is no column to watch", expected="one that is neither ignored nor a time stamp")
    columns += [bins_of(name, pd.Series(values), residual=True) for name, values in residuals.items()]
    clock = Clock()
    if schema.series is not None:
        clock = Clock(schema.series.time, hourly=_spans_days(frame[schema.series.time]))
    counted = count(frame, residuals, columns, clock)
    inflation, block = _dependence(columns, counted)
    kept = blocks_of(Whole.of(columns, counted.counts).scores(counted), block, seed)
    return Profile(tuple(columns), clock, counted.counts, counted.moments, inflation, block, kept)


def _dependence(columns: list[Bins], counted: Counted) -> tuple[NDArray[np.float64], int]:
    """Inflation of each score, shape (C, 5), and the rows that stay together."""
    starts = counted.starts[-LONGEST:]
    last, starts = starts[0], starts - starts[0]
    places, phases = counted.places[last:], counted.phases[last:]
    inflation, reach = np.ones((len(columns), DEGREES + 1)), 0.0
    for at, column in enumerate(columns):
        counts = counted.counts[:, at]
        missing = [(DEGREES, indicator(counts, 0))]
        if column.ordered:
            tables = [*enumerate(normal_scores(counts)), *missing]
        else:
            tables = [*((0, indicator(counts, level)) for level in range(1, column.used)), *missing]
        for score, table in tables:
            found = dependence(table[phases, places[:, at]], starts)
            inflation[at, score] = max(inflation[at, score], found.inflation)
            if column.ordered and score == 0:
                reach = max(reach, found.reach)
    return inflation, 1 if reach < REACHES else math.ceil(2 * reach * len(places) / len(starts))


def _spans_days(times: pd.Series[Any]) -> bool:
    if not types.is_datetime64_any_dtype(times.dtype):
        return False
    return bool(times.max() - times.min() >= pd.Timedelta(days=FEWEST_DAYS))
