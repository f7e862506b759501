"""The digest of a table's content: blind to how it is stored, and to nothing else."""

import datetime as dt
import decimal
import itertools
import math
import string

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denograd_tasks.content import ContentDigest, content_digest
from denograd_tasks.sources import open_source
from denograd_tasks.tables import write_parquet

DAY = dt.date(2024, 2, 29)
NOON = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)

COLUMNS = {
    "int8": (pa.int8(), [-1, None, 3]),
    "int64": (pa.int64(), [2**62, None, -3]),
    "uint64": (pa.uint64(), [2**64 - 1, None, 0]),
    "float16": (pa.float16(), [1.0, None, 0.5]),
    "float32": (pa.float32(), [1.5, None, math.nan]),
    "float64": (pa.float64(), [0.1, None, math.inf]),
    "bool": (pa.bool_(), [True, None, False]),
    "string": (pa.string(), ["ab", None, "Zürich \N{SNOWMAN}"]),
    "large_string": (pa.large_string(), ["ab", None, ""]),
    "string_view": (pa.string_view(), ["ab", None, "a text longer than twelve bytes"]),
    "binary": (pa.binary(), [b"\0\xff", None, b""]),
    "binary_view": (pa.binary_view(), [b"\0\xff", None, b"bytes longer than twelve of them"]),
    "fixed_binary": (pa.binary(2), [b"ab", None, b"cd"]),
    "decimal": (pa.decimal128(12, 2), [decimal.Decimal("1.10"), None, decimal.Decimal("-3.00")]),
    "date32": (pa.date32(), [DAY, None, dt.date(1969, 1, 1)]),
    "date64": (pa.date64(), [DAY, None, dt.date(1969, 1, 1)]),
    "time": (pa.time64("us"), [dt.time(1, 2, 3, 4), None, dt.time(0)]),
    "timestamp": (pa.timestamp("us"), [NOON.replace(tzinfo=None), None, dt.datetime(1900, 1, 1)]),
    "timestamp_tz": (pa.timestamp("ns", "Europe/Vienna"), [NOON, None, NOON]),
    "duration": (pa.duration("ms"), [dt.timedelta(days=1), None, dt.timedelta(milliseconds=-1)]),
    "interval": (pa.month_day_nano_interval(), [(1, 2, 3), None, (0, 0, 4)]),
    "null": (pa.null(), [None, None, None]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["low", None, "high"]),
    "list": (pa.list_(pa.float64()), [[1.0, None, math.nan], None, []]),
    "struct": (
        pa.struct([("x", pa.int64()), ("y", pa.string())]),
        [{"x": 1, "y": "a"}, None, {"x": None, "y": "line\nbreak"}],
    ),
    "nested": (pa.list_(pa.struct([("at", pa.timestamp("s", "UTC"))])), [[{"at": NOON}], None, []]),
    "map": (pa.map_(pa.string(), pa.int64()), [[("a", 1)], None, []]),
}

EDITS = {
    "int": (pa.int64(), 7, 8),
    "large int": (pa.int64(), 2**53, 2**53 + 1),
    "float by one bit": (pa.float64(), 0.1, math.nextafter(0.1, 1)),
    "string": (pa.string(), "seven", "Seven"),
    "trailing space": (pa.string(), "a", "a "),
    "composed letter": (pa.string(), "\u00e9", "e\u0301"),
    "bool": (pa.bool_(), True, False),
    "timestamp": (pa.timestamp("us", "UTC"), NOON, NOON + dt.timedelta(microseconds=1)),
    "nanosecond": (pa.timestamp("ns"), 1, 2),
    "date": (pa.date32(), DAY, DAY + dt.timedelta(days=1)),
    "duration": (pa.duration("s"), dt.timedelta(seconds=1), dt.timedelta(seconds=2)),
    "dictionary value": (pa.dictionary(pa.int32(), pa.string()), "low", "high"),
    "decimal": (pa.decimal128(5, 2), decimal.Decimal("1.10"), decimal.Decimal("1.11")),
    "binary": (pa.binary(), b"\0", b"\0\0"),
    "list length": (pa.list_(pa.int64()), [1], [1, 1]),
    "list cell": (pa.list_(pa.int64()), [1, 2], [1, 3]),
    "struct cell": (pa.struct([("x", pa.int64())]), {"x": 1}, {"x": 2}),
    "null or zero": (pa.int64(), None, 0),
    "null or false": (pa.bool_(), None, False),
    "null or nan": (pa.float64(), None, math.nan),
    "nan or zero": (pa.float64(), math.nan, 0.0),
    "null or zero point zero": (pa.float64(), None, 0.0),
    "zero or minus zero": (pa.float64(), 0.0, -0.0),
    "null or empty string": (pa.string(), None, ""),
    "null or empty list": (pa.list_(pa.int64()), None, []),
    "null or the epoch": (pa.timestamp("us"), None, dt.datetime(1970, 1, 1)),
    "null in a dictionary": (pa.dictionary(pa.int32(), pa.string()), None, ""),
}


