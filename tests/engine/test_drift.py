"""The watch finds what has changed, says what it is, and stays silent where nothing has."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from scipy.signal import lfilter

from denograd_engine.drift.profile import profile_of
from denograd_engine.drift.verdict import Kind, Severity
from denograd_engine.drift.watch import AVERAGE_RUN, Watch
from denograd_engine.errors import ConfigError, SchemaError
from denograd_engine.schema import Series, infer_schema
from tests.engine.strategies import samples

LEVELS = ["low", "mid", "high"]


def table(seed, rows):
    """Numbers, whole numbers with ties, a category, a constant, and missing cells."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({f"x{at}": random.normal(5.0, 3.0, rows) for at in range(6)})
    frame["count"] = random.poisson(3.0, rows)
    frame["level"] = random.choice(LEVELS, rows, p=[0.5, 0.3, 0.2])
    frame["fixed"] = 7.0
    frame["y"] = random.normal(size=rows)
    frame.loc[random.random(rows) < 0.1, "x5"] = np.nan
    return frame


def watch_on(frame, residuals=None, series=None, average_run=AVERAGE_RUN):
    return Watch(profile_of(frame, infer_schema(frame, "y", series=series), residuals), average_run)


@pytest.fixture(scope="module")
def watch():
    return watch_on(table(0, 10_000))


def followed(watch, batches, state=None):
    """Verdicts up to the first drift, and the state then."""
    state, verdicts = state or watch.fresh(), []
    for batch in batches:
        checked = watch.check(state, *batch) if isinstance(batch, tuple) else watch.check(state, batch)
        state = checked.state
        verdicts.append(checked.verdict)
        if not checked.verdict.holds:
            break
    return verdicts, state


def changed(change, batches=20, rows=100, seed=1):
    """Batches after as many that are as ever."""
    for at in range(2 * batches):
        frame = table(seed * 1000 + at, rows)
        yield change(frame) if at >= batches else frame


