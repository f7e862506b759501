"""Tables in the store, and tables that come back from the engine with nothing else changed."""

import datetime as dt
import decimal
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denograd_engine.errors import StoreError
from denograd_tasks.content import content_digest
from denograd_tasks.store import Store, sha256_of
from denograd_tasks.tables import (
    put_bytes,
    put_file,
    put_table,
    read_table,
    to_frame,
    with_refined,
    write_parquet,
)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "root"))


def test_the_written_copy_is_the_table(tmp_path):
    table = pa.table({"a": pa.array(range(400_000)), "s": pa.array(["x", None] * 200_000).dictionary_encode()})
    rows, digest = write_parquet(table.to_batches(max_chunksize=1000), table.schema, tmp_path / "copy.parquet")
    assert (rows, digest) == (400_000, content_digest(table))
    assert pq.read_table(tmp_path / "copy.parquet").equals(table)


def test_a_table_without_rows_is_written(tmp_path):
    schema = pa.schema([("a", pa.int64())])
    rows, digest = write_parquet([], schema, tmp_path / "copy.parquet")
    assert (rows, digest) == (0, content_digest(schema.empty_table()))
    assert pq.read_table(tmp_path / "copy.parquet").schema == schema


def test_what_is_put_is_described_and_read_back(store, tmp_path):
    table = pa.table({"a": [1.5, None]})
    file = put_table(store, table, "set/table.parquet")
    assert store.holds(file.path, file.sha256)
    assert store.size(file.path) == file.bytes
    assert read_table(store, file.path).equals(table)
    (tmp_path / "local").write_bytes(b"bytes")
    assert put_file(store, tmp_path / "local", "set/file") == put_bytes(store, b"bytes", "set/file")


def test_what_was_there_before_stays_and_is_described_as_it_is(store, tmp_path):
    store.create("set/page", b"earlier")
    (tmp_path / "local").write_bytes(b"later")
    for file in (put_bytes(store, b"later", "set/page"), put_file(store, tmp_path / "local", "set/page")):
        assert store.read("set/page") == b"earlier"
        assert store.holds(file.path, file.sha256)
        assert file.bytes == len(b"earlier")


def test_the_same_table_in_other_bytes_may_be_there_before(store, tmp_path):
    table = pa.table({"a": list(range(100))})
    pq.write_table(table, tmp_path / "other.parquet", compression="gzip")
    store.create("set/table.parquet", tmp_path / "other.parquet")
    file = put_table(store, table, "set/table.parquet")
    assert file.sha256 == sha256_of(tmp_path / "other.parquet")


@pytest.mark.parametrize("damage", ["truncated", "other table", "no table"])
def test_another_table_in_its_place_is_an_error_that_names_it(store, tmp_path, damage):
    table = pa.table({"a": list(range(100))})
    local = tmp_path / "other.parquet"
    pq.write_table(table if damage == "truncated" else table.slice(1), local)
    store.create("set/table.parquet", {"no table": b"", "truncated": local.read_bytes()[:-9]}.get(damage, local))
    with pytest.raises(StoreError, match="damaged") as caught:
        put_table(store, table, "set/table.parquet")
    assert caught.value.where == store.uri("set/table.parquet")


KEPT = pa.table(
    {
        "x": pa.array([1.0, 2.0, 3.0]),
        "whole": pa.array([1, None, 3], pa.int32()),
        "flag": pa.array([True, None, False]),
        "at": pa.array([0, 1, None], pa.timestamp("ns", "Europe/Vienna")),
        "old": pa.array([dt.datetime(1066, 10, 14), None, dt.datetime(9999, 1, 1)], pa.timestamp("s")),
        "day": pa.array([dt.date(2024, 2, 29), None, dt.date(1, 1, 1)]),
        "clock": pa.array([dt.time(1, 2, 3), None, dt.time(0)]),
        "level": pa.array(["low", None, "high"]).dictionary_encode(),
        "money": pa.array([decimal.Decimal("0.10"), None, decimal.Decimal("99999999999999999.99")]),
        "text": pa.array(["a", None, ""]),
        "bytes": pa.array([b"\0\xff", None, b""]),
        "list": pa.array([[1, 2], None, []]),
        "struct": pa.array([{"a": 1}, None, {"a": None}]),
        "signs": pa.array([0.0, -0.0, math.nan]),
        "huge": pa.array([2**64 - 1, None, 2**53 + 1], pa.uint64()),
        "none": pa.nulls(3),
    }
)