def column(name):
    kind, values = COLUMNS[name]
    return array(values, kind)


def array(values, kind):
    if pa.types.is_interval(kind):
        return pa.array([None if one is None else pa.MonthDayNano(one) for one in values], kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


def digest_in_blocks(table, rows):
    digest = ContentDigest(table.schema)
    for batch in table.to_batches(max_chunksize=rows):
        digest.update(batch)
    return digest.hexdigest()


@pytest.fixture
def wide():
    """A column of every type that Parquet can keep."""
    return pa.table({name: column(name) for name in COLUMNS if name not in ("interval", "float16", "null")})


@pytest.mark.parametrize("name", COLUMNS)
def test_the_cut_into_batches_does_not_matter(name):
    table = pa.table({"x": column(name)})
    assert digest_in_blocks(table, 1) == digest_in_blocks(table, 2) == content_digest(table)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_slice_has_the_digest_of_its_own_rows(name):
    values = column(name)
    longer = pa.concat_arrays([values, values, values[:1]])
    sliced = pa.table({"x": longer.slice(3, 3)})
    assert content_digest(sliced) == content_digest(pa.table({"x": values}))


@pytest.mark.parametrize("name", COLUMNS)
def test_empty_batches_add_nothing(name):
    values = column(name)
    digest = ContentDigest(pa.schema([("x", values.type)]))
    for part in (values[:0], values, values.slice(1, 0)):
        digest.update(pa.record_batch([part], ["x"]))
    assert digest.hexdigest() == content_digest(pa.table({"x": values}))


@pytest.mark.parametrize("name", COLUMNS)
def test_an_empty_table_has_a_digest_of_its_own(name):
    kind, _ = COLUMNS[name]
    empty = pa.table({"x": column(name)}).slice(0, 0)
    assert content_digest(empty) == content_digest(pa.schema([("x", kind)]).empty_table())
    assert content_digest(empty) != content_digest(pa.table({"x": column(name)}))
    assert content_digest(empty) != content_digest(pa.table({}))


def test_what_lies_beneath_a_missing_cell_does_not_matter():
    values = pa.array([1.0, 2.0, 3.0])
    beneath = pa.Array.from_buffers(pa.float64(), 3, [pa.py_buffer(bytes([0b101])), values.buffers()[1]])
    assert content_digest(pa.table({"x": beneath})) == content_digest(pa.table({"x": [1.0, None, 3.0]}))
    text = pa.array(["a", "beneath", "c"])
    hidden = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(bytes([0b101])), *text.buffers()[1:]])
    assert content_digest(pa.table({"x": hidden})) == content_digest(pa.table({"x": ["a", None, "c"]}))


def test_all_nan_are_alike():
    quiet, negative = pa.array([math.nan]), pa.array([-math.nan])
    assert quiet.buffers()[1].to_pybytes() != negative.buffers()[1].to_pybytes()
    assert content_digest(pa.table({"x": quiet})) == content_digest(pa.table({"x": negative}))


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("rows_in_group", [1, 2, 100])
def test_row_groups_and_compression_do_not_matter(wide, tmp_path, compression, rows_in_group):
    path = tmp_path / "table.parquet"
    pq.write_table(wide, path, compression=compression, row_group_size=rows_in_group, use_dictionary=rows_in_group > 1)
    assert content_digest(pq.read_table(path)) == content_digest(wide)


def test_file_formats_of_the_same_types_agree(tmp_path):
    table = pa.table(
        {
            "whole": [1, 2, 3],
            "share": [0.5, -1e-300, 3.0],
            "text": ["a", 'quoted, "b"', "línea"],
            "at": pa.array([NOON.replace(tzinfo=None)] * 3, pa.timestamp("s")),
        }
    )
    pa.csv.write_csv(table, tmp_path / "table.csv")
    pq.write_table(table, tmp_path / "table.parquet")
    pa.feather.write_feather(table, str(tmp_path / "table.feather"))
    digests = {snapshot_digest(tmp_path / name, tmp_path) for name in ("table.csv", "table.parquet", "table.feather")}
    assert digests == {content_digest(table)}


