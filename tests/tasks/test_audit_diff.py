"""Differences between tables, against a naive comparison in Python; and between published versions."""

import csv
import datetime
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denograd_engine.errors import ConfigError, DataError, StoreError
from denograd_tasks.audit import diff as module
from denograd_tasks.audit.diff import diff_source, diff_tables, diff_versions
from denograd_tasks.audit.tables import Table, key_of
from denograd_tasks.store import Store
from denograd_tasks.tables import put_table
from denograd_tasks.versions import resolve

KINDS = {"x": pa.float64(), "small": pa.float32(), "n": pa.int64(), "word": pa.string(), "flag": pa.bool_()}
CELLS = {
    "x": st.none() | st.floats(width=64),
    "small": st.none() | st.floats(width=32),
    "n": st.none() | st.integers(-(2**63), 2**63 - 1),
    "word": st.none() | st.text(max_size=3),
    "flag": st.none() | st.booleans(),
}
KEYS = st.integers(0, 6) | st.none()


@st.composite
def two_tables(draw):
    """Rows with keys that may repeat; and what became of them: edited, removed, added, put in another order."""
    row = st.fixed_dictionaries({"key": KEYS, **CELLS})
    first = draw(st.lists(row, max_size=8))
    second = []
    for one in first:
        fate = draw(st.sampled_from(["kept", "kept", "edited", "removed"]))
        if fate == "edited":
            name = draw(st.sampled_from(sorted(CELLS)))
            second.append(one | {name: draw(CELLS[name])})
        elif fate == "kept":
            second.append(one)
    second += draw(st.lists(row, max_size=2))
    return first, draw(st.permutations(second)) if draw(st.booleans()) else second


def as_table(rows):
    kinds = {"key": pa.int32(), **KINDS}
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def compared(tmp_path_factory, first, second, key=("key",), **given):
    store = Store(str(tmp_path_factory.mktemp("tables")))
    tables = [
        Table(label, (put_table(store, table, f"{label}/part.parquet").path,))
        for label, table in (("first", first), ("second", second))
    ]
    return diff_tables(store, *tables, key, **given)


def same(one, other):
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return type(one) is type(other) and one == other


def naive(first, second, key):
    """Counts and sizes, row by row in Python."""

    def placed(rows):
        seen, places = {}, {}
        for at, row in enumerate(rows):
            label = row["key"] if key else at
            seen[label] = seen.get(label, -1) + 1
            places[label, seen[label]] = row
        return places

    one, other = placed(first), placed(second)
    both = [place for place in one if place in other]
    names = [name for name in ("key", *KINDS) if not key or name != "key"]
    changes = {
        name: [(one[p][name], other[p][name]) for p in both if not same(one[p][name], other[p][name])] for name in names
    }
    rows = sum(any(not same(one[p][name], other[p][name]) for name in names) for p in both)
    sizes = {}
    for name, pairs in changes.items():
        numbers = [(a, b) for a, b in pairs if name in ("key", "x", "small", "n") and a is not None and b is not None]
        away = [abs(b - a) for a, b in numbers]
        sizes[name] = [float(size) for size in away if math.isfinite(size)]
    return len(both), len(other) - len(both), len(one) - len(both), rows, changes, sizes


@settings(max_examples=150, deadline=None)
@given(two_tables(), st.booleans())
def test_it_is_what_a_naive_comparison_finds(tmp_path_factory, tables, keyed):
    first, second = as_table(tables[0]), as_table(tables[1])
    found = compared(tmp_path_factory, first, second, ("key",) if keyed else ())
    rows = first.to_pylist(), second.to_pylist()
    matched, added, removed, changed, changes, sizes = naive(*rows, keyed)
    assert (found.matched, found.added, found.removed, found.rows_changed) == (matched, added, removed, changed)
    assert found.key == (("key",) if keyed else ())
    assert {one.name: one.changed for one in found.columns} == {name: len(pairs) for name, pairs in changes.items()}
    assert found.cells_changed == sum(map(len, changes.values()))
    for one in found.columns:
        if not sizes[one.name]:
            assert one.largest is None
        else:
            assert one.largest == pytest.approx(max(sizes[one.name]), rel=1e-12)
            if max(sizes[one.name]) < 1e300:
                assert one.mean == pytest.approx(float(np.mean(sizes[one.name])), rel=1e-9)
    assert len(found.most_changed) == min(changed, module.MOST_CHANGED)
    largest = [row.size for row in found.most_changed]
    assert largest == sorted(largest, reverse=True)


