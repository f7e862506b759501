"""How far refinement goes: shares of the way, and the largest that a judge accepts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from denograd_engine.fidelity import measure_fidelity
from denograd_engine.folds import first_half
from denograd_engine.frames import Encoder
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import infer_schema
from denograd_engine.strength import STRENGTHS, at_strength, choose_strength, weakened
from tests.engine.problems import mixed_series, mixed_table


def table(rows=200):
    random = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "a": random.normal(size=rows),
            "small": random.normal(size=rows).astype("float32"),
            "whole": random.integers(-1000, 1000, rows),
            "maybe": pd.array(random.integers(0, 1000, rows), dtype="Int64"),
            "code": random.integers(0, 3, rows),
            "y": random.normal(size=rows),
        }
    )
    frame.loc[random.random(rows) < 0.2, "maybe"] = pd.NA
    frame.loc[random.random(rows) < 0.2, "a"] = np.nan
    schema = infer_schema(frame, "y", features=["whole", "maybe"], bounds={"whole": (-1000, 1000)})
    moved = frame.assign(
        a=frame["a"] + 1.0,
        small=frame["small"] - np.float32(0.5),
        whole=(frame["whole"] + 7).clip(upper=1000),
        maybe=frame["maybe"] + 3,
        y=frame["y"] * 0.5,
    )
    return frame, moved, schema


@given(strength=st.floats(0.01, 1.0))
def test_every_cell_goes_that_share_of_the_way_and_types_and_gaps_stay(strength):
    frame, moved, schema = table()
    weaker = at_strength(frame, moved, schema, strength)
    assert weaker.dtypes.equals(frame.dtypes)
    pd.testing.assert_frame_equal(weaker.isna(), frame.isna())
    for name in ("a", "y", "small"):
        expected = frame[name] + strength * (moved[name] - frame[name])
        np.testing.assert_allclose(weaker[name], expected, rtol=1e-6, atol=1e-6)
    for name in ("whole", "maybe"):
        expected = frame[name] + (strength * (moved[name] - frame[name])).astype("Float64").round()
        assert (weaker[name] == expected).fillna(True).all()
    assert weaker["whole"].max() <= 1000
    pd.testing.assert_series_equal(weaker["code"], frame["code"])


def test_all_the_way_is_the_refined_table_itself():
    frame, moved, schema = table()
    assert at_strength(frame, moved, schema, 1.0) is moved


def test_cells_that_did_not_move_stay_to_the_bit():
    frame, moved, schema = table()
    moved.loc[:99, ["a", "y"]] = frame.loc[:99, ["a", "y"]]
    weaker = at_strength(frame, moved, schema, 0.3)
    pd.testing.assert_frame_equal(weaker.loc[:99, ["a", "y"]], frame.loc[:99, ["a", "y"]], check_exact=True)


class TestChoosing:
    def choose(self, limit, rows=None):
        frame, moved, schema = table()
        if rows is not None:
            moved[~rows] = frame[~rows]
        encoder = Encoder.fit(frame, schema)
        return choose_strength(frame, moved, encoder, lambda found: found.largest_correction <= limit)

    def test_all_the_way_where_that_is_accepted(self):
        assert self.choose(np.inf) == 1.0

    def test_the_largest_that_is_accepted(self):
        frame, moved, schema = table()
        full = measure_fidelity(
            frame[first_half(frame, schema)], moved[first_half(frame, schema)], Encoder.fit(frame, schema)
        )
        assert self.choose(0.62 * full.largest_correction) == 0.6

    def test_the_smallest_where_none_is(self):
        assert self.choose(-1.0) == STRENGTHS[-1] == 0.05

    def test_it_looks_at_the_first_half_alone(self):
        frame, _, schema = table()
        half = first_half(frame, schema)
        assert self.choose(0.0, rows=~half) == 1.0
        assert self.choose(0.0, rows=half) == 0.05


class TestMeasuringAPart:
    def test_statistics_are_of_these_rows_and_what_must_not_change_of_all(self):
        frame, moved, schema = table()
        encoder = Encoder.fit(frame, schema)
        half = first_half(frame, schema)
        part = measure_fidelity(frame, moved, encoder, half)
        alone = measure_fidelity(frame[half], moved[half], encoder)
        assert part == alone
        assert part.rows == half.sum()
        broken = moved.assign(code=moved["code"].where(half, 9))
        assert not measure_fidelity(frame, broken, encoder, half).untouched_identical


@pytest.mark.parametrize("made", [mixed_table(targets=2, missing=True), mixed_series(missing=True)])
def test_residuals_are_those_of_what_was_reached(made):
    full = refine(made.frame, made.backbone, Refining(eta=0.1, max_epochs=20, device="cpu"))
    half = weakened(made.frame, full, made.backbone, 0.5, "cpu")
    again = refine(half.frame, made.backbone, Refining(eta=0.1, max_epochs=1, device="cpu"))
    pd.testing.assert_series_equal(half.rows["residual_after"], again.rows["residual_before"], check_names=False)
    assert half.totals.residual_after == pytest.approx(again.totals.residual_before)
    assert full.totals.residual_after < half.totals.residual_after < full.totals.residual_before
    np.testing.assert_allclose(half.rows["correction"], 0.5 * full.rows["correction"])
    assert (half.rows["status"] == full.rows["status"]).all()
    assert weakened(made.frame, full, made.backbone, 1.0, "cpu") is full
