"""What readers outside get: every value, in every format, whole or not at all."""

import os
import subprocess
import sys
import tracemalloc
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from denograd_engine.errors import ConfigError, DataError, StoreError
from denograd_tasks.exporting import export
from denograd_tasks.store import Store
from denograd_tasks.tables import put_table
from denograd_tasks.versions import commit

ROWS = 200_000
"""Several row groups, and more batches than one."""


def wide():
    """A column of every kind that occurs."""
    generator = np.random.default_rng(0)
    times = pa.array(np.arange(ROWS) * 1_000_003, pa.timestamp("us"))
    return pa.table(
        {
            "number": pa.array(np.where(np.arange(ROWS) % 7, generator.normal(size=ROWS), np.nan)),
            "single": pa.array(generator.normal(size=ROWS).astype("float32")),
            "count": pa.array([None, *range(1, ROWS)], pa.int64()),
            "unsigned": pa.array(np.full(ROWS, 2**64 - 1), pa.uint64()),
            "text, quoted": pa.array(['a "b", c', "", None, "ü\n"] * (ROWS // 4)),
            "site": pa.array(["north", "south", None, "east"] * (ROWS // 4)).dictionary_encode(),
            "at": times,
            "zoned": times.cast(pa.timestamp("us", "Europe/Vienna")),
            "day": times.cast(pa.date32()),
            "flag": pa.array([True, None] * (ROWS // 2)),
        }
    )


def plain(table):
    return table.set_column(5, "site", table["site"].cast(pa.string()))


def published(root, table, dataset="readings"):
    store = Store(root)
    path = f"{dataset}/data/{table.num_rows}-{table.num_columns}/part-00000.parquet"
    file = put_table(store, table, path).model_dump() | {"rows": table.num_rows}
    return store, commit(store, dataset, {"identity": path, "files": [file]}).manifest


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    return published(str(tmp_path_factory.mktemp("root")), wide())


def test_csv_gives_every_value_back(every_kind, tmp_path):
    store, manifest = every_kind
    told = []
    done = export(store, manifest, "csv", tmp_path / "out.csv", tell=told.append)
    assert (done.rows, done.version, len(done.columns)) == (ROWS, 1, 10)
    assert told == sorted(told)
    assert len(told) > 2
    assert told[-1] == ROWS
    expected = wide().to_pandas()
    frame = pd.read_csv(
        tmp_path / "out.csv",
        dtype={"count": "Int64", "unsigned": "uint64", "single": "float32"},
    )
    for name in ("number", "single", "unsigned"):
        assert (frame[name].to_numpy() == expected[name].to_numpy())[~expected[name].isna()].all(), name
    assert (frame["number"].isna() == expected["number"].isna()).all()
    assert frame["count"].isna().sum() == 1
    assert frame["count"][ROWS - 1] == ROWS - 1
    assert (pd.to_datetime(frame["at"]) == expected["at"]).all()
    assert (pd.to_datetime(frame["zoned"], utc=True) == expected["zoned"]).all()
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").split("\n", 4)
    assert lines[0].startswith('"number","single","count","unsigned","text, quoted"')
    assert '"a ""b"", c"' in lines[1]
    assert lines[1].startswith("nan,")
    assert ',"",' in lines[2]
    assert ",,,19" in lines[3]


def test_arrow_gives_every_value_and_type_back(every_kind, tmp_path):
    store, manifest = every_kind
    export(store, manifest, "arrow", tmp_path / "out.arrow")
    with pa.memory_map(str(tmp_path / "out.arrow")) as file:
        found = pa.ipc.open_file(file).read_all()
        expected = plain(wide())
        assert found.schema == expected.schema
        assert found.drop_columns("number") == expected.drop_columns("number")
        np.testing.assert_array_equal(found["number"].to_numpy(), expected["number"].to_numpy())


def test_each_export_is_a_version_of_the_delta_table(every_kind, tmp_path):
    store, manifest = every_kind
    place = tmp_path / "delta"
    assert export(store, manifest, "delta", place).delta_version == 0
    found = DeltaTable(place).to_pyarrow_table().sort_by("at")
    assert found["unsigned"][0].as_py() == Decimal(2**64 - 1)
    expected = plain(wide())
    for name in ("single", "count", "text, quoted", "site", "at", "day", "flag"):
        assert found[name].combine_chunks() == expected[name].combine_chunks(), name
    assert found["zoned"].cast(expected["zoned"].type) == expected["zoned"]
    later, second = published(store.root, wide().slice(0, 8).select(["number", "flag"]))
    assert export(later, second, "delta", place).delta_version == 1
    assert DeltaTable(place).to_pyarrow_table().num_rows == 8
    assert DeltaTable(place, version=0).to_pyarrow_table().num_rows == ROWS
    newest, first = DeltaTable(place).history()
    assert (newest["denograd.version"], newest["denograd.manifest"]) == ("readings@2", second.digest)
    assert (first["denograd.version"], first["denograd.manifest"]) == ("readings@1", manifest.digest)


def test_a_place_that_is_taken_is_left_alone_unless_it_is_forced(tmp_path):
    store, manifest = published(str(tmp_path / "root"), pa.table({"x": [1.5, 2.5]}))
    _, other = published(str(tmp_path / "root"), pa.table({"x": [1.5]}), "other")
    file, table, folder = tmp_path / "x.csv", tmp_path / "delta", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine").touch()
    export(store, other, "delta", table)
    for to, place in (("csv", file), ("csv", folder), ("delta", folder), ("delta", file), ("delta", table)):
        with pytest.raises(ConfigError, match="in the place"):
            export(store, manifest, to, place)
    assert file.read_text() == "mine"
    with pytest.raises(ConfigError, match="no Delta table"):
        export(store, manifest, "delta", folder, force=True)
    export(store, manifest, "csv", file, force=True)
    assert file.read_text() == '"x"\n1.5\n2.5\n'
    assert export(store, manifest, "delta", table, force=True).delta_version == 1


def test_columns_are_chosen_and_ordered(every_kind, tmp_path):
    store, manifest = every_kind
    done = export(store, manifest, "arrow", tmp_path / "two.arrow", ["flag", "number"])
    assert done.columns == ("flag", "number")
    with pa.memory_map(str(tmp_path / "two.arrow")) as file:
        assert pa.ipc.open_file(file).schema.names == ["flag", "number"]
    with pytest.raises(ConfigError, match=r"no column 'numbr'[\s\S]*did you mean 'number'"):
        export(store, manifest, "csv", tmp_path / "x.csv", ["numbr"])
    with pytest.raises(ConfigError, match="named twice"):
        export(store, manifest, "csv", tmp_path / "x.csv", ["flag", "flag"])
    with pytest.raises(ConfigError, match="no such folder"):
        export(store, manifest, "csv", tmp_path / "absent" / "x.csv")


@pytest.mark.parametrize(
    ("to", "column", "problem"),
    [
        ("csv", pa.array([[1, 2]]), "no place for"),
        ("csv", pa.array([b"\xff"]), "no place for"),
        ("delta", pa.array([1], pa.time64("us")), "no place for"),
        ("delta", pa.array([1_234_567_891], pa.timestamp("ns")), "holds more than"),
    ],
    ids=["list-csv", "bytes-csv", "time-delta", "nanoseconds-delta"],
)
def test_what_a_format_cannot_hold_is_refused_by_name_and_leaves_nothing(tmp_path, to, column, problem):
    store, manifest = published(str(tmp_path / "root"), pa.table({"odd": column, "x": [1.0]}))
    with pytest.raises(DataError, match=f"'odd'.*{problem}") as error:
        export(store, manifest, to, tmp_path / "out")
    assert "1234567891" not in str(error.value)
    assert names(tmp_path) == ["root"]
    assert export(store, manifest, to, tmp_path / "out", ["x"]).rows == 1


def test_a_damaged_or_missing_file_is_not_handed_out(tmp_path):
    store, manifest = published(str(tmp_path / "root"), pa.table({"x": [1.0, 2.0]}))
    data = tmp_path / "root" / manifest.content["files"][0]["path"]
    data.write_bytes(data.read_bytes() + b" ")
    with pytest.raises(StoreError, match="missing or damaged"):
        export(store, manifest, "csv", tmp_path / "x.csv")
    data.unlink()
    with pytest.raises(StoreError, match="missing or damaged"):
        export(store, manifest, "csv", tmp_path / "x.csv")
    assert names(tmp_path) == ["root"]


@pytest.mark.parametrize("to", ["csv", "delta"])
def test_an_export_that_breaks_off_leaves_nothing_and_what_a_killed_one_left_goes(every_kind, tmp_path, to):
    store, manifest = every_kind

    def breaks(rows):
        if rows > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, manifest, to, tmp_path / "out", tell=breaks)
    assert names(tmp_path) == []
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    killed, running = (tmp_path / f".out.{process}.part" for process in (gone.pid, os.getppid()))
    killed.touch()
    running.touch()
    export(store, manifest, to, tmp_path / "out")
    assert names(tmp_path) == [running.name, "out"]


def test_object_stores_are_read_in_place(root, tmp_path):
    table = pa.table({"x": np.arange(150_000.0), "y": np.arange(150_000)})
    store, manifest = published(root, table)
    export(store, manifest, "arrow", tmp_path / "x.arrow", ["y"])
    with pa.memory_map(str(tmp_path / "x.arrow")) as file:
        assert pa.ipc.open_file(file).read_all() == table.select(["y"])
    with pytest.raises(StoreError, match="missing"), store.opened("readings/absent"):
        pass


def test_memory_does_not_grow_with_the_table(tmp_path):
    table = pa.table({name: np.random.default_rng(0).normal(size=1_000_000) for name in "ab"})
    store, manifest = published(str(tmp_path / "root"), table)
    size, before, held = table.nbytes, pa.total_allocated_bytes(), []

    def tell(rows):  # what is read is held by Python, what is decoded by Arrow
        held.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before)

    tracemalloc.start()
    try:
        export(store, manifest, "arrow", tmp_path / "out", tell=tell)
    finally:
        tracemalloc.stop()
    assert len(held) > 10
    assert max(held) < size