@pytest.fixture
def frames():
    """The same rows before and after: two cells moved, a row gone, a row new, and the order turned."""
    first = pd.DataFrame({"id": [1, 2, 3, 4], "x": [0.0, 1.0, 2.0, 3.0], "site": list("aabb")})
    second = pd.DataFrame({"id": [5, 4, 3, 2], "x": [9.0, 3.5, 2.0, 4.0], "site": list("cbba")})
    return pa.Table.from_pandas(first), pa.Table.from_pandas(second)


def test_rows_are_found_by_their_key_wherever_they_are(tmp_path_factory, frames):
    found = compared(tmp_path_factory, *frames, key=("id",))
    assert (found.matched, found.added, found.removed, found.rows_changed, found.cells_changed) == (3, 1, 1, 2, 2)
    x, site = found.columns
    assert (x.changed, x.mean, x.largest, x.types) == (2, 1.75, 3.0, None)
    assert (site.changed, site.mean) == (0, None)
    scale = float(np.std([0.0, 1.0, 2.0, 3.0]))
    assert [(row.key, row.cells) for row in found.most_changed] == [({"id": 2}, 1), ({"id": 4}, 1)]
    assert [row.size for row in found.most_changed] == pytest.approx([3.0 / scale, 0.5 / scale])


def test_without_a_key_rows_are_found_by_position(tmp_path_factory, frames):
    found = compared(tmp_path_factory, *frames, key=())
    assert (found.key, found.matched, found.added) == ((), 4, 0)
    assert found.most_changed[0].key == {"row": 0}
    assert compared(tmp_path_factory, *frames, key=("nowhere",)).key == ()


def test_a_condition_holds_before_or_after(tmp_path_factory, frames):
    found = compared(tmp_path_factory, *frames, key=("id",), where="x > 2.5 -- and no more")
    assert (found.matched, found.added, found.removed, found.cells_changed) == (2, 1, 0, 2)
    found = compared(tmp_path_factory, *frames, key=("id",), where="site = 'a'")
    assert (found.matched, found.added, found.removed, found.cells_changed) == (1, 0, 1, 1)
    assert compared(tmp_path_factory, *frames, key=("id",), where="x = NULL").matched == 0


@pytest.mark.parametrize(
    "where",
    [
        "x >",
        "nowhere = 1",
        "1) AS holds, (2",
        "x = 'text'",
        "CAST(site AS INTEGER) = 1",
        "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
        "x > 1; DROP VIEW first",
    ],
)
def test_a_condition_that_cannot_be_used_is_refused_without_any_value(tmp_path_factory, frames, where):
    with pytest.raises(ConfigError, match="condition cannot be used") as caught:
        compared(tmp_path_factory, *frames, key=("id",), where=where)
    assert caught.value.where == "--where"
    assert "Could not convert" not in str(caught.value)


def test_the_rows_that_differ_are_written_with_both_sides(tmp_path_factory, frames, tmp_path):
    path = tmp_path / "it's.parquet"
    compared(tmp_path_factory, *frames, key=("id",), to=path)
    written = {row["id"]: row for row in pq.read_table(path).to_pylist()}
    assert set(written) == {1, 2, 4, 5}
    assert written[2] == {
        "difference": "changed",
        "id": 2,
        "x__before": 1.0,
        "x__after": 4.0,
        "site__before": "a",
        "site__after": "a",
    }
    assert (written[5]["difference"], written[5]["x__before"], written[5]["x__after"]) == ("added", None, 9.0)
    assert (written[1]["difference"], written[1]["x__after"]) == ("removed", None)


