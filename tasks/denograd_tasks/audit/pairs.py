"""Two tables side by side in DuckDB: which row of one belongs to which row of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import ConfigError
from denograd_tasks.audit.tables import quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

INTEGERS = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG")} | {"INTEGER", "UINTEGER"}
HUGE = 1e100
"""Numbers beyond it, whose squares are none, have no part in a column's standard deviation."""
SIDES = {"a": "first", "b": "second"}


class Pairs:
    """The view `pairs`: a line for each row of the views `first` and `second`, matched where both have it.

    Its columns: `in_a` and `in_b` say which tables have the row; `a0` and `b0`, `a1` and `b1` and so on are the columns
    that both have, those of the key first; `place` is the position, where there is no key.

    Args:
        database: With the two tables as views.
        first: Type of each column of the first.
        second: Likewise.
        key: Columns that tell rows apart; if either table lacks one of them, positions do.
        where: A condition in SQL that must hold for a row before or after; None for all rows.

    Raises:
        ConfigError: If the condition cannot be used.
    """

    def __init__(
        self,
        database: DuckDBPyConnection,
        first: Mapping[str, str],
        second: Mapping[str, str],
        key: tuple[str, ...],
        where: str | None,
    ) -> None:
        self.database, self.where = database, where
        self.key = key if all(name in first and name in second for name in key) else ()
        self.names = [*self.key, *(name for name in first if name in second and name not in self.key)]
        described = {side: database.execute(f"DESCRIBE {view}").fetchall() for side, view in SIDES.items()}
        self.kinds = {side: {str(row[0]): str(row[1]) for row in rows} for side, rows in described.items()}
        if where is not None:
            _require_condition(database, where)
        self._make_view()

    @property
    def cells(self) -> range:
        """Numbers of the columns that are compared."""
        return range(len(self.key), len(self.names))

    @property
    def labels(self) -> list[str]:
        """What a row is found by, in SQL, from whichever table has it."""
        if not self.key:
            return ["place"]
        return [f"CASE WHEN in_b THEN b{at} ELSE a{at} END" for at in range(len(self.key))]

    def differs(self, at: int) -> str:
        """Whether a cell of a matched row differs, in SQL."""
        return f"(in_a AND in_b AND {self._comparable('a', at)} IS DISTINCT FROM {self._comparable('b', at)})"

    def change(self, at: int) -> str | None:
        """How far a cell moved, as a double, in SQL; None where cells are no numbers."""
        kinds = {self.kinds[side][self.names[at]] for side in SIDES}
        if not all(map(_is_number, kinds)):
            return None
        wide = "HUGEINT" if kinds <= INTEGERS else "DOUBLE"
        return f"CAST(CAST(b{at} AS {wide}) - CAST(a{at} AS {wide}) AS DOUBLE)"

    def spreads(self, columns: Sequence[int]) -> tuple[float | None, ...]:
        """Standard deviations of these columns in the first table; None where there are no numbers."""
        numbers = [f"CAST({quoted(self.names[at])} AS DOUBLE)" for at in columns]
        spreads = [f"stddev_pop(CASE WHEN abs({number}) < {HUGE} THEN {number} END)" for number in numbers]
        return self.row(f"SELECT {', '.join(spreads)} FROM first")

    def row(self, query: str) -> tuple[Any, ...]:
        """The only row of a result."""
        (found,) = self.database.execute(query).fetchall()
        return tuple(found)

    def _make_view(self) -> None:
        columns = [f"coalesce({side}.present, false) AS in_{side}" for side in SIDES]
        columns += [f"{side}.c{at} AS {side}{at}" for at in range(len(self.names)) for side in SIDES]
        if self.where is not None:
            columns.append("coalesce(a.holds, false) OR coalesce(b.holds, false) AS holds")
        if self._aligned():
            columns.append("row_number() OVER () - 1 AS place")
            joined = f"{self._side('a')} POSITIONAL JOIN {self._side('b')}"
        else:
            repeats = self._repeats()
            same = self._same_key() + (" AND a.nth = b.nth" if repeats else "")
            joined = f"{self._side('a', repeats)} FULL JOIN {self._side('b', repeats)} ON {same}"
        counted = "" if self.where is None else "WHERE holds"
        paired = f"SELECT {', '.join(columns)} FROM {joined}"
        self.database.execute(f"CREATE TEMP VIEW pairs AS SELECT * FROM ({paired}) {counted}")

    def _side(self, side: str, numbered: bool = False) -> str:
        """One table with its columns numbered; `nth` counts the rows with the same key."""
        columns = ["true AS present", *(f"{quoted(name)} AS c{at}" for at, name in enumerate(self.names))]
        if self.where is not None:
            columns.append(f"CAST(({self.where}\n) AS BOOLEAN) AS holds")
        if not numbered:
            return f"(SELECT {', '.join(columns)} FROM {SIDES[side]}) AS {side}"
        keys = ", ".join(f"c{at}" for at in range(len(self.key)))
        placed = f"SELECT {', '.join(columns)}, row_number() OVER () AS place FROM {SIDES[side]}"
        return f"(SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY place) AS nth FROM ({placed})) AS {side}"

    def _aligned(self) -> bool:
        """Whether rows at the same position belong together."""
        if not self.key:
            return True
        keys = ", ".join(f"{quoted(name)} AS c{at}" for at, name in enumerate(self.key))
        a, b = (f"(SELECT true AS present, {keys} FROM {view}) AS {side}" for side, view in SIDES.items())
        apart = f"a.present IS NULL OR b.present IS NULL OR NOT ({self._same_key()})"
        return not self._number(f"SELECT count(*) FROM {a} POSITIONAL JOIN {b} WHERE {apart}")

    def _repeats(self) -> bool:
        """Whether any key comes more than once in a table."""
        keys = ", ".join(map(quoted, self.key))
        most = (f"SELECT max(n) FROM (SELECT count(*) AS n FROM {view} GROUP BY {keys})" for view in SIDES.values())
        return any(self._number(query) > 1 for query in most)

    def _same_key(self) -> str:
        at = range(len(self.key))
        return " AND ".join(
            f"{self._comparable('a', one, 'a.c')} IS NOT DISTINCT FROM {self._comparable('b', one, 'b.c')}"
            for one in at
        )

    def _comparable(self, side: str, at: int, prefix: str = "") -> str:
        """A column of one side, in a type in which it can be compared with the other's."""
        kinds = {self.kinds[one][self.names[at]] for one in SIDES}
        column = f"{prefix or side}{at}"
        return column if len(kinds) == 1 or all(map(_is_number, kinds)) else f"CAST({column} AS VARCHAR)"

    def _number(self, query: str) -> int:
        return int(self.row(query)[0] or 0)


def _require_condition(database: DuckDBPyConnection, where: str) -> None:
    """Try it on both tables; what DuckDB says of a cell's value is not repeated."""
    import duckdb

    try:
        for view in SIDES.values():
            columns = database.execute(f"SELECT ({where}\n) FROM {view} LIMIT 0").description or ()
            if len(columns) != 1:
                raise duckdb.ParserException("it is more than one condition")
            database.execute(f"SELECT count(*) FROM {view} WHERE CAST(({where}\n) AS BOOLEAN)").fetchall()
    except duckdb.Error as error:
        spoken = isinstance(error, (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException))
        raise ConfigError(
            "the condition cannot be used",
            expected="a condition in SQL over the columns, such as temperature > 20 AND site = 'north'",
            found=str(error).partition("\n")[0][:300] if spoken else type(error).__name__,
            where="--where",
        ) from None


def _is_number(kind: str) -> bool:
    return kind in INTEGERS or kind in ("HUGEINT", "UHUGEINT", "FLOAT", "DOUBLE") or kind.startswith("DECIMAL")
