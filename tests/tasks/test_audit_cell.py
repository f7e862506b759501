"""One cell: what the tables say of it, found by key, by time and by position."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from denograd_engine.errors import ConfigError, DataError, SchemaError
from denograd_tasks.audit.cell import cell_of
from denograd_tasks.models import load_backbone
from denograd_tasks.store import Store
from denograd_tasks.versions import resolve


def tables(run):
    """Observed, refined, and the lines of the summary."""
    store = Store(run.settings.publish.root)
    files = (run.snapshot.files[0], run.refined.data, run.refined.rows)
    return [pq.read_table(store.uri(file.path)).to_pandas() for file in files]


def looked_up(run, number=None, **given):
    store = Store(run.settings.publish.root)
    name = run.settings.dataset if number is None else f"{run.settings.dataset}@{number}"
    return cell_of(store, resolve(store, name), **given)


@pytest.mark.parametrize("row", [0, 17, 199])
@pytest.mark.parametrize("column", ["a", "y"])
def test_it_is_what_the_tables_say(audited, row, column):
    run = audited.runs[0]
    observed, refined, lines = tables(run)
    found = looked_up(run, 1, column=column, key={"id": str(observed["id"][row])})
    assert (found.version, found.row, found.role) == ("readings@1", row, "target" if column == "y" else "feature")
    assert (found.observed, found.refined) == (observed[column][row], refined[column][row])
    assert found.correction == pytest.approx(refined[column][row] - observed[column][row])
    encoder = load_backbone(run.backbone, "cpu").encoder
    spread = dict(zip(encoder.schema.cells, encoder.spreads, strict=True))[column]
    assert found.correction_std == pytest.approx(found.correction / spread)
    assert (found.status, found.iterations) == (lines["status"][row], lines["iterations"][row])
    assert (found.residual_before, found.residual_after) == (
        lines["residual_before"][row],
        lines["residual_after"][row],
    )
    assert (found.rule, found.model, found.model_digest) == ("denograd", run.backbone.model_uri, run.backbone.digest)
    assert (found.std, found.gate) == (None, 0.1)


def test_key_and_position_find_the_same(audited):
    run = audited.runs[0]
    by_position = looked_up(run, 1, column="a", row=17)
    assert by_position == looked_up(run, 1, column="a", key=by_position.key)
    assert by_position.key == {"id": str(tables(run)[0]["id"][17])}


def test_the_posterior_std_is_that_of_the_cell(audited):
    run = audited.runs[2]
    std = pq.read_table(Store(audited.root).uri(run.refined.file("std.parquet").path)).to_pandas()
    found = looked_up(run, 3, column="b", row=42)
    assert (found.rule, found.status, found.gate) == ("posterior", "refined", None)
    assert found.std == std["b"][42]


def test_other_versions_are_searched_by_the_key(audited):
    """Version 4 lacks the first 20 rows, so that positions are others there."""
    observed = tables(audited.runs[0])[0]
    last = tables(audited.runs[3])
    found = looked_up(audited.runs[0], 1, column="y", row=30)
    others = {one.number: one for one in found.elsewhere}
    assert last[0]["id"][10] == observed["id"][30]
    assert (others[4].rows, others[4].observed, others[4].refined) == (1, last[0]["y"][10], last[1]["y"][10])
    gone = {one.number: one for one in looked_up(audited.runs[0], 1, column="y", row=5).elsewhere}
    assert (gone[4].rows, gone[4].refined) == (0, None)


def test_versions_in_which_it_is_the_same_are_not_told(audited):
    for row in range(0, 200, 40):
        frames = {number: tables(run)[1] for number, run in enumerate(audited.runs[:3], 1)}
        found = looked_up(audited.runs[0], 1, column="y", row=row)
        differing = {number for number in (2, 3) if frames[number]["y"][row] != frames[1]["y"][row]}
        assert {one.number for one in found.elsewhere if one.number != 4} == differing
    assert looked_up(audited.runs[0], 1, column="site", row=50).elsewhere == ()


def test_a_column_that_nothing_moves_has_no_correction(audited):
    found = looked_up(audited.runs[0], 1, column="site", row=0)
    assert found.observed == found.refined
    assert (found.correction, found.correction_std, found.role) == (None, None, "frozen")


def test_time_stamps_with_a_zone_are_found_in_utc_or_their_own(audited):
    run = audited.runs[0]
    for given in ("1970-01-02 02:00", "1970-01-02T03:00+01:00"):
        assert looked_up(run, 1, column="a", key={"when": given}).row == 26


def test_a_step_of_a_series_is_found_by_time_and_entity(series_run):
    observed, refined, lines = tables(series_run)
    found = looked_up(series_run, column="load", key={"time": "1970-01-03 02:00", "entity": "west"})
    at = observed.index[(observed["time"] == pd.Timestamp("1970-01-03 02:00")) & (observed["entity"] == "west")][0]
    assert (found.row, found.refined, found.status) == (at, refined["load"][at], lines["status"][at])
    with pytest.raises(DataError, match="2 rows have this key") as caught:
        looked_up(series_run, column="load", key={"time": "1970-01-03 02:00"})
    assert caught.value.remedy == "name what tells rows apart: entity, time"
    assert looked_up(series_run, column="load", row=int(at)).key == {"entity": "west", "time": "1970-01-03 02:00:00"}


def test_cells_of_every_type_are_shown(table_run):
    observed = tables(table_run)[0]
    row = int(np.flatnonzero(observed["b"].isna())[0])
    for column in observed:
        found = looked_up(table_run, column=column, row=row)
        assert (found.column, found.key) == (column, {})
    assert looked_up(table_run, column="b", row=row).observed is None
    assert looked_up(table_run, column="b", row=row).correction is None
    assert isinstance(looked_up(table_run, column="rooms", row=row).observed, int)


@pytest.mark.parametrize(
    ("error", "problem", "given"),
    [
        (SchemaError, "no column 'nowhere'", {"column": "nowhere", "row": 1}),
        (SchemaError, "no column 'key'", {"column": "a", "key": {"key": "1"}}),
        (DataError, "no row has this key", {"column": "a", "key": {"id": "7"}}),
        (DataError, "rows have this key", {"column": "a", "key": {"site": "north"}}),
        (DataError, "no such row", {"column": "a", "row": 200}),
        (DataError, "no such row", {"column": "a", "row": -1}),
        (ConfigError, "no value of column 'id'", {"column": "a", "key": {"id": "seven"}}),
        (ConfigError, "one row must be named", {"column": "a"}),
        (ConfigError, "one row must be named", {"column": "a", "key": {"id": "7"}, "row": 1}),
    ],
)
def test_what_cannot_be_found_is_said(audited, error, problem, given):
    with pytest.raises(error, match=problem):
        looked_up(audited.runs[0], 1, **given)