def test_a_folder_of_parts_agrees_with_the_whole_file(wide, tmp_path):
    pq.write_table(wide, tmp_path / "whole.parquet")
    folder = tmp_path / "parts"
    folder.mkdir()
    for at in range(wide.num_rows):
        pq.write_table(wide.slice(at, 1), folder / f"part-{at}.parquet")
    assert snapshot_digest(tmp_path / "whole.parquet", tmp_path) == snapshot_digest(folder, tmp_path)


def test_the_written_copy_has_the_digest_that_it_is_named_after(wide, tmp_path):
    path = tmp_path / "copy.parquet"
    rows, digest = write_parquet(wide.to_batches(), wide.schema, path)
    assert (rows, digest) == (3, content_digest(wide))
    assert content_digest(pq.read_table(path)) == digest


def test_dictionary_indices_do_not_matter_but_the_encoding_does():
    plain = pa.array(["b", "a", "b"])
    encoded = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int8()), ["a", "b"])
    other = pa.DictionaryArray.from_arrays(pa.array([0, 2, 0], pa.int32()), ["b", "unused", "a"])
    assert content_digest(pa.table({"x": encoded})) == content_digest(pa.table({"x": other}))
    assert content_digest(pa.table({"x": encoded})) != content_digest(pa.table({"x": plain}))


def test_widths_of_string_and_list_offsets_do_not_matter():
    text = ["a", None, "bc"]
    kinds = pa.string(), pa.large_string(), pa.string_view()
    assert len({content_digest(pa.table({"x": pa.array(text, kind)})) for kind in kinds}) == 1
    kinds = pa.list_(pa.int8()), pa.large_list(pa.int8()), pa.list_(pa.field("element", pa.int8()))
    assert len({content_digest(pa.table({"x": pa.array([[1], None, []], kind)})) for kind in kinds}) == 1


@pytest.mark.parametrize(
    ("finer", "kept"),
    [
        (pa.timestamp("s", "UTC"), pa.timestamp("ms", "UTC")),
        (pa.time32("s"), pa.time32("ms")),
        (pa.date64(), pa.date32()),
        (pa.dictionary(pa.int8(), pa.int64()), pa.int64()),
        (pa.list_(pa.timestamp("s")), pa.list_(pa.timestamp("ms"))),
    ],
)
def test_types_that_parquet_does_not_tell_apart_count_as_one(finer, kept):
    values = {
        "timestamp": NOON,
        "time32": dt.time(1),
        "date64": DAY,
        "dictionary": 7,
        "list": [NOON.replace(tzinfo=None)],
    }
    cells = [next(value for name, value in values.items() if str(finer).startswith(name)), None]
    given_as, stored = pa.table({"x": array(cells, finer)}), pa.BufferOutputStream()
    pq.write_table(given_as, stored)
    read = pq.read_table(pa.BufferReader(stored.getvalue()))
    assert read.schema.types == [kept] or pa.types.is_list(kept)
    assert content_digest(given_as) == content_digest(pa.table({"x": array(cells, kept)})) == content_digest(read)


def test_field_metadata_do_not_matter():
    plain = pa.table({"x": [1, 2]})
    noted = pa.table(
        {"x": [1, 2]}, schema=pa.schema([pa.field("x", pa.int64(), metadata={"k": "v"})], {"pandas": "{}"})
    )
    assert content_digest(plain) == content_digest(noted)


@pytest.mark.parametrize("edit", EDITS)
def test_one_edited_cell_changes_the_digest(edit):
    kind, before, after = EDITS[edit]
    same = [before, before, before]
    edited = [before, after, before]
    unchanged = content_digest(pa.table({"x": array(same, kind)}))
    assert content_digest(pa.table({"x": array(same, kind)})) == unchanged
    assert content_digest(pa.table({"x": array(edited, kind)})) != unchanged


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["", "ab"], ["ab", ""]),
        (["a", None, "b"], ["a", "b", None]),
        (["a\0", "b"], ["a", "\0b"]),
        ([b"\0", b""], [b"", b"\0"]),
        ([[1], [2, 3]], [[1, 2], [3]]),
        ([["a,b"]], [["a", "b"]]),
    ],
)
def test_cells_do_not_run_into_each_other(one, other):
    assert content_digest(pa.table({"x": one})) != content_digest(pa.table({"x": other}))


def test_columns_do_not_run_into_each_other():
    assert content_digest(pa.table({"x": ["a", "b"], "y": ["c", "d"]})) != content_digest(
        pa.table({"x": ["a", "c"], "y": ["b", "d"]})
    )
    assert content_digest(pa.table({"a": [1], "b": [2]})) != content_digest(pa.table({'a", "b': [1], "c": [2]}))


