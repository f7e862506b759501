"""Mode `append`: which rows are known, which are refined, and what does not go with the version before."""

import decimal
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from denograd_engine.columns import Column, Role
from denograd_engine.errors import ConfigError, DataError, SchemaError, StoreError
from denograd_engine.schema import Schema, Series
from denograd_tasks.append import manifest_of, parent_of, surroundings, unsettled
from denograd_tasks.appending import VERSION, refined_last
from denograd_tasks.settings import Settings, parse_settings
from denograd_tasks.stages.ingest import ingest
from denograd_tasks.store import Store
from denograd_tasks.tables import read_table
from denograd_tasks.union import aligned, differing, positions, united
from denograd_tasks.versions import Overtaken, commit, newest

SMALLEST = {"dataset": "set", "source": "data.csv", "columns": {"target": "y"}}


@pytest.fixture
def appending(table_run, tmp_path):
    """Makes the settings of the small table's run in mode append, with changes, and a copy of what it published."""
    root = shutil.copytree(table_run.settings.publish.root, tmp_path / "published")

    def make(**changes):
        plain = table_run.settings.model_dump(mode="json")
        plain["publish"]["root"] = str(root)
        columns = plain["columns"] | {"key": ["note"]} | changes.pop("columns", {})
        return Settings.model_validate(plain | {"mode": "append", "columns": columns} | changes)

    return make


def observed(run):
    return read_table(Store(run.snapshot.root), run.snapshot.files[0].path)


def test_a_version_is_appended_to_the_newest(appending, table_run):
    parent = parent_of(appending())
    assert (parent.number, parent.digest) == (1, table_run.version.digest)
    assert parent_of(table_run.settings) is None
    assert parent_of(appending(dataset="nothing-yet")) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"refine": {"max_epochs": 15, "tau": 0.2}}, "refine.tau"),
        ({"columns": {"frozen": ["a"]}}, "columns.frozen"),
        ({"columns": {"noise": {"a": 0.1}}, "backbone": {}, "refine": {}}, "columns.noise"),
        ({"backbone": {"training": {"epochs": 16, "batch_size": 32}}}, "backbone.training"),
        ({"series": {"time": "when"}, "columns": {"key": []}}, "series: a version"),
        ({"model": "readings@1"}, "model"),
    ],
)
def test_settings_that_cells_depend_on_have_to_be_the_same(appending, changes, named):
    with pytest.raises(ConfigError) as caught:
        parent_of(appending(**changes))
    assert named in caught.value.problem + caught.value.found
    assert "mode: full" in caught.value.remedy


def test_other_settings_may_change(appending):
    assert parent_of(appending(gates={"swd": {"max": 0.2}}, device="cpu", input={"min_rows": 10})).number == 1


def test_a_parent_that_was_exchanged_is_noticed(appending):
    settings = appending()
    parent, store = parent_of(settings), Store(settings.publish.root)
    assert manifest_of(store, "readings", parent).number == 1
    with pytest.raises(StoreError, match="is not what it was when this run began"):
        manifest_of(store, "readings", parent.model_copy(update={"digest": "0" * 64}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "append"}, "columns.key"),
        ({"series": {"time": "t"}, "columns": {"target": "y", "key": "id"}}, "columns.key: the steps of a series"),
        ({"mode": "sometimes"}, "mode: this value cannot be used"),
        ({"model": "readings"}, "model: this value cannot be used"),
        ({"model": "models:/readings"}, "model: this value cannot be used"),
    ],
)
def test_what_cannot_be_asked_for(changes, words):
    with pytest.raises(ConfigError) as caught:
        parse_settings(SMALLEST | changes)
    assert words in str(caught.value)


@pytest.mark.parametrize("model", ["readings@champion", "readings@3", "models:/readings/3", "models:/my model@best"])
def test_names_of_models(model):
    assert parse_settings(SMALLEST | {"model": model}).model == model


def test_ingest_keeps_what_was_observed_before(appending, table_run, tmp_path):
    before = observed(table_run)
    rows = [3, 299]
    more = before.take([3, 299, 0]).set_column(0, "a", pa.array([7.0, before["a"][299].as_py(), 8.0]))
    more = more.set_column(
        more.schema.get_field_index("note"), "note", pa.array([*before["note"].take(rows).to_pylist(), "new"])
    )
    pq.write_table(more.select(more.column_names[::-1]), tmp_path / "more.parquet")
    settings = appending(source=str(tmp_path / "more.parquet"))
    snapshot = ingest.fn(settings, parent_of(settings))
    assert (snapshot.rows, snapshot.parent.number) == (301, 1)
    union = read_table(Store(snapshot.root), snapshot.files[0].path)
    assert union.schema.equals(before.schema)
    assert [at for at in range(300) if not union.slice(at, 1).equals(before.slice(at, 1))] == [3]
    assert [union["a"][at].as_py() for at in (3, 300)] == [7.0, 8.0]