def test_dtypes_of_the_frame():
    frame = to_frame(KEPT)
    assert {name: str(frame[name].dtype) for name in ("x", "whole", "flag", "at", "level", "huge")} == {
        "x": "float64",
        "whole": "Int32",
        "flag": "boolean",
        "at": "datetime64[ns, Europe/Vienna]",
        "level": "category",
        "huge": "UInt64",
    }
    assert frame["huge"].tolist() == [2**64 - 1, pd.NA, 2**53 + 1]
    assert frame["money"].tolist() == KEPT["money"].to_pylist()


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
)
@pytest.mark.parametrize("gap", [False, True])
def test_whole_numbers_with_gaps_stay_whole(kind, gap):
    largest = 2 ** (kind.bit_width - (0 if str(kind).startswith("u") else 1)) - 1
    table = pa.table({"a": pa.array([largest, None if gap else 0, 1], kind)})
    frame = to_frame(table)
    assert frame["a"].dtype.kind in "iu"
    assert frame["a"].isna().tolist() == [False, gap, False]
    frame.loc[2, "a"] = 2
    refined = with_refined(table, frame, ["a"])
    assert refined.schema == table.schema
    assert refined["a"].to_pylist() == [largest, None if gap else 0, 2]


def test_only_the_refined_columns_are_new_arrow_data():
    frame = to_frame(KEPT)
    frame["x"] = [1.5, 2.5, 3.5]
    refined = with_refined(KEPT, frame, ["x"])
    assert refined["x"].to_pylist() == [1.5, 2.5, 3.5]
    assert refined.schema == KEPT.schema
    for name in KEPT.column_names[1:]:
        for before, after in zip(KEPT[name].chunks, refined[name].chunks, strict=True):
            assert [b and b.address for b in before.buffers()] == [b and b.address for b in after.buffers()]
    assert content_digest(refined.drop_columns(["x"])) == content_digest(KEPT.drop_columns(["x"]))


def test_unchanged_cells_come_back_bit_by_bit():
    table = pa.table({"a": pa.array([0.1, -0.0, math.nan, None, 5e-324]), "b": pa.array([1.5, None, 2.5, 3.5, 4.5])})
    assert content_digest(with_refined(table, to_frame(table), ["a", "b"])) == content_digest(table)


def test_nan_stays_nan_and_null_stays_null():
    field = pa.field("a", pa.float32(), nullable=False)
    table = pa.table({"a": pa.array([1.0, math.nan], pa.float32())}, schema=pa.schema([field]))
    frame = to_frame(table)
    frame.loc[0, "a"] = np.float32(2.0)
    refined = with_refined(table, frame, ["a"])
    assert refined.schema == table.schema
    assert refined["a"].null_count == 0
    assert str(refined["a"].to_pylist()) == "[2.0, nan]"


def test_field_metadata_and_chunks_survive():
    fields = [pa.field("a", pa.float64(), metadata={"unit": "mm"}), pa.field("b", pa.string())]
    schema = pa.schema(fields, {"made": "by hand"})
    parts = [pa.table({"a": [1.0], "b": ["x"]}, schema=schema), pa.table({"a": [2.0], "b": ["y"]}, schema=schema)]
    table = pa.concat_tables(parts)
    refined = with_refined(table, to_frame(table), ["a"])
    assert refined.schema.equals(schema, check_metadata=True)
    assert refined.num_rows == 2


@pytest.mark.parametrize("name", ["whole", "flag", "at", "level", "money", "huge", "list", "signs"])
def test_a_round_trip_through_the_store_keeps_odd_types(store, name):
    table = KEPT.select([name])
    file = put_table(store, table, f"set/{name}.parquet")
    assert content_digest(read_table(store, file.path)) == content_digest(table)
