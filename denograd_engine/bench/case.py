"""Data taken as the truth, cut to size, split into training and test part, and made noisy.

What a method sees is `Contaminated`; the clean data stay in the `Trial`, with whoever measures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api import types

from denograd_engine.columns import Column, Role
from denograd_engine.errors import ConfigError, TooFewRowsError
from denograd_engine.noise import FORGOTTEN, KINDS, add_noise
from denograd_engine.schema import Schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS_OF_TABLES = 5_000
STEPS_OF_SERIES = 10_000
TRAINING_SHARE = {"table": 0.7, "series": 0.8}
FEWEST_ROWS = 100
FEWEST_CHANGES = 10
"""Rows in which a feature must differ from its most frequent value, to be measured; and 1% of them."""


@dataclass(frozen=True)
class Noise:
    """The noise that is added.

    Attributes:
        kind: A name of `noise.KINDS`.
        std: As a share of each column's standard deviation.
        known: Whether methods are told each column's noise, and in a series over how many steps it hangs together.
        told: What they are told over what it is: 1 is the truth.
    """

    kind: str = "gaussian"
    std: float = 0.2
    known: bool = True
    told: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"there is no noise of kind {self.kind!r}", expected=" or ".join(KINDS), where="--kind")
        if not 0 < self.std < np.inf:
            raise ConfigError("the noise must be positive", expected="a share of each std", found=str(self.std))
        if not 0 < self.told < np.inf or (self.told != 1 and not self.known):
            raise ConfigError(
                "methods cannot be told such a noise",
                expected="a positive multiple of the true one, and 1 where they are told nothing",
                found=str(self.told),
                where="--told",
            )


@dataclass(frozen=True)
class Case:
    """A data set taken as clean.

    Attributes:
        name: For people.
        clean: At most so many rows of it.
        schema: The roles of its columns; nothing is said about noise.
        noisy: The columns that get noise.
    """

    name: str
    clean: pd.DataFrame
    schema: Schema
    noisy: tuple[str, ...]

    @classmethod
    def of(cls, name: str, frame: pd.DataFrame, schema: Schema, rows: int | None = None) -> Case:
        """Cut a data set to size: of a table a random subset, the same each time; of a series the first steps.

        Noise goes to the columns whose noise the schema declares, if it does so for any, else to all refined ones. The
        other features are clean by assumption, and frozen. Columns that are constant or empty in the rows at hand are
        ignored, and so are features that nearly are.

        Args:
            name: For people.
            frame: The whole of it.
            schema: The roles of its columns.
            rows: At most so many; None takes 5,000 of a table and 10,000 of a series. Several series of one file share
                them.
        """
        clean = _cut(frame, schema, rows)
        varying = {column.name for column in schema.columns if _varies(clean[column.name], column)}
        declared = [one for one in schema.refined if schema[one].noise is not None]
        noisy = tuple(one for one in declared or schema.refined if one in varying)
        columns = tuple(_as_measured(column, noisy, varying) for column in schema.columns)
        return cls(name, clean, Schema(columns, schema.series), noisy)

    @property
    def kind(self) -> str:
        """`table` or `series`."""
        return "table" if self.schema.series is None else "series"

    @cached_property
    def digest(self) -> str:
        """sha256 of the data and the roles of the columns."""
        hashed = hashlib.sha256(repr((self.schema, self.noisy)).encode())
        for name in self.clean.columns:
            column = self.clean[name].reset_index(drop=True)
            hashed.update(pd.util.hash_pandas_object(column.astype(str), index=False).to_numpy().tobytes())
        return hashed.hexdigest()

    def split(self, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions of the training and of the test part: 70 to 30 at random, or the last fifth of the time."""
        if self.schema.series is None:
            shuffled = np.random.default_rng(seed).permutation(len(self.clean))
            cut = round(TRAINING_SHARE["table"] * len(shuffled))
            return np.sort(shuffled[:cut]), np.sort(shuffled[cut:])
        time = self.clean[self.schema.series.time]
        stamps = np.sort(time.unique())
        early = (time < stamps[int(TRAINING_SHARE["series"] * len(stamps))]).to_numpy(dtype=bool)
        return np.flatnonzero(early), np.flatnonzero(~early)


@dataclass(frozen=True)
class Contaminated:
    """What a method gets.

    Attributes:
        train: Noisy.
        test: With noisy features and without targets: rows in production have none yet.
        schema: The roles of the columns, and their noise if it is known.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    schema: Schema


@dataclass(frozen=True)
class Denoised:
    """What a method gives back.

    Attributes:
        train: The refined training part: same rows, same columns.
        test: The refined test part, likewise.
        std: Posterior standard deviation of the refined cells of the training part, in their columns' units; None if
            the method has no such thing.
        faults: Which cells of the training part the method calls faulty, as true and false, for the columns that it
            looks at; None if it looks for no faults.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    std: pd.DataFrame | None = None
    faults: pd.DataFrame | None = None


@dataclass(frozen=True)
class Trial:
    """A case with noise, and the truth.

    Attributes:
        given: All that a method may see.
        train: The clean training part.
        test: The clean test part.
        test_noisy: The test part with noisy features and clean targets.
        features: Features that carry noise.
        targets: Targets that carry noise.
    """

    given: Contaminated
    train: pd.DataFrame
    test: pd.DataFrame
    test_noisy: pd.DataFrame
    features: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def schema(self) -> Schema:
        """As the method sees it."""
        return self.given.schema


