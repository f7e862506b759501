"""Two tables of the same columns as one: whose rows are the same by their key, and which of them say something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from denograd_engine.errors import DataError, SchemaError
from denograd_tasks.tables import to_frame

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

ABSENT = -1
RENEW = "run once with mode: full, which trains a model on the data as they are now"


def aligned(table: pa.Table, schema: pa.Schema, source: str) -> pa.Table:
    """The table with these columns, in their order and types; whatever loses nothing may be cast.

    Args:
        table: What arrived.
        schema: Of the data that it joins.
        source: Where it came from.

    Raises:
        SchemaError: If a column is absent, new, or of another type.
    """
    absent = [name for name in schema.names if name not in table.column_names]
    added = [name for name in table.column_names if name not in schema.names]
    if absent or added:
        found = {"without": absent, "with": added}
        raise SchemaError(
            "the source has other columns than the last version",
            expected="the same columns",
            found="; ".join(f"{word} {', '.join(map(repr, names[:5]))}" for word, names in found.items() if names),
            where=source,
            remedy=f"bring them back, or {RENEW}",
        )
    columns = [_cast(table[field.name], field, source) for field in schema]
    return pa.table(columns, schema=schema)


def positions(rows: pa.Table, among: pa.Table, key: Sequence[str], where: str) -> NDArray[np.int64]:
    """Where each row is among others, by its key, shape (rows,); `ABSENT` where it is not.

    Raises:
        DataError: If the key does not tell the rows of either apart.
    """
    found: NDArray[np.int64] = _index(among, key, where).get_indexer(_index(rows, key, where)).astype(np.int64)
    return found


def differing(before: pa.Table, after: pa.Table, columns: Sequence[str]) -> NDArray[np.bool_]:
    """Rows of which a cell is another, shape (rows,); missing cells are alike, whether null or NaN."""
    found = np.zeros(len(before), dtype=bool)
    for name in columns:
        found |= _differing(before[name].combine_chunks(), after[name].combine_chunks())
    return found


def united(before: pa.Table, after: pa.Table, key: Sequence[str], where: str, series: bool) -> pa.Table:
    """The rows of both; one that is in both is as it was, or as it is now if that says something else.

    Args:
        before: What was there.
        after: What arrived, of the same columns. It need not hold again what was there.
        key: The columns that tell rows apart; in a series, entities and then time.
        where: The setting that names them.
        series: Whether the rows stay in the order of time. They do within each series; one series comes after the
            other if that was so before. Else new rows come last.
    """
    place = positions(after, before, key, where)
    known, new = np.flatnonzero(place != ABSENT), np.flatnonzero(place == ABSENT)
    other = known[differing(before.take(place[known]), after.take(known), before.column_names)]
    rows = np.arange(len(before))
    rows[place[other]] = len(before) + other
    union = pa.concat_tables([before, after]).unify_dictionaries()
    union = union.take(np.concatenate([rows, len(before) + new]))
    if not series or not len(new):
        return union
    return union.take(_in_time(to_frame(plain(union, key)), key, len(before)))


def plain(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """These columns, with categories written out."""
    return pa.table({name: _decoded(table[name]) for name in names})


def _in_time(frame: pd.DataFrame, key: Sequence[str], before: int) -> NDArray[np.int64]:
    *entity, time = key
    together = not entity or frame[time].iloc[:before].is_monotonic_increasing
    which = np.zeros(len(frame)) if together else frame.groupby(entity, sort=False).ngroup().to_numpy()
    rank = frame[time].rank(method="dense").to_numpy()
    order: NDArray[np.int64] = np.lexsort((np.arange(len(frame)), rank, which))
    return order


def _index(table: pa.Table, key: Sequence[str], where: str) -> pd.MultiIndex:
    import pandas as pd

    frame = to_frame(plain(table, key))
    missing, repeated = frame.isna().any(axis=1), frame.duplicated()
    wrong = np.flatnonzero(missing | repeated)
    if len(wrong):
        raise DataError(
            f"{where} does not tell the rows apart: {', '.join(key)}",
            expected="no value twice, and none missing",
            found=f"{int(repeated.sum()):,} repeated, {int(missing.sum()):,} missing, the first in row {wrong[0]:,}",
            where=where,
            remedy="drop what is double, or name the columns that tell the rows apart",
        )
    return pd.MultiIndex.from_frame(frame)


def _cast(column: pa.ChunkedArray, field: pa.Field, source: str) -> pa.ChunkedArray:
    if column.type == field.type:
        return column
    cast = None
    if _widens(column.type, field.type):
        try:
            cast = column.cast(field.type)
        except pa.ArrowException:
            cast = None
    if cast is None:
        raise SchemaError(
            f"column {field.name!r} is of another type than in the last version",
            expected=str(field.type),
            found=str(column.type),
            where=source,
            remedy=f"store it as it was, or {RENEW}",
        )
    return cast


def _widens(found: pa.DataType, to: pa.DataType) -> bool:
    """Whether the second holds whatever the first does, or a safe cast finds out what it does not."""
    kinds = pa.types
    if kinds.is_null(found):
        return True
    if kinds.is_integer(found):
        return bool(kinds.is_integer(to) or kinds.is_floating(to))
    if kinds.is_floating(found):
        return bool(kinds.is_floating(to) and to.bit_width >= found.bit_width)
    if kinds.is_timestamp(found):
        return bool(kinds.is_timestamp(to) and to.tz == found.tz)
    if kinds.is_date(found):
        return bool(kinds.is_date(to) or (kinds.is_timestamp(to) and to.tz is None))
    return _is_text(found) and _is_text(to)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _differing(before: pa.Array, after: pa.Array) -> NDArray[np.bool_]:
    before, after = _decoded(before), _decoded(after)
    if pa.types.is_nested(before.type):
        pairs = zip(before.to_pylist(), after.to_pylist(), strict=True)
        return np.fromiter((one != other for one, other in pairs), dtype=bool, count=len(before))
    gone = [column.is_null(nan_is_null=True) for column in (before, after)]
    same = pc.fill_null(pc.equal(before, after), False) if not pa.types.is_null(before.type) else gone[0]
    found: NDArray[np.bool_] = pc.invert(pc.or_(same, pc.and_(*gone))).to_numpy(zero_copy_only=False)
    return found


def _decoded(column: Any) -> Any:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