def swapped(frame):
    frame.loc[: len(frame) // 2, "level"] = "low"
    return frame


CHANGES = {
    "shift": (lambda f: f.assign(x2=f["x2"] + 0.3 * 3.0), "x2", Kind.LOCATION),
    "variance x 1.3": (lambda f: f.assign(x3=5.0 + (f["x3"] - 5.0) * np.sqrt(1.3)), "x3", Kind.SCALE),
    "two humps": (lambda f: f.assign(x1=5.0 + 3.0 * np.sign(f["x1"] - 5.0) + 0.3 * (f["x1"] - 5.0)), "x1", Kind.SHAPE),
    "whole numbers": (lambda f: f.assign(count=f["count"] + (f.index % 2 == 0)), "count", Kind.LOCATION),
    "missing": (lambda f: f.assign(x0=f["x0"].where(f.index % 10 > 0)), "x0", Kind.MISSING),
    "fewer missing": (lambda f: f.assign(x5=f["x5"].fillna(5.0 + 3.0 * f["y"])), "x5", Kind.MISSING),
    "categories": (swapped, "level", Kind.CATEGORIES),
    "unseen category": (lambda f: f.assign(level=f["level"].where(f.index % 20 > 0, "new")), "level", Kind.CATEGORIES),
    "a constant": (lambda f: f.assign(fixed=7.0 + 0.1 * (f.index % 10 == 0)), "fixed", Kind.CATEGORIES),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_named_and_told_apart(watch, name):
    change, column, kind = CHANGES[name]
    verdicts, _ = followed(watch, changed(change))
    assert len(verdicts) > 20, "an alarm before the change"
    last = verdicts[-1]
    assert last.severity is Severity.DRIFT
    assert list(last.columns) == [column]
    assert last.kinds[0] is kind
    assert last.evidence >= AVERAGE_RUN
    told = last.lines()
    assert told[0].startswith("drift after")
    assert f"{column}: {kind}" in told[1]
    assert told[0].endswith("at most")
    assert len(told[0]) < 100


def test_effects_are_those_of_the_rows_since_the_change(watch):
    effect = {}
    for name in ("shift", "variance x 1.3"):
        verdicts, _ = followed(watch, changed(CHANGES[name][0], rows=400))
        effect |= {finding.kind: finding.effect for finding in verdicts[-1].notable}
    assert effect[Kind.LOCATION] == pytest.approx(0.3, abs=0.1)
    assert effect[Kind.SCALE] == pytest.approx(np.sqrt(1.3), abs=0.06)


@pytest.mark.parametrize("rows", [3, 25, 400])
def test_what_is_found_does_not_hang_on_how_many_rows_come_at_once(watch, rows):
    batches = 1200 // rows
    verdicts, _ = followed(watch, changed(CHANGES["shift"][0], batches=batches, rows=rows))
    assert batches < len(verdicts)
    assert not verdicts[-1].holds


def test_an_irrelevant_difference_is_no_drift_however_many_rows_show_it(watch):
    verdicts, _ = followed(
        watch, (table(seed, 100_000).assign(x0=lambda f: f["x0"] + 0.04 * 3.0) for seed in range(50, 53))
    )
    assert len(verdicts) == 3
    assert all(verdict.holds for verdict in verdicts)


def related(seed, rows, by):
    """y follows one column or the other: each column's own distribution is the same either way."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(rows, 3)), columns=["a", "b", "y"])
    frame["y"] = 0.7 * frame[by] + np.sqrt(0.51) * frame["y"]
    return frame, {"y": (0.7 * frame["a"] - frame["y"]).to_numpy()}


def test_a_changed_relation_is_seen_in_the_residuals():
    watch = watch_on(*related(0, 5000, "a"))
    kept, _ = followed(watch, (related(seed, 100, "a") for seed in range(1, 21)))
    assert kept[-1].holds
    verdicts, _ = followed(watch, (related(seed, 100, "b") for seed in range(1, 21)))
    assert not verdicts[-1].holds
    assert next(iter(verdicts[-1].columns)) == "residual of y"
    assert verdicts[-1].kinds[0] is Kind.RELATION


def correlated(seed, rows, sign):
    random = np.random.default_rng(seed)
    common = random.normal(size=(rows, 1))
    values = 0.9 * common + np.sqrt(0.19) * random.normal(size=(rows, 4))
    values[:, 0] *= sign
    return pd.DataFrame(values, columns=["a", "b", "c", "y"])


def test_columns_that_go_together_otherwise_are_a_joint_drift():
    watch = watch_on(correlated(0, 5000, 1.0))
    kept, _ = followed(watch, (correlated(seed, 256, 1.0) for seed in range(1, 17)))
    assert kept[-1].holds
    verdicts, _ = followed(watch, (correlated(seed, 256, -1.0) for seed in range(1, 17)))
    assert list(verdicts[-1].columns) == [None]
    assert verdicts[-1].kinds == (Kind.JOINT,)
    assert "all columns together: joint" in verdicts[-1].lines()[1]


def sensors(seed, days, memory=0.9, wave=1.5, shift=0.0):
    """Four channels, a value every quarter of an hour, with memory and a daily wave."""
    random = np.random.default_rng(seed)
    rows = days * 96
    shocks = np.sqrt(1 - memory**2) * random.normal(size=(rows + 500, 4))
    values = lfilter([1.0], [1.0, -memory], shocks, axis=0)[500:]
    values += wave * np.sin(2 * np.pi * (np.arange(rows)[:, None] / 96 + np.arange(4) / 4))
    frame = pd.DataFrame(values + shift, columns=["a", "b", "c", "y"])
    return frame.assign(time=pd.date_range("2024-03-04", periods=rows, freq="15min"))


@settings(max_examples=30, deadline=None)
@given(samples())
def test_any_table_is_watched_and_left_as_it_is(sample):
    kept = sample.frame.copy(deep=True)
    watch = Watch(profile_of(sample.frame, sample.schema))
    checked = watch.check(watch.fresh(), sample.frame)
    assert checked.verdict.holds
    assert watch.check(watch.fresh(), sample.frame).state.to_plain() == checked.state.to_plain()
    pd.testing.assert_frame_equal(sample.frame, kept, check_exact=True)


def in_batches(frame, rows):
    return (frame.iloc[start : start + rows] for start in range(0, len(frame), rows))


def test_a_series_with_memory_and_a_daily_wave_is_no_drift():
    watch = watch_on(sensors(0, 60), series=Series("time"))
    for rows in (3, 40):
        verdicts, _ = followed(watch, in_batches(sensors(rows, 30), rows))
        assert len(verdicts) == 30 * 96 / rows
        assert verdicts[-1].holds


def test_a_morning_is_compared_with_mornings():
    watch = watch_on(sensors(0, 60), series=Series("time"))
    day = sensors(1, 10)
    shifted = day.assign(a=day["a"] + np.where(day["time"].dt.hour < 12, 2.5, 0.0))
    verdicts, _ = followed(watch, in_batches(shifted, 1))
    assert next(iter(verdicts[-1].columns)) == "a"


def test_rows_in_any_order_of_a_batch_count_alike():
    watch = watch_on(sensors(0, 60), series=Series("time"))
    day = sensors(1, 2)
    sorted_, shuffled = (watch.check(watch.fresh(), one).state for one in (day, day.sample(frac=1, random_state=0)))
    np.testing.assert_allclose(sorted_.evidence, shuffled.evidence)
    np.testing.assert_array_equal(sorted_.waiting, shuffled.waiting)


def test_many_series_that_move_together_count_as_one():
    common = sensors(0, 30, wave=0.0)
    together = pd.concat([common.assign(site=site) for site in "abcdefgh"])
    alone, all_ = (profile_of(one, infer_schema(one, "y", series=Series("time"))) for one in (common, together))
    at = [column.name for column in all_.columns].index("a")
    assert all_.inflation[at, 0] == pytest.approx(8 * alone.inflation[at, 0], rel=0.05)


@pytest.mark.parametrize("frame", [table(1, 0), table(1, 1), table(1, 1).assign(x0=np.nan, level=None)])
def test_a_handful_of_rows_or_none_changes_little(watch, frame):
    checked = watch.check(watch.fresh(), frame)
    assert checked.verdict.severity is Severity.NONE
    assert checked.verdict.lines() == [f"no drift in {len(frame):,} rows in 1 checks"]
    assert checked.state.rows == len(frame)


def test_infinite_values_are_the_most_extreme_ones(watch):
    verdicts, _ = followed(watch, changed(lambda f: f.assign(x0=f["x0"].where(f.index % 5 > 0, np.inf))))
    assert list(verdicts[-1].columns) == ["x0"]


def test_the_state_goes_through_json_and_goes_on_alike(watch):
    batches = list(changed(CHANGES["shift"][0]))
    _, state = followed(watch, batches[:23])
    again = watch.state(json.loads(json.dumps(state.to_plain())))
    left, right = (watch.check(one, batches[23]) for one in (state, again))
    assert left.verdict == right.verdict
    assert left.state.to_plain() == right.state.to_plain()


def test_a_state_of_another_reference_is_refused(watch):
    other = watch_on(correlated(0, 500, 1.0))
    with pytest.raises(ConfigError, match="does not fit the reference"):
        other.state(watch.fresh().to_plain())
    with pytest.raises(ConfigError, match="does not fit the reference"):
        watch.state({"evidence": []})


def test_the_profile_goes_through_plain_data_and_watches_alike(watch):
    plain, arrays = watch.profile.to_plain()
    assert sum(array.nbytes for array in arrays.values()) < 50_000
    read = Watch(type(watch.profile).from_plain(json.loads(json.dumps(plain)), arrays))
    batch = table(3, 600)
    assert read.check(read.fresh(), batch).state.to_plain() == watch.check(watch.fresh(), batch).state.to_plain()


def test_a_shorter_run_between_alarms_is_reached_sooner(watch):
    eager = Watch(watch.profile, average_run=100)
    late, soon = (len(followed(one, changed(CHANGES["variance x 1.3"][0]))[0]) for one in (watch, eager))
    assert soon < late
    with pytest.raises(ConfigError, match="false alarms cannot come so often"):
        Watch(watch.profile, average_run=10)


def test_few_rows_of_reference_or_rows_that_hang_together_leave_less_to_be_found(watch):
    assert watch.least_shift["x0"] == pytest.approx(0.06 + 2.5 / np.sqrt(10_000), rel=0.1)
    few = watch_on(table(0, 400)).least_shift["x0"]
    assert few == pytest.approx(0.06 + 2.5 / np.sqrt(400), rel=0.15)
    slow = watch_on(sensors(0, 30, memory=0.98, wave=0.0), series=Series("time"))
    quick = watch_on(sensors(0, 30, memory=0.0, wave=0.0), series=Series("time"))
    assert slow.least_shift["a"] > 3 * quick.least_shift["a"]


def test_false_alarms_are_as_rare_as_stated():
    random = np.random.default_rng(0)
    names = ["a", "b", "y"]
    reference = pd.DataFrame(random.normal(size=(5000, 3)), columns=names)
    watch = watch_on(reference, average_run=30)
    state, alarms = watch.fresh(), 0
    for _ in range(1500):
        checked = watch.check(state, pd.DataFrame(random.normal(size=(20, 3)), columns=names))
        alarms += not checked.verdict.holds
        state = checked.state if checked.verdict.holds else watch.fresh()
    assert alarms <= 1500 / 30


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table(1, 5).drop(columns="x0"), "there is no column 'x0'"),
        (table(1, 5).assign(x0="text"), "column 'x0' is not of the kind"),
        (pd.concat([table(1, 5), table(1, 5)[["x0"]]], axis=1), "column 'x0' occurs 2 times"),
    ],
)
def test_other_columns_are_refused(watch, frame, message):
    with pytest.raises(SchemaError, match=message):
        watch.check(watch.fresh(), frame)


def test_residuals_must_be_there_one_for_each_row():
    frame, residuals = related(0, 500, "a")
    watch = watch_on(frame, residuals)
    for wrong in ({}, {"y": residuals["y"][:-1]}):
        with pytest.raises(SchemaError, match="residuals of 'y' do not fit"):
            watch.check(watch.fresh(), frame, wrong)
