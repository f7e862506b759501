"""Runs, windows and folding against naive loops, and what a time axis must be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denograd_engine.errors import ConfigError, TimeAxisError
from denograd_engine.schema import Series
from denograd_engine.windows import Layout, Windows, lay_out
from tests.engine.problems import windows_of

MODEST = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def layouts(draw):
    runs = tuple(draw(st.lists(st.integers(1, 15), min_size=1, max_size=5)))
    steps = sum(runs)
    horizons = st.integers(1, 4) | st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True).map(tuple)
    series = Series("t", window=draw(st.integers(1, 6)), future=draw(horizons), stride=draw(st.integers(1, 4)))
    return Layout(np.arange(steps), runs, np.arange(float(steps))), series


def naive_windows(layout, series):
    ends = np.cumsum(layout.runs)
    runs = [tuple(range(end - run, end)) for end, run in zip(ends, layout.runs, strict=True)]
    return windows_of(runs, series)


class TestWindows:
    @MODEST
    @given(layouts())
    def test_each_covers_w_steps_and_predicts_others_of_the_same_run(self, given):
        layout, series = given
        windows, naive = Windows.of(layout, series), naive_windows(layout, series)
        assert len(windows) == len(naive)
        assert windows.covered(windows.starts).tolist() == [list(covered) for covered, _ in naive]
        assert windows.ahead(windows.starts).tolist() == [list(ahead) for _, ahead in naive]
        assert windows.predicted(windows.starts).tolist() == [ahead[0] for _, ahead in naive]
        assert windows.steps == sum(layout.runs)

    @MODEST
    @given(layouts(), st.data())
    def test_visits_count_those_that_cover_and_those_that_predict(self, given, data):
        layout, series = given
        windows, naive = Windows.of(layout, series), naive_windows(layout, series)
        chosen = [at for at in range(len(naive)) if data.draw(st.booleans(), label=f"window {at}")]
        covering, predicting = windows.visits(windows.starts[torch.tensor(chosen, dtype=torch.int64)])
        steps = range(windows.steps)
        assert covering.tolist() == [sum(step in naive[at][0] for at in chosen) for step in steps]
        assert predicting.tolist() == [sum(step in naive[at][1] for at in chosen) for step in steps]

    @MODEST
    @given(layouts(), st.data())
    def test_touched_are_those_that_cover_or_predict_a_moved_step(self, given, data):
        layout, series = given
        windows, naive = Windows.of(layout, series), naive_windows(layout, series)
        moved = data.draw(st.lists(st.booleans(), min_size=windows.steps, max_size=windows.steps))
        expected = [any(moved[step] for step in (*covered, *ahead)) for covered, ahead in naive]
        assert windows.touched(torch.tensor(moved)).tolist() == expected

    @MODEST
    @given(layouts(), st.integers(0, 2**31), st.integers(1, 3))
    def test_folding_adds_each_contribution_to_its_step(self, given, seed, channels):
        layout, series = given
        windows, naive = Windows.of(layout, series), naive_windows(layout, series)
        random = np.random.default_rng(seed)
        into = random.normal(size=(windows.steps, channels))
        contributions = random.normal(size=(len(naive), series.window, channels))
        folded = torch.from_numpy(into.copy())
        windows.fold_(folded, windows.starts, torch.from_numpy(contributions))
        for window, (covered, _) in enumerate(naive):
            for offset, step in enumerate(covered):
                into[step] += contributions[window, offset]
        np.testing.assert_allclose(folded.numpy(), into, atol=1e-12)

    def test_folding_is_the_same_to_the_bit_every_time(self):
        layout = Layout(np.arange(500), (500,), np.arange(500.0))
        windows = Windows.of(layout, Series("t", window=20))
        contributions = torch.randn(len(windows), 20, 3, generator=torch.Generator().manual_seed(0))
        sums = []
        for _ in range(3):
            sums.append(torch.zeros(500, 3))
            windows.fold_(sums[-1], windows.starts, contributions)
        assert torch.equal(sums[0], sums[1])
        assert torch.equal(sums[0], sums[2])


def stamps(*hours):
    return pd.Timestamp("2024-03-30", tz="Europe/Berlin") + pd.to_timedelta(list(hours), "h")


class TestLayOut:
    def test_a_long_pause_breaks_a_run(self):
        frame = pd.DataFrame({"t": stamps(*range(10), *range(12, 20))})
        assert lay_out(frame, Series("t", window=2)).runs == (10, 8)

    @pytest.mark.parametrize(
        ("max_gap", "runs"), [("3h", (18,)), ("179min", (10, 8)), ("1h", (10, 8)), (None, (10, 8))]
    )
    def test_the_longest_pause_allowed_is_the_users(self, max_gap, runs):
        frame = pd.DataFrame({"t": stamps(*range(10), *range(12, 20))})
        assert lay_out(frame, Series("t", window=2, max_gap=max_gap)).runs == runs

    def test_numbers_that_grow_are_a_time_axis_too(self):
        frame = pd.DataFrame({"t": np.r_[0:10, 14:20] * 0.5})
        assert lay_out(frame, Series("t", window=2)).runs == (10, 6)
        assert lay_out(frame, Series("t", window=2, max_gap="2.5")).runs == (16,)

    def test_an_hour_lost_to_daylight_saving_is_no_pause(self):
        wall = pd.date_range("2024-03-30 20:00", periods=12, freq="h", tz="Europe/Berlin")
        assert lay_out(pd.DataFrame({"t": wall}), Series("t", window=2)).runs == (12,)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=6, max_size=40),
        st.integers(0, 2**31),
        st.booleans(),
    )
    def test_runs_of_interleaved_entities_against_a_naive_loop(self, pieces, seed, two_columns):
        clock, rows = [0, 0, 0], []
        for entity, pause in pieces:
            clock[entity] += pause
            rows.append((entity, clock[entity]))
        frame = pd.DataFrame(rows, columns=["who", "t"])
        frame["who"] = frame["who"].map({0: "a", 1: None, 2: "c"})
        frame["where"] = "here"
        entity = ("where", "who") if two_columns else ("who",)
        series = Series("t", entity, window=1, max_gap="2")
        expected = []
        for name in dict.fromkeys(entity for entity, _ in rows):
            previous = None
            for at, (one, t) in enumerate(rows):
                if one == name:
                    if previous is None or t - previous > 2:
                        expected.append([])
                    expected[-1].append(at)
                    previous = t
        if max(map(len, expected)) < 2:
            with pytest.raises(TimeAxisError):
                lay_out(frame, series)
            return
        layout = lay_out(frame, series)
        ends = np.cumsum(layout.runs)
        found = [layout.order[end - run : end].tolist() for end, run in zip(ends, layout.runs, strict=True)]
        assert found == expected
        assert layout.clock.tolist() == frame["t"].to_numpy()[layout.order].tolist()


class TestTimeAxisErrors:
    def refused(self, frame, series, *parts):
        with pytest.raises(TimeAxisError) as caught:
            lay_out(frame, series)
        message = str(caught.value)
        for part in parts:
            assert part in message
        assert caught.value.where.startswith("series")
        assert "SECRET" not in message
        assert "98765" not in message
        return message

    def frame(self, *hours):
        return pd.DataFrame({"t": stamps(*hours), "secret": "SECRET", "value": 98765.4321})

    def test_out_of_order_stamps_are_counted_and_the_first_named(self):
        frame = self.frame(0, 1, 2, 5, 3, 4, 2, 6)
        message = self.refused(
            frame, Series("t", window=1), "'t' is not in ascending order", "2 out of order", "sort by"
        )
        assert "0 repeated and 2 out of order, the first at 2024-03-30 03:00:00+01:00, 2024-03-30 02:00" in message

    def test_repeated_stamps_are_counted_and_the_first_three_named(self):
        frame = self.frame(0, 1, 1, 2, 3, 3, 4, 4, 5, 5)
        message = self.refused(frame, Series("t", window=1), "'t' repeats", "4 repeated", "series.entity")
        assert message.count("2024-03-30") == 3
        assert "2024-03-30 01:00:00+01:00, 2024-03-30 03:00:00+01:00, 2024-03-30 04:00:00+01:00" in message

    def test_a_stamp_may_repeat_between_entities_only(self):
        frame = self.frame(0, 0, 1, 1, 1, 2).assign(site=["a", "b", "a", "b", "b", "a"])
        self.refused(frame, Series("t", ("site",), window=1), "1 repeated", "within each site")
        assert lay_out(frame.drop(index=4), Series("t", ("site",), window=1)).runs == (3, 2)

    def test_missing_stamps_are_counted_and_the_first_row_named(self):
        frame = self.frame(*range(8))
        frame.loc[[3, 6], "t"] = pd.NaT
        self.refused(frame, Series("t", window=1), "missing cells", "2 missing, the first at row 3", "drop these rows")

    @pytest.mark.parametrize(
        "column", [["2024-03-01", "2024-03-02"] * 5, [True, False] * 5, pd.Categorical([1, 2] * 5), [object()] * 10]
    )
    def test_text_is_not_a_time_axis(self, column):
        frame = pd.DataFrame({"t": column})
        self.refused(frame, Series("t", window=1), "'t' is not a time axis", "time stamps or numbers", "ISO 8601")

    @pytest.mark.parametrize("max_gap", ["often", "4 moons", "", "-1h"])
    def test_a_pause_that_cannot_be_read(self, max_gap):
        frame = self.frame(*range(8))
        self.refused(frame, Series("t", window=1, max_gap=max_gap), repr(max_gap), "such as '2h' or '4D'", "max_gap")

    def test_a_duration_for_numeric_time_cannot_be_read(self):
        frame = pd.DataFrame({"t": np.arange(9)})
        self.refused(
            frame, Series("t", window=1, max_gap="2h"), "'2h'", "expected: a positive number", "series.max_gap"
        )

    def test_a_window_longer_than_any_run(self):
        frame = self.frame(0, 1, 2, 3, 7, 8, 9, 10, 11)
        self.refused(
            frame,
            Series("t", window=5, future=2),
            "no unbroken stretch",
            "at least 7 steps",
            "(5 seen, 2 ahead)",
            "5 at most, in 2 stretches",
            "series.window below 4",
            "series.max_gap",
        )
        assert lay_out(frame, Series("t", window=3, future=2)).runs == (4, 5)

    @pytest.mark.parametrize("setting", ["window", "future", "stride"])
    def test_impossible_windows(self, setting):
        with pytest.raises(ConfigError, match=f"series.{setting} must be at least 1") as caught:
            Series("t", **{setting: 0})
        assert caught.value.where == f"series.{setting}"