def test_nothing_new_is_the_same_snapshot(appending, table_run):
    settings = appending()
    assert ingest.fn(settings, parent_of(settings)).digest == table_run.snapshot.digest


def text(values):
    return pa.array(values).dictionary_encode()


@pytest.mark.parametrize(
    ("found", "to"),
    [
        (pa.array([1, None], pa.int8()), pa.float64()),
        (pa.array([1, 2], pa.int64()), pa.int32()),
        (pa.array([0.5, 2], pa.float32()), pa.float64()),
        (pa.nulls(2), pa.string()),
        (text(["a", None]), pa.large_string()),
        (pa.array(["a", "b"]), text(["c"]).type),
        (pa.array([1, 2], pa.timestamp("s")), pa.timestamp("us")),
        (pa.array([1, 2], pa.date32()), pa.timestamp("us")),
    ],
    ids=str,
)
def test_a_type_that_loses_nothing_is_taken(found, to):
    schema = pa.schema([pa.field("x", to), pa.field("y", pa.int64())])
    taken = aligned(pa.table({"y": [1, 2], "x": found}), schema, "more.csv")
    assert taken.schema.equals(schema)
    assert taken["x"].null_count == found.null_count


@pytest.mark.parametrize(
    ("found", "to"),
    [
        (pa.array([0.5, 2]), pa.int64()),
        (pa.array([0.5, 2]), pa.float32()),
        (pa.array([1, 2**40]), pa.int32()),
        (pa.array(["1", "2"]), pa.int64()),
        (pa.array([1, 2]), pa.string()),
        (pa.array([1, 2], pa.timestamp("s", "UTC")), pa.timestamp("s")),
        (pa.array([True, False]), pa.int64()),
    ],
    ids=str,
)
def test_another_type_is_refused(found, to):
    with pytest.raises(SchemaError, match="column 'x' is of another type") as caught:
        aligned(pa.table({"x": found}), pa.schema([("x", to)]), "more.csv")
    assert (caught.value.expected, caught.value.found) == (str(to), str(found.type))
    assert "mode: full" in caught.value.remedy


def test_other_columns_are_refused():
    with pytest.raises(SchemaError, match="other columns") as caught:
        aligned(pa.table({"x": [1], "z": [1]}), pa.schema([("x", pa.int64()), ("y", pa.int64())]), "more.csv")
    assert caught.value.found == "without 'y'; with 'z'"


@pytest.mark.parametrize(
    ("key", "found"),
    [([1, 1, 2], "1 repeated, 0 missing, the first in row 1"), ([1, 2, None], "0 repeated, 1 missing")],
)
def test_a_key_that_tells_no_rows_apart_is_refused(key, found):
    table, other = pa.table({"id": pa.array(key, pa.int64())}), pa.table({"id": [1, 2]})
    for rows, among in ((table, other), (other, table)):
        with pytest.raises(DataError, match=r"columns\.key does not tell the rows apart: id") as caught:
            positions(rows, among, ["id"], "columns.key")
        assert caught.value.found.startswith(found)


def test_missing_cells_are_alike_and_everything_else_counts():
    kinds = {
        "number": ([1.0, None, float("nan"), 0.0, 2.0, None], [1.0, float("nan"), None, -0.0, 3.0, 1.0]),
        "whole": ([1, None, 2, 3, 4, 5], [1, None, 2, 3, 5, None]),
        "word": (["a", None, "b", "c", "d", "e"], ["a", None, "b", "c", "f", None]),
        "list": ([[1], None, [], [2], [3], [4]], [[1], None, [], [2], [3, 3], None]),
        "money": (
            [decimal.Decimal(n) for n in (1, 2, 3, 4, 5, 6)],
            [decimal.Decimal(n) for n in (1, 2, 3, 4, 6, 5)],
        ),
        "nothing": ([None] * 6, [None] * 6),
    }
    before, after = (pa.table({name: pa.array(pair[at]) for name, pair in kinds.items()}) for at in (0, 1))
    before = before.append_column("category", text(["x", "y", "z", "x", "y", "z"]))
    after = after.append_column("category", text(["x", "y", "z", "x", "z", "y"]))
    for name in before.column_names:
        expected = [False] * 6 if name == "nothing" else [False] * 4 + [True] * 2
        assert differing(before, after, [name]).tolist() == expected, name


KEYS = st.lists(st.integers(0, 30), unique=True, max_size=20)


@given(before=KEYS, after=KEYS, changed=st.integers(0, 30))
def test_a_union_holds_every_key_once_and_the_newest_word_on_it(before, after, changed):
    def table(keys, other):
        cells = [key + (0.5 if key == other else 0.0) for key in keys]
        return pa.table({"id": pa.array(keys, pa.int64()), "x": pa.array(cells, pa.float64())})

    union = united(table(before, None), table(after, changed), ["id"], "columns.key", series=False)
    assert union["id"].to_pylist() == before + [key for key in after if key not in before]
    expected = {key: key + (0.5 if key == changed and key in after else 0.0) for key in {*before, *after}}
    assert dict(zip(union["id"].to_pylist(), union["x"].to_pylist(), strict=True)) == expected


