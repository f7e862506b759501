"""The identity of a table: one sha256 over its content.

Two tables have the same digest exactly if they have the same columns in the same order, of the same logical types, with
the same values in the same row order. How a file cuts them into row groups, compresses or encodes them does not matter,
nor whether they came as CSV, Parquet or Arrow: types that Parquet does not tell apart count as one, such as time stamps
in seconds and in milliseconds. Dictionary-encoded text counts as a type of its own. The order of columns and rows does
matter. A missing cell and NaN differ, and so do 0.0 and -0.0; all NaN are alike.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class ContentDigest:
    """Takes record batches one after another, and gives the digest of all of them.

    >>> table = pa.table({"a": [1, None, 3], "b": ["x", "yz", ""]})
    >>> whole, parts = ContentDigest(table.schema), ContentDigest(table.schema)
    >>> for batch in table.to_batches(): whole.update(batch)
    >>> for batch in table.to_batches(max_chunksize=1): parts.update(batch)
    >>> whole.hexdigest() == parts.hexdigest()
    True
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._fields = [(field.name, _logical(field.type)) for field in schema]
        self._hashes = [[hashlib.sha256() for _ in range(3)] for _ in schema]
        self._rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch."""
        self._rows += batch.num_rows
        for hashes, column in zip(self._hashes, batch.columns, strict=True):
            _add(hashes, column)

    def hexdigest(self) -> str:
        """The digest of the rows so far."""
        columns = [
            [name, kind, *(each.hexdigest() for each in hashes)]
            for (name, kind), hashes in zip(self._fields, self._hashes, strict=True)
        ]
        return hashlib.sha256(json.dumps([self._rows, columns]).encode()).hexdigest()


def content_digest(table: pa.Table) -> str:
    """The digest of a table in memory."""
    digest = ContentDigest(table.schema)
    for batch in table.to_batches():
        digest.update(batch)
    return digest.hexdigest()


def _kept(kind: pa.DataType) -> pa.DataType:
    """The type as which Parquet gives this one back."""
    if pa.types.is_dictionary(kind) and not _is_binary(kind.value_type):
        return _kept(kind.value_type)
    if pa.types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    if pa.types.is_time32(kind):
        return pa.time32("ms")
    return pa.date32() if pa.types.is_date64(kind) else kind


def _logical(kind: pa.DataType) -> str:
    kind = _kept(kind)
    if pa.types.is_dictionary(kind):
        return f"dictionary<{_logical(kind.value_type)}>"
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "binary"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_logical(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{_logical(kind.key_type)}, {_logical(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct{json.dumps([[field.name, _logical(field.type)] for field in kind])}"
    return str(kind)


def _add(hashes: list[Any], column: pa.Array) -> None:
    """Hash which cells are present, how long each is where that varies, and the bytes of the values."""
    present, lengths, values = hashes
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    column = column.cast(_kept(column.type))
    present.update(pc.cast(column.is_valid(), pa.uint8()).to_numpy(zero_copy_only=False))
    kind = column.type
    if pa.types.is_null(kind):
        return
    if pa.types.is_decimal(kind):
        column = pc.cast(column, pa.string())
    elif pa.types.is_interval(kind) or not (pa.types.is_primitive(kind) or _is_binary(kind)):
        column = pa.array([json.dumps(value, default=str) for value in column.to_pylist()], pa.string())
    if _is_binary(column.type):
        filled = pc.fill_null(pc.cast(column, pa.large_binary()), b"")
        lengths.update(pc.binary_length(filled).to_numpy(zero_copy_only=False).astype("<i8"))
        _, offsets, data = filled.buffers()
        first = int.from_bytes(memoryview(offsets)[8 * filled.offset :][:8], "little")
        total = int(pc.sum(pc.binary_length(filled)).as_py() or 0)
        if data is not None:
            values.update(memoryview(data)[first : first + total])
        return
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.uint8())
    elif pa.types.is_floating(kind):
        nan = pa.scalar(float("nan"), kind)
        column = pc.if_else(pc.is_nan(column), nan, column)
    elif pa.types.is_temporal(kind):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    filled = column.fill_null(0)
    values.update(filled.to_numpy(zero_copy_only=False))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