def contaminate(case: Case, noise: Noise, seed: int) -> Trial:
    """Split a case and add noise: to training and test part of the same absolute size, drawn separately.

    Args:
        case: The truth.
        noise: What to add.
        seed: Of the split of a table, and of the noise.
    """
    train_at, test_at = case.split(seed)
    features = tuple(name for name in case.schema.features if name in case.noisy)
    targets = tuple(name for name in case.schema.targets if name in case.noisy)
    # whole numbers with noise are none any more: the truth becomes floating point as well
    clean = case.clean.assign(**{name: _numbers(case.clean[name]) for name in case.noisy})
    ordered = clean.iloc[np.concatenate([train_at, test_at])].reset_index(drop=True)
    rows = len(train_at)
    for_train, for_test = np.random.SeedSequence([seed, 0]).generate_state(2).tolist()
    train_noisy = _with_noise(ordered, case.noisy, noise, for_train, case.schema).iloc[:rows]
    test_noisy = _with_noise(ordered, features, noise, for_test, case.schema).iloc[rows:]
    spread = {name: noise.std * float(np.nanstd(_numbers(ordered[name]), ddof=1)) for name in case.noisy}
    columns = case.schema.columns
    if noise.known:
        told = {name: noise.told * std for name, std in spread.items()}
        steps = FORGOTTEN if noise.kind == "autocorrelated" and case.schema.series is not None else 0
        columns = tuple(
            replace(one, noise=told[one.name], noise_correlation=steps) if one.name in told else one for one in columns
        )
    test_noisy = test_noisy.reset_index(drop=True)
    return Trial(
        Contaminated(train_noisy, _without(test_noisy, case.schema.targets), Schema(columns, case.schema.series)),
        train=ordered.iloc[:rows],
        test=ordered.iloc[rows:].reset_index(drop=True),
        test_noisy=test_noisy,
        features=features,
        targets=targets,
    )


def check(case: Case) -> None:
    """Refuse a case that cannot be measured, before any time goes into it.

    Raises:
        DataError: Says what is wrong with the data.
    """
    import torch

    from denograd_engine.frames import Encoder
    from denograd_engine.problem import pose

    if len(case.clean) < FEWEST_ROWS:
        raise TooFewRowsError(
            f"there are too few rows to compare methods on {case.name}",
            expected=f"at least {FEWEST_ROWS}",
            found=f"{len(case.clean):,}",
        )
    train, test = case.split(0)
    encoder = Encoder.fit(case.clean.iloc[train], case.schema)
    pose(case.clean.iloc[train], encoder, torch.device("cpu"), torch.float32)
    pose(case.clean.iloc[test], encoder, torch.device("cpu"), torch.float32, fewest=1)


def _cut(frame: pd.DataFrame, schema: Schema, rows: int | None) -> pd.DataFrame:
    series = schema.series
    if series is None:
        most = rows or ROWS_OF_TABLES
        if len(frame) > most:
            frame = frame.iloc[np.sort(np.random.default_rng(0).choice(len(frame), most, replace=False))]
        return frame.reset_index(drop=True)
    entities = max(1, frame[list(series.entity)].drop_duplicates().shape[0]) if series.entity else 1
    steps = max(1, (rows or STEPS_OF_SERIES) // entities)
    stamps = np.sort(frame[series.time].dropna().unique())
    if len(stamps) > steps:
        frame = frame[(frame[series.time] < stamps[steps]).to_numpy(dtype=bool)]
    return frame.reset_index(drop=True)


def _varies(values: pd.Series[Any], column: Column) -> bool:
    if column.role is not Role.FEATURE:
        return values.nunique() > 1
    counts = values.value_counts()
    return len(counts) > 1 and counts.sum() - counts.iloc[0] >= max(FEWEST_CHANGES, 0.01 * len(values))


def _as_measured(column: Column, noisy: tuple[str, ...], varying: set[str]) -> Column:
    if column.name in noisy:
        return replace(column, noise=None, noise_correlation=0, integer=False)
    if column.role is Role.TARGET:
        return replace(column, noise=None, noise_correlation=0, refined=False)
    if column.role is Role.FEATURE:
        role = Role.FROZEN if column.name in varying else Role.IGNORED
        return Column(column.name, role, why="without noise" if column.name in varying else "constant")
    return column


def _with_noise(frame: pd.DataFrame, columns: tuple[str, ...], noise: Noise, seed: int, schema: Schema) -> pd.DataFrame:
    """Noise that may hang together along the rows does so along each series, not from one to the next."""
    entity = [] if schema.series is None else list(schema.series.entity)
    if entity:
        codes = frame.groupby(entity, sort=False, dropna=False).ngroup()
        frame = frame.iloc[np.argsort(codes.to_numpy(), kind="stable")]
    return add_noise(frame, columns, noise.std, seed, kind=noise.kind).sort_index()


def _without(frame: pd.DataFrame, targets: list[str]) -> pd.DataFrame:
    missing: dict[str, Any] = {}
    for name in targets:
        numeric = types.is_numeric_dtype(frame[name].dtype) and not types.is_bool_dtype(frame[name].dtype)
        dtype: Any = np.float64 if numeric else object
        missing[name] = pd.Series(np.nan if numeric else None, index=frame.index, dtype=dtype)
    return frame.assign(**missing)


def _numbers(values: pd.Series[Any]) -> NDArray[np.float64]:
    return values.to_numpy(dtype=np.float64, na_value=np.nan)