@pytest.mark.parametrize("one_after_the_other", [False, True])
def test_steps_stay_in_the_order_of_time(one_after_the_other):
    frame = pd.DataFrame({"site": ["b", "a"] * 4, "t": [0, 0, 1, 1, 2, 2, 4, 4]})
    later = pd.DataFrame({"site": ["a", "b", "c", "a"], "t": [5, 3, 3, 3]})
    if one_after_the_other:
        frame = frame.sort_values(["site", "t"], ascending=[False, True])
    tables = [pa.Table.from_pandas(one, preserve_index=False) for one in (frame, later)]
    union = united(*tables, ["site", "t"], "series", series=True).to_pandas()
    assert len(union) == 12
    assert union.groupby("site")["t"].is_monotonic_increasing.all()
    if one_after_the_other:
        assert union["site"].tolist() == ["b"] * 5 + ["a"] * 6 + ["c"]
    else:
        assert union["t"].is_monotonic_increasing


def series(entity=()):
    columns = (Column("t", Role.IGNORED), Column("x", Role.TARGET, refined=True))
    return Schema(columns, Series("t", entity, window=4))


def test_the_last_steps_of_each_series_have_not_settled():
    frame = pd.DataFrame({"site": ["a", "b"] * 5, "t": np.repeat(np.arange(5), 2)})
    assert unsettled(frame, series(("site",)), 2).tolist() == [False] * 6 + [True] * 4
    assert unsettled(frame, series(), 2).tolist() == [False] * 8 + [True] * 2
    assert not unsettled(frame, replace(series(), series=None), 2).any()


def test_new_steps_are_refined_among_those_around_them():
    frame, fresh = pd.DataFrame({"t": np.arange(20_000.0)}), np.zeros(20_000, dtype=bool)
    assert surroundings(frame, series(), fresh, 4).tolist() == []
    fresh[[9_000, 9_500]] = True
    assert surroundings(frame, series(), fresh, 4).tolist() == list(range(9_000 - 2_048, 9_500 + 2_048 + 1))
    assert surroundings(frame, series(), fresh, 1_000).tolist() == list(range(5_000, 13_501))


def test_a_new_series_too_short_for_a_window_is_refined_with_all_others():
    frame = pd.DataFrame({"site": ["a"] * 50 + ["b"] * 2, "t": [*range(50), 0, 1]})
    fresh = (frame["site"] == "b").to_numpy()
    assert surroundings(frame, series(("site",)), fresh, 4).tolist() == list(range(52))


def test_new_rows_of_a_table_are_refined_with_others_from_all_over_it():
    fresh = np.arange(50_000) >= 49_990
    chosen = surroundings(pd.DataFrame(index=range(50_000)), replace(series(), series=None), fresh, 0)
    assert set(range(49_990, 50_000)) <= set(chosen.tolist())
    assert 4_000 < len(chosen) < 5_000
    assert np.diff(chosen[chosen < 49_990]).max() == 12


def test_gates_judge_the_newest_rows_where_they_are_enough():
    def rows(new):
        return pa.table({VERSION: [3] * 100 + [4] * new})

    assert refined_last(pa.table({"correction": [0.0]})) is None
    assert refined_last(rows(49)) is None
    assert refined_last(rows(50)).tolist() == [False] * 100 + [True] * 50


def appended(identity, parent):
    """What a manifest says of a result in mode append, as far as its place in the history depends on it."""
    return {
        "identity": identity,
        "settings": {"mode": "append"},
        "appended": None if parent is None else {"parent": parent},
    }


def test_what_is_appended_comes_right_after_what_it_has_the_rows_of(root):
    store = Store(root)
    commit(store, "set", appended("1", None))
    for parent in (None, 2):
        with pytest.raises(Overtaken, match="another version of 'set' was published meanwhile"):
            commit(store, "set", appended("2", parent))
    assert commit(store, "set", appended("1", None)).already
    commit(store, "set", appended("2", 1))
    commit(store, "set", {"identity": "3", "settings": {"mode": "full"}, "appended": None})
    assert newest(store, "set").number == 3


def test_of_several_that_append_to_one_version_one_wins(root, racing):
    store = Store(root)
    commit(store, "set", appended("first", None))
    results = racing(lambda at: commit(store, "set", appended(str(at), 1)), 8)
    won = [one for one in results if not isinstance(one, Exception)]
    assert [one.manifest.number for one in won] == [2]
    assert all(isinstance(one, Overtaken) for one in results if one not in won)