def test_the_order_of_rows_and_columns_matters():
    table = pa.table({"x": [1, 2], "y": [1, 2]})
    assert content_digest(table) != content_digest(table[::-1])
    assert content_digest(table) != content_digest(table.select(["y", "x"]))


def test_names_matter():
    table = pa.table({"x": [1, 2]})
    assert len({content_digest(table.rename_columns([name])) for name in ("x", "X", "x ", "")}) == 4


def test_repeated_and_dropped_rows_matter():
    table = pa.table({"x": [1, 1, 1]})
    assert len({content_digest(table.slice(0, rows)) for rows in range(4)}) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.int64(), pa.int32()),
        (pa.int64(), pa.uint64()),
        (pa.int64(), pa.float64()),
        (pa.float64(), pa.float32()),
        (pa.int64(), pa.timestamp("s")),
        (pa.timestamp("s"), pa.timestamp("s", "UTC")),
        (pa.timestamp("s", "UTC"), pa.timestamp("s", "Europe/Vienna")),
        (pa.timestamp("ms"), pa.timestamp("us")),
        (pa.int64(), pa.duration("s")),
        (pa.int32(), pa.date32()),
        (pa.decimal128(5, 2), pa.decimal128(6, 2)),
        (pa.string(), pa.binary()),
        (pa.null(), pa.int64()),
        (pa.list_(pa.int32()), pa.list_(pa.int64())),
        (pa.struct([("x", pa.int64())]), pa.struct([("y", pa.int64())])),
    ],
)
def test_the_type_matters_even_without_values(one, other):
    assert content_digest(pa.table({"x": pa.nulls(2, one)})) != content_digest(pa.table({"x": pa.nulls(2, other)}))


def test_the_same_digits_as_text_are_not_the_numbers():
    assert content_digest(pa.table({"x": [1, 2]})) != content_digest(pa.table({"x": ["1", "2"]}))


cells = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "f": (pa.float64(), st.floats()),
    "s": (pa.string(), st.text(string.printable, max_size=5)),
    "b": (pa.bool_(), st.booleans()),
    "l": (pa.list_(pa.int8()), st.lists(st.integers(-1, 1), max_size=2)),
    "t": (pa.timestamp("us", "UTC"), st.integers(-(10**15), 10**15)),
}


@st.composite
def tables(draw, min_rows=0):
    names = draw(st.lists(st.sampled_from(list(cells)), min_size=1, unique=True))
    rows = draw(st.integers(min_rows, 12))
    return pa.table(
        {
            name: pa.array(
                draw(st.lists(st.none() | cells[name][1], min_size=rows, max_size=rows)), type=cells[name][0]
            )
            for name in names
        }
    )


@settings(deadline=None)
@given(table=tables(), cuts=st.lists(st.integers(0, 12), max_size=4))
def test_any_cut_gives_the_same_digest(table, cuts):
    edges = sorted({0, table.num_rows, *(min(cut, table.num_rows) for cut in cuts)})
    digest = ContentDigest(table.schema)
    for start, end in itertools.pairwise(edges):
        for batch in table.slice(start, end - start).to_batches():
            digest.update(batch)
    assert digest.hexdigest() == content_digest(table)
    assert content_digest(table.combine_chunks()) == content_digest(table)


@settings(deadline=None)
@given(table=tables(min_rows=1), data=st.data())
def test_any_edit_of_one_cell_is_noticed(table, data):
    name = data.draw(st.sampled_from(table.column_names))
    kind, strategy = cells[name]
    at = data.draw(st.integers(0, table.num_rows - 1))
    values = table[name].to_pylist()
    given_as = pa.array([data.draw(st.none() | strategy)], kind)
    edited = pa.concat_arrays([table[name].combine_chunks()[:at], given_as, table[name].combine_chunks()[at + 1 :]])
    other = table.set_column(table.column_names.index(name), name, edited)
    same = repr(values[at]) == repr(given_as[0].as_py())
    assert (content_digest(other) == content_digest(table)) is same


@settings(deadline=None)
@given(table=tables())
def test_a_round_trip_through_parquet_keeps_the_digest(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=3)
    assert content_digest(pq.read_table(pa.BufferReader(sink.getvalue()))) == content_digest(table)


def snapshot_digest(source, folder):
    dataset = open_source(str(source))
    return write_parquet(dataset.to_batches(), dataset.schema, folder / "snapshot.parquet")[1]
