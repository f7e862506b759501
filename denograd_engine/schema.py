"""What each column is, and whether the rows form series. Units stay the user's: scaling is the business of `frames`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from denograd_engine.columns import (
    Column,
    Role,
    bounded,
    declared_column,
    inferred_column,
    with_noise,
    with_noise_correlation,
)
from denograd_engine.errors import ConfigError, SchemaError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Series:
    """How the rows form series.

    Attributes:
        time: The column of time stamps (or a number that grows with time).
        entity: Columns whose combination names one series; empty if there is only one.
        window: Steps that the backbone sees, W.
        future: Steps ahead: a window over steps s..s+W-1 predicts step s+W+future-1; several predict several.
        stride: Steps between the starts of neighbouring windows.
        max_gap: The longest pause between neighbouring steps that does not break a series, as a pandas offset
            ("4D") or a number for numeric time; None allows 1.5 times the usual step.
        targets_as_inputs: Whether a window shows the past of the targets as well.
        flatten: Whether the backbone reads a window as one row of numbers.
    """

    time: str
    entity: tuple[str, ...] = ()
    window: int = 24
    future: int | tuple[int, ...] = 1
    stride: int = 1
    max_gap: str | None = None
    targets_as_inputs: bool = True
    flatten: bool = False

    def __post_init__(self) -> None:
        for name in ("window", "future", "stride"):
            given = getattr(self, name)
            each = given if isinstance(given, tuple) else (given,)
            if not each or min(each) < 1 or len(set(each)) < len(each):
                several = ", each once" if name == "future" else ""
                raise ConfigError(
                    f"series.{name} must be at least 1{several}", found=str(given), where=f"series.{name}"
                )

    @property
    def horizons(self) -> tuple[int, ...]:
        """Every step ahead that a window predicts, ascending."""
        return tuple(sorted(self.future)) if isinstance(self.future, tuple) else (self.future,)

    @property
    def span(self) -> int:
        """Steps from a window's first to the last that it predicts, both counted."""
        return self.window + self.horizons[-1]


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
    def label(self) -> str | None:
        """The target whose classes are to be predicted; None where the targets are numbers."""
        return next((name for name in self.targets if self[name].classes), None)

    @property
    def cells(self) -> list[str]:
        """The columns that enter refinement as variables: features, then targets that are numbers."""
        return self.features + [name for name in self.targets if not self[name].classes]

    @property
    def outputs(self) -> list[str]:
        """What the backbone predicts, by name: each target, at each horizon if there are several."""
        horizons = (1,) if self.series is None else self.series.horizons
        if len(horizons) == 1:
            return self.targets
        return [f"{name}+{ahead}" for ahead in horizons for name in self.targets]

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
    noise: Mapping[str, float] | None = None,
    noise_correlation: Mapping[str, int] | None = None,
    task: Literal["regression", "classification"] | None = None,
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
        noise: Standard deviation of the measurement noise of refined columns, in their own units.
        noise_correlation: Steps over which that noise hangs together, of sensors that drift, in a series.
        task: Whether the target holds numbers or classes; None takes classes where it is not numeric.

    Raises:
        SchemaError: If a named column is absent or named twice, if column names repeat or are no text, or if a
            feature is not numeric, or a target neither numbers nor classes.

    >>> import pandas as pd
    >>> data = pd.DataFrame({"rooms": [1, 2] * 20, "area": [x * 1.5 for x in range(40)], "price": range(40)})
    >>> [(c.name, str(c.role)) for c in infer_schema(data, target="price").columns]
    [('rooms', 'frozen'), ('area', 'feature'), ('price', 'target')]
    """
    targets = [target] if isinstance(target, str) else list(target)
    declared = _declared_roles(frame, targets, features, frozen, ignored, series)
    bounds, noise, noise_correlation = dict(bounds or {}), dict(noise or {}), dict(noise_correlation or {})
    for where, named in (("bounds", bounds), ("noise", noise), ("noise_correlation", noise_correlation)):
        for name in named:
            _require(frame, name, f"columns.{where}")
    columns = []
    for name in frame.columns:
        values = frame[name]
        column = inferred_column(str(name), values, series is not None)
        if name in declared:
            column = declared_column(column, values, declared[name], task)
        if name in bounds:
            column = bounded(column, *bounds[name])
        if name in noise:
            column = with_noise(column, noise[name])
        if name in noise_correlation:
            column = with_noise_correlation(column, noise_correlation[name], series is not None)
        columns.append(column)
    schema = Schema(tuple(columns), series)
    if not schema.targets:
        raise SchemaError(
            "no target column is named",
            expected="at least one numeric column to predict",
            where="columns.target",
            remedy="name the column that the others should explain",
        )
    if schema.label is not None and len(schema.targets) > 1:
        raise SchemaError(
            "classes are predicted alone",
            expected="one target of classes, or targets that are all numbers",
            found=", ".join(schema.targets),
            where="columns.target",
        )
    if schema.label is not None and series is not None and len(series.horizons) > 1:
        raise SchemaError(
            "classes are predicted at one horizon",
            expected="one number of steps ahead",
            found=", ".join(map(str, series.horizons)),
            where="series.future",
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