def test_only_columns_that_changed_are_written_where_all_rows_are_matched(tmp_path_factory, frames, tmp_path):
    first, _ = frames
    second = first.set_column(1, "x", pa.array([0.0, 1.0, 2.0, 4.0]))
    compared(tmp_path_factory, first, second, key=("id",), to=tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as stream:
        assert list(csv.reader(stream)) == [
            ["difference", "id", "x__before", "x__after"],
            ["changed", "4", "3.0", "4.0"],
        ]


def test_a_file_is_never_overwritten_nor_of_another_kind(tmp_path_factory, frames, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    for name, problem in (("there.csv", "exists"), ("rows.xlsx", "of a kind"), ("no/rows.csv", "no such folder")):
        with pytest.raises(ConfigError, match=problem):
            compared(tmp_path_factory, *frames, to=tmp_path / name)
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_changed_types_and_columns_are_named(tmp_path_factory):
    first = pa.table({"n": [1, 2], "word": ["1", "b"], "old": [1, 2], "t": pa.array([1, 2], pa.timestamp("ms"))})
    second = pa.table({"n": [1.0, 2.5], "word": [1, 2], "new": [1, 2], "t": pa.array([1000, 3000], pa.timestamp("us"))})
    found = compared(tmp_path_factory, first, second, key=())
    assert {one.name: (one.changed, one.types) for one in found.columns} == {
        "n": (1, ("int64", "double")),
        "word": (1, ("string", "int64")),
        "t": (1, ("timestamp[ms]", "timestamp[us]")),
    }
    assert found.columns[0].largest == 0.5
    assert (found.columns_added, found.columns_removed) == (("new",), ("old",))


def test_whole_numbers_too_large_for_a_double_are_compared_exactly(tmp_path_factory):
    first, second = (pa.table({"n": [2**62 + more, -(2**63)]}) for more in (0, 1))
    (column,) = compared(tmp_path_factory, first, second, key=()).columns
    assert (column.changed, column.largest) == (1, 1.0)


def test_missing_is_not_nan_and_nan_is_nan(tmp_path_factory):
    first = pa.table({"x": [math.nan, None, math.nan, 0.0, math.inf]})
    second = pa.table({"x": [math.nan, None, None, -0.0, math.inf]})
    (column,) = compared(tmp_path_factory, first, second, key=()).columns
    assert (column.changed, column.mean) == (1, None)


def test_nan_among_equal_numbers_is_seen(tmp_path_factory):
    """The statistics in Parquet say that all cells of either are zero."""
    first, second = pa.table({"x": [math.nan, 0.0]}), pa.table({"x": [0.0, 0.0]})
    found = compared(tmp_path_factory, first, second, key=())
    assert (found.cells_changed, found.most_changed[0].key) == (1, {"row": 0})
    assert compared(tmp_path_factory, first, second, key=(), where="isnan(x)").matched == 1


def test_columns_with_odd_names_are_columns(tmp_path_factory, tmp_path):
    names = ['a "b"', "c'd", "select", "c0", "present", "row", "Größe 50%"]
    first = pa.table({name: [1.0, 2.0] for name in names})
    second = first.set_column(2, "select", pa.array([1.0, 3.0]))
    for key in ((), ('a "b"',), ("row",)):
        found = compared(tmp_path_factory, first, second, key=key, to=tmp_path / f"{len(key) + len(str(key))}.csv")
        assert {one.name: one.changed for one in found.columns if one.changed} == {"select": 1}


def test_time_stamps_with_zones_are_keys(tmp_path_factory):
    times = pa.array([0, 3600, 7200], pa.timestamp("s", "Europe/Vienna"))
    first = pa.table({"t": times, "x": [1.0, 2.0, 3.0]})
    found = compared(tmp_path_factory, first, first.slice(1).set_column(1, "x", pa.array([2.0, 4.0])), key=("t",))
    assert (found.matched, found.removed, found.cells_changed) == (2, 1, 1)
    (row,) = found.most_changed
    assert row.key["t"] == datetime.datetime(1970, 1, 1, 2, tzinfo=datetime.UTC)


def test_more_than_fits_into_memory_spills(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("denograd_tasks.audit.tables.MEMORY", "48MB")
    rows = 400_000
    at = np.arange(rows)
    first = pa.table({"id": at, **{f"c{k}": at * 0.1 + k for k in range(12)}})
    turned = first.take(pa.array(at[::-1]))
    second = turned.set_column(1, "c0", pa.array(turned["c0"].to_numpy() + 1.0))
    found = compared(tmp_path_factory, first, second, key=("id",))
    assert (found.matched, found.rows_changed, found.cells_changed) == (rows, rows, rows)
    assert found.columns[0].largest == pytest.approx(1.0)


def test_damaged_and_absent_tables_are_errors(tmp_path_factory, frames, tmp_path):
    store = Store(str(tmp_path))
    store.create("broken.parquet", b"PAR1")
    there = Table("there", (put_table(store, frames[0], "there.parquet").path,))
    with pytest.raises(DataError, match="cannot be read") as caught:
        diff_tables(store, there, Table("broken", ("broken.parquet",)), ())
    assert "denograd verify" in str(caught.value)
    with pytest.raises(StoreError, match="missing"):
        diff_tables(store, there, Table("gone", ("gone.parquet",)), ())


def test_a_table_of_several_files_is_one_table(tmp_path_factory, frames, tmp_path):
    store = Store(str(tmp_path / "a [folder] of * kinds?"))
    parts = [put_table(store, frames[0].slice(at, 2), f"parts/{at}.parquet").path for at in (0, 2)]
    whole = put_table(store, frames[0], "whole.parquet").path
    for key in ((), ("id",)):
        found = diff_tables(store, Table("parts", tuple(parts)), Table("whole", (whole,)), key)
        assert (found.matched, found.cells_changed, found.added, found.removed) == (4, 0, 0, 0)


def test_a_version_against_its_source(audited):
    store, run = Store(audited.root), audited.runs[0]
    manifest = resolve(store, "readings@1")
    observed, refined = (
        pq.read_table(store.uri(file.path)).to_pandas() for file in (run.snapshot.files[0], run.refined.data)
    )
    found = diff_source(store, manifest)
    assert (found.key, found.matched, found.added, found.removed) == (("id",), 200, 0, 0)
    assert found.rows_changed == run.refined.totals["moved"]
    for one in found.columns:
        if one.name in "aby":
            away = (refined[one.name] - observed[one.name]).abs()
            assert one.changed == (away > 0).sum()
            assert one.mean == pytest.approx(away[away > 0].mean())
            assert one.largest == pytest.approx(away.max())
        else:
            assert one.changed == 0


def test_versions_of_other_data_are_matched_by_their_identifier(audited):
    store = Store(audited.root)
    found = diff_versions(store, resolve(store, "readings@1"), resolve(store, "readings@4"))
    assert (found.first, found.second, found.key) == ("readings@1", "readings@4", ("id",))
    assert (found.matched, found.added, found.removed) == (180, 0, 20)


def test_the_same_version_does_not_differ_from_itself(audited):
    store = Store(audited.root)
    version = resolve(store, "readings@3")
    found = diff_versions(store, version, version)
    assert (found.cells_changed, found.rows_changed, found.most_changed) == (0, 0, ())


def test_the_key_of_a_series_is_entity_and_time(series_run):
    manifest = resolve(Store(series_run.settings.publish.root), "waves")
    assert key_of(manifest.content) == ("entity", "time")
    assert diff_source(Store(series_run.settings.publish.root), manifest).matched == 480


def test_every_type_of_column_is_compared(table_run):
    """Decimals, dictionaries, lists, zones: whatever a table holds."""
    store = Store(table_run.settings.publish.root)
    found = diff_source(store, resolve(store, "readings"))
    assert found.key == ()
    assert {one.name for one in found.columns} == {name for name, _ in table_run.snapshot.columns}
    assert {one.name for one in found.columns if one.changed} <= {"a", "b", "whole", "y"}
    assert found.rows_changed == table_run.refined.totals["moved"]
