"""What arrives is looked at once, compared with the last version's raw data, and told where people look."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import make_series

from denograd_engine.errors import SchemaError, StoreError
from denograd_tasks.store import open_store
from denograd_tasks.tracking import client
from denograd_tasks.versions import newest
from denograd_tasks.watch.bookmark import Bookmark, bookmark_path, read_bookmark, write_bookmark
from denograd_tasks.watch.check import check
from denograd_tasks.watch.reference import keep_reference, reference_of, residuals
from denograd_tasks.watch.telling import in_markdown, log_metrics

LOOSE = {
    "swd": {"max": 2},
    "rho": {"min": -1},
    "std_ratio": {"min": 0, "max": 9},
    "mean_drift": {"max": 9},
    "correlation_change": {"max": 2},
    "skill": {"min": -9},
}
POSTERIOR = {"refine": {"arguments": {"folds": 2, "fewest_steps": 20, "most_steps": 40, "hidden": 16}}, "backbone": {}}


def rows(count, seed=0, weight=1.0, shift=0.0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 2))
    y = weight * x[:, 0] + 0.3 * generator.normal(size=count)
    return pa.table({"a": x[:, 0], "b": x[:, 1] + shift, "site": generator.choice(["n", "s"], count), "y": y})


def look(settings):
    """A look that is remembered."""
    looked = check(settings)
    write_bookmark(open_store(settings.publish.root), settings.dataset, looked.bookmark)
    return looked.watched


def copied(run, folder):
    """The settings of a run whose folder was copied, to be changed at will."""
    settings = run.settings
    source = Path(settings.source)
    shutil.copytree(source.parent, folder / "copy")
    publish = settings.publish.model_copy(update={"root": str(folder / "copy" / Path(settings.publish.root).name)})
    return settings.model_copy(update={"source": str(folder / "copy" / source.name), "publish": publish})


@pytest.fixture(scope="module")
def table(clean, make_settings):
    training = {"epochs": 15, "batch_size": 64, "learning_rate": 0.02}
    return clean(make_settings(rows(1500), backbone={"training": training}, gates=LOOSE))


@pytest.fixture
def readings(table, tmp_path):
    return copied(table, tmp_path)


def held(settings):
    return pq.read_table(settings.source)


def grow(settings, table):
    pq.write_table(pa.concat_tables([held(settings), table]), settings.source)


def test_the_reference_is_evidence_with_residuals_of_rows_that_the_model_had_not_seen(table):
    store = open_store(table.settings.publish.root)
    manifest = newest(store, "readings")
    named = {Path(file["path"]).name: file for file in manifest.content["evidence"]}
    kept = [named[name] for name in ("profile.json", "profile.safetensors")]
    assert all(store.holds(file["path"], file["sha256"]) for file in kept)
    profile = reference_of(store, manifest)
    assert [column.label for column in profile.columns] == ["a", "b", "site", "y", "residual of y"]
    assert profile.counts.sum(axis=(0, 2)).tolist() == [1500] * 5
    assert profile.counts[:, 4, 1:].sum() == 300
    given = table.snapshot, table.backbone, table.refined, table.settings
    assert [file.sha256 for file in keep_reference(store, *given)] == [file["sha256"] for file in kept]
    adopted = table.backbone.model_copy(update={"adopted": True})
    other = table.refined.model_copy(update={"attempt": "of an adopted model"})
    plain = store.read(keep_reference(store, table.snapshot, adopted, other, table.settings)[0].path)
    assert not any(column["residual"] for column in json.loads(plain)["columns"])
    few = table.snapshot.model_copy(update={"files": (_written(store, rows(40)),)})
    assert keep_reference(store, few, adopted, _with_rows(store, table.refined, 40), table.settings) == ()


def _written(store, table):
    from denograd_tasks.tables import put_table

    return put_table(store, table, "few/data.parquet")


def _with_rows(store, refined, count):
    from denograd_tasks.tables import put_table, read_table

    few = put_table(store, read_table(store, refined.rows.path).slice(0, count), "few/rows.parquet")
    return refined.model_copy(update={"files": (refined.data, few)})


def test_residuals_are_those_that_the_refinement_saw(table):
    frame = held(table.settings).to_pandas()
    found = residuals(frame.iloc[:200], table.backbone, "cpu")
    before = pq.read_table(open_store(table.settings.publish.root).local / table.refined.rows.path)["residual_before"]
    np.testing.assert_allclose(found, before.to_numpy()[:200], atol=1e-5)


def test_rows_are_looked_at_once(readings):
    assert (look(readings).arrived, look(readings).arrived) == (0, 0)
    grow(readings, rows(60, seed=1))
    assert look(readings).arrived == 60
    found = look(readings)
    assert (found.arrived, found.rows, found.checks, found.severity) == (0, 60, 4, "none")
    grow(readings, rows(10, seed=2))
    assert look(readings).arrived == 10


def test_the_first_look_begins_where_the_version_ended(readings):
    grow(readings, rows(25, seed=1))
    assert look(readings).arrived == 25


def test_everything_is_new_in_a_source_that_does_not_only_grow(readings):
    look(readings)
    pq.write_table(held(readings).slice(1), readings.source)
    assert look(readings).arrived == 1499


def test_a_folder_is_read_file_by_file(readings):
    folder = Path(readings.source).with_name("parts")
    folder.mkdir()
    whole = held(readings)
    pq.write_table(whole.slice(0, 1000), folder / "0.parquet")
    pq.write_table(whole.slice(1000), folder / "1.parquet")
    readings = readings.model_copy(update={"source": str(folder)})
    assert look(readings).arrived == 0
    pq.write_table(rows(30, seed=1), folder / "2.parquet")
    assert look(readings).arrived == 30
    pq.write_table(pa.concat_tables([whole.slice(0, 1000), rows(7, seed=2)]), folder / "0.parquet")
    assert look(readings).arrived == 7
    (folder / "1.parquet").unlink()
    assert look(readings).arrived == 1037


def test_in_mode_append_rows_are_known_by_their_key(clean, make_settings, tmp_path):
    first = rows(300).append_column("serial", pa.array(np.arange(300)))
    columns = {"target": "y", "key": "serial"}
    settings = make_settings(first, tmp_path, mode="append", columns=columns, gates=LOOSE)
    clean(settings)
    later = rows(50, seed=1).append_column("serial", pa.array(np.arange(280, 330)))
    pq.write_table(later, settings.source)
    assert look(settings).arrived == 30


def test_a_drift_holds_until_the_next_version(readings, clean):
    look(readings)
    grow(readings, rows(200, seed=1, shift=1.0))
    found = check(readings)
    assert (found.raised, found.watched.severity) == (True, "drift")
    assert found.watched.changed[0].column == "b"
    assert {one.kind for one in found.watched.changed if one.column == "b"} >= {"location"}
    assert (found.watched.alarm.columns[0], found.watched.alarm.kinds[0]) == ("b", "location")
    drifted = look(readings)
    grow(readings, rows(20, seed=2))
    later = check(readings)
    assert (later.raised, later.watched.alarm) == (False, drifted.alarm)
    assert later.watched.told
    clean(readings)
    found = check(readings)
    assert (found.watched.version, found.watched.alarm, found.watched.arrived) == (2, None, 0)


def test_a_relation_that_changes_is_seen_in_the_residuals(readings):
    look(readings)
    grow(readings, rows(400, seed=1, weight=-1.0))
    found = look(readings)
    assert found.alarm is not None
    assert found.changed[0].column == "residual of y"
    assert found.changed[0].kind == "relation"


@pytest.fixture(scope="module")
def waves(clean, make_settings):
    settings = make_settings(
        make_series(240),
        dataset="waves",
        columns={"target": "load"},
        series={"time": "time", "entity": "entity"},
        gates=LOOSE,
        **POSTERIOR,
    )
    return clean(settings)


@pytest.fixture
def series(waves, tmp_path):
    return copied(waves, tmp_path)


def steps(first, last):
    """Steps of the series that the version was made from, and of its continuation."""
    frame = make_series(400).to_pandas()
    at = (frame["time"] - frame["time"].min()) // pd.Timedelta(hours=1)
    return frame[(at >= first) & (at < last)]


def put(settings, *frames):
    pd.concat(frames).to_parquet(settings.source, index=False)


def test_steps_of_a_series_are_known_by_their_time_and_wait_for_what_the_model_needs(series):
    manifest = newest(open_store(series.publish.root), "waves")
    waiting = manifest.content["unsettled"]["steps"]
    assert waiting > 0
    assert look(series).arrived == 0
    put(series, steps(0, 260))
    assert look(series).arrived == 2 * (20 - waiting)
    put(series, steps(200, 280))  # the source may forget what is old
    assert look(series).arrived == 2 * 20
    east, west = (steps(200, 300).query("entity == @name") for name in ("east", "west"))
    put(series, pd.concat([east, west[west["time"] < steps(280, 281)["time"].iloc[0]]]).sort_values("time"))
    assert look(series).arrived == 20
    read = read_bookmark(open_store(series.publish.root), "waves", manifest.digest).read
    assert sorted(read.ends) == ['["east"]', '["west"]']
    assert read.ends['["east"]'] - read.ends['["west"]'] == 20 * 3600e9


def test_residuals_of_a_series_are_of_rows_with_a_context(series, waves):
    frame = steps(0, 260)
    found = residuals(frame, waves.backbone, "cpu")
    assert np.isfinite(found).all()
    short = residuals(frame[frame["entity"] == "east"].iloc[:3], waves.backbone, "cpu")
    assert (len(short), np.isnan(short).all()) == (3, True)
    put(series, frame[frame["time"] >= frame["time"].iloc[-40]])
    assert look(series).arrived > 0


def test_what_cannot_be_watched_is_said(readings, tmp_path):
    store = open_store(readings.publish.root)
    manifest = newest(store, "readings")
    pq.write_table(rows(50).drop_columns("b"), readings.source)
    with pytest.raises(SchemaError, match="'b'"):
        check(readings)
    assert read_bookmark(store, "readings", manifest.digest) is None
    grown = store.local / next(f["path"] for f in manifest.content["evidence"] if f["path"].endswith("profile.json"))
    kept = grown.read_bytes()
    grown.write_bytes(kept + b" ")
    with pytest.raises(StoreError, match="damaged"):
        check(readings)
    earlier = json.loads((store.local / manifest.path).read_text())
    earlier["evidence"] = [file for file in earlier["evidence"] if "profile" not in file["path"]]
    (store.local / manifest.path).write_text(json.dumps(earlier))
    with pytest.raises(StoreError, match="no reference"):
        check(readings)
    with pytest.raises(StoreError, match="no published data set"):
        check(readings.model_copy(update={"dataset": "others"}))


def test_a_bookmark_is_replaced_as_a_whole(root):
    store = open_store(root)
    for state in ({"a": 1}, {"b": 2}):
        bookmark = Bookmark(version="v", read={}, state=state)
        write_bookmark(store, "readings", bookmark)
        assert read_bookmark(store, "readings", "v") == bookmark
    assert read_bookmark(store, "readings", "w") is None
    assert list(store.list("readings")) == [bookmark_path("readings")]
    store.replace(bookmark_path("readings"), b"{")
    with pytest.raises(StoreError, match="damaged"):
        read_bookmark(store, "readings", "v")


def test_a_state_of_another_release_begins_anew_and_knows_what_was_read(readings):
    look(readings)
    grow(readings, rows(60, seed=1))
    first = look(readings)
    store = open_store(readings.publish.root)
    digest = newest(store, "readings").digest
    known = read_bookmark(store, "readings", digest)
    write_bookmark(store, "readings", known.model_copy(update={"state": {"unknown": 1}}))
    found = look(readings)
    assert (first.checks, found.checks, found.arrived, found.rows) == (2, 1, 0, 0)


def test_the_verdict_is_told(readings):
    look(readings)
    grow(readings, rows(200, seed=1, shift=1.0))
    watched = look(readings)
    page = in_markdown(watched)
    assert "drift since" in page
    assert "| b | location | shift in std" in page
    assert page.count("█") > 0
    for one in (watched, watched.model_copy(update={"checks": 3})):
        log_metrics(readings, one, "digest of the told version")
    server = client(readings.tracking.uri)
    experiment = server.get_experiment_by_name("readings").experiment_id
    runs = server.search_runs([experiment], "tags.`denograd.watch` = 'digest of the told version'")
    assert [run.info.run_name for run in runs] == ["watch readings@1"]
    assert [run.info.status for run in runs] == ["FINISHED"]
    history = server.get_metric_history(runs[0].info.run_id, "watch/severity")
    assert [(one.step, one.value) for one in history] == [(2, 2.0), (3, 2.0)]


def test_of_very_many_rows_the_model_is_asked_about_some_evenly_spaced(table, monkeypatch):
    monkeypatch.setattr("denograd_tasks.watch.reference.MOST_ASKED", 100)
    frame = held(table.settings).to_pandas().iloc[:250]
    found = residuals(frame, table.backbone, "cpu")
    assert np.flatnonzero(np.isfinite(found)).tolist() == list(range(0, 250, 3))
