"""Scaling, context and missing cells on the way in; types, index and untouched cells on the way out."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denograd_engine.columns import Column, Role
from denograd_engine.errors import SchemaError
from denograd_engine.frames import Encoder, Scale
from denograd_engine.schema import Schema, Series, infer_schema
from tests.engine.problems import mixed_series, mixed_table
from tests.engine.strategies import assert_faithful, assert_same_cells, samples

MODEST = settings(max_examples=80, deadline=None, derandomize=True)
RANDOM = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    RANDOM.bit_generator.state = np.random.default_rng(11).bit_generator.state


def one_feature(values, **bounds):
    """An encoder of the single feature `x` beside a target, and its frame."""
    frame = pd.DataFrame({"x": values, "y": np.random.default_rng(0).normal(size=len(values))})
    schema = infer_schema(frame, "y", features=["x"], bounds=bounds)
    return Encoder.fit(frame, schema), frame


class TestScale:
    def test_is_that_of_the_column_winsorised_at_its_tails(self):
        values = RANDOM.normal(50.0, 3.0, 999)
        scale = one_feature(values)[0].scales[0]
        ranked = np.sort(values)
        low, high = (
            ranked[int(at)] + (at % 1) * (ranked[int(at) + 1] - ranked[int(at)]) for at in (0.01 * 998, 0.99 * 998)
        )
        body = np.array([min(max(value, low), high) for value in values])
        mean = sum(body) / 999
        assert scale.center == pytest.approx(mean, rel=1e-12)
        assert scale.spread == pytest.approx(np.sqrt(sum((body - mean) ** 2) / 999), rel=1e-12)
        assert scale.spread == pytest.approx(values.std(), rel=0.05)
        assert scale.center + scale.imputed * scale.spread == pytest.approx(np.median(values), rel=1e-12)

    def test_gross_outliers_cannot_blow_it_up(self):
        values = RANDOM.normal(size=1000)
        clean = one_feature(values)[0].scales[0]
        values[:5] = 1e12
        dirty = one_feature(values)[0].scales[0]
        assert dirty.spread == pytest.approx(clean.spread, rel=0.1)
        assert dirty.center == pytest.approx(clean.center, abs=0.1)

    def test_a_column_that_is_constant_but_for_a_few_cells_has_one(self):
        values = np.full(1000, 4.0)
        values[0] = 5.0
        assert one_feature(values)[0].scales[0].spread == pytest.approx(values.std())

    @pytest.mark.parametrize("dtype", ["float32", "int64", "Int64", "Float64", "int8"])
    def test_does_not_depend_on_the_type(self, dtype):
        values = np.round(RANDOM.normal(0, 30, 200)).clip(-120, 120)
        expected, found = (one_feature(column)[0].scales[0] for column in (values, pd.array(values, dtype=dtype)))
        assert found == expected

    def test_missing_cells_have_no_part_in_it(self):
        values = RANDOM.normal(size=200)
        holed = np.insert(values, [3, 77, 200], np.nan)
        assert one_feature(holed)[0].scales[0] == one_feature(values)[0].scales[0]

    @pytest.mark.parametrize("role", ["feature", "target"])
    @pytest.mark.parametrize(
        ("bad", "problem", "found"),
        [
            ([np.inf, -np.inf], "holds infinite values", "2 infinite cells, the first at row 40"),
            (None, "is constant", None),
            (np.nan, "has no values: all cells are missing", None),
        ],
    )
    def test_columns_without_one_are_refused(self, role, bad, problem, found):
        frame = pd.DataFrame({"a": RANDOM.normal(98765.4, 1.0, 60), "b": RANDOM.normal(98765.4, 1.0, 60)})
        name = {"feature": "a", "target": "b"}[role]
        schema = infer_schema(frame, "b")
        if isinstance(bad, list):
            frame.loc[[40, 50], name] = bad
        else:
            frame[name] = 98765.4 if bad is None else bad
        with pytest.raises(SchemaError) as caught:
            Encoder.fit(frame, schema)
        error = caught.value
        assert error.problem == f"column '{name}' {problem}"
        assert error.found == found
        assert error.where == f"columns.{role}"
        assert error.expected
        assert error.remedy
        assert "98765" not in str(error)


class TestEncode:
    def test_cells_are_standardised_features_first(self):
        problem = mixed_table(targets=2)
        encoder = problem.backbone.encoder
        encoded = encoder.encode(problem.frame, "float64")
        assert problem.schema.cells == ["speed", "pressure", "density", "y0", "y1"]
        for at, name in enumerate(problem.schema.cells):
            expected = (problem.frame[name] - encoder.scales[at].center) / encoder.scales[at].spread
            np.testing.assert_allclose(encoded.cells[:, at], expected, rtol=1e-12)
        assert encoded.present.all()
        assert encoder.encode(problem.frame).cells.dtype == np.float32
        assert encoded.context.shape == (len(problem.frame), encoder.context_width)

    def test_context_is_numbers_seconds_and_one_indicator_a_level(self):
        frame = pd.DataFrame(
            {
                "code": [1, 2, 3] * 20,
                "kind": ["b", "a", None] * 20,
                "flag": pd.array([True, None, False] * 20, dtype="boolean"),
                "when": pd.Timestamp("2024-03-30", tz="UTC") + pd.to_timedelta(np.arange(60) % 7, "h"),
                "same": [5.0] * 60,
                "one": ["only"] * 60,
                "x": np.where(np.arange(60) == 4, np.nan, RANDOM.normal(size=60)),
                "y": RANDOM.normal(size=60),
            }
        )
        encoder = Encoder.fit(frame, infer_schema(frame, "y", frozen=["flag"]))
        assert [(one.name, one.kind, one.levels) for one in encoder.contexts] == [
            ("code", "number", ()),
            ("kind", "category", ("a", "b")),
            ("flag", "number", ()),
            ("when", "time", ()),
        ]
        context = encoder.encode(frame, "float64").context
        assert context.shape == (60, 6) == (60, encoder.context_width)
        assert context[:3, 1:3].tolist() == [[0, 1], [1, 0], [0, 0]]
        hours = np.arange(60) % 7
        np.testing.assert_allclose(context[:, 4], (hours - hours.mean()) / hours.std(), atol=1e-12)
        assert np.flatnonzero(context[:, 5]).tolist() == [4]
        assert context[1, 3] == encoder.contexts[2].scale.imputed

    def test_of_many_levels_the_frequent_ones_get_an_indicator(self):
        levels = [f"level {min(at, 99 - at) if at < 90 else 99}" for at in range(100)] * 2
        frame = pd.DataFrame({"kind": levels, "x": RANDOM.normal(size=200), "y": RANDOM.normal(size=200)})
        encoder = Encoder.fit(frame, infer_schema(frame, "y", frozen=["kind"]))
        assert len(encoder.contexts[0].levels) == 32
        assert "level 99" in encoder.contexts[0].levels

    def test_levels_never_seen_and_values_that_are_not_finite_are_context_too(self):
        frame = pd.DataFrame({"kind": ["a", "b"] * 30, "code": [1.0, 2.0] * 30, "x": RANDOM.normal(size=60)})
        frame["y"] = frame["x"] + 1
        encoder = Encoder.fit(frame, infer_schema(frame, "y", frozen=["code"]))
        context = encoder.encode(frame.assign(kind="c", code=np.inf), "float64").context
        assert np.isfinite(context).all()
        assert (context[:, :2] == 0).all()
        assert (context[:, 2] == encoder.contexts[1].scale.imputed).all()

    def test_missing_cells_of_a_table_are_put_on_the_median(self):
        problem = mixed_table(missing=True)
        encoder = problem.backbone.encoder
        encoded = encoder.encode(problem.frame, "float64")
        hole = problem.frame["pressure"].isna().to_numpy()
        assert hole.any()
        assert (encoded.cells[hole, 1] == encoder.scales[1].imputed).all()
        assert encoded.present[:, 1].tolist() == (~hole).tolist()
        assert encoder.flagged == ("pressure", "density")

    def test_missing_cells_of_a_series_are_interpolated_within_their_entity(self):
        problem = mixed_series(entities=2, steps=40)
        frame = problem.frame.copy()
        own = np.flatnonzero(frame["site"] == "site 1")
        frame.loc[[own[0], own[5], own[6], own[-1]], "wind"] = np.nan
        encoder = Encoder.fit(frame, problem.schema)
        found = encoder.encode(frame, "float64").cells[:, 0] * encoder.scales[0].spread + encoder.scales[0].center
        wind = frame["wind"].to_numpy()
        low, high = wind[own[4]], wind[own[7]]
        expected = [wind[own[1]], low + (high - low) / 3, low + (high - low) * 2 / 3, wind[own[-2]]]
        np.testing.assert_allclose(found[[own[0], own[5], own[6], own[-1]]], expected, rtol=1e-9)

    def test_a_column_without_any_value_is_put_on_the_median_of_the_fitted_one(self):
        problem = mixed_series()
        cells = problem.backbone.encoder.encode(problem.frame.assign(wind=np.nan), "float64").cells
        assert (cells[:, 0] == problem.backbone.encoder.scales[0].imputed).all()

    def test_columns_are_found_by_name(self):
        problem = mixed_table(targets=2, missing=True)
        encoder = problem.backbone.encoder
        backwards = problem.frame[problem.frame.columns[::-1]].assign(more=1)
        expected, found = encoder.encode(problem.frame), encoder.encode(backwards)
        assert expected.cells.tobytes() == found.cells.tobytes()
        assert expected.context.tobytes() == found.context.tobytes()


class TestColumnsThatDoNotFit:
    @pytest.mark.parametrize("name", ["pressure", "rooms", "kind", "y0"])
    def test_a_column_that_is_gone(self, name):
        problem = mixed_table()
        with pytest.raises(SchemaError) as caught:
            problem.backbone.encoder.encode(problem.frame.drop(columns=name))
        assert f"'{name}'" in caught.value.problem

    @pytest.mark.parametrize("name", ["pressure", "y0"])
    @pytest.mark.parametrize("column", [["SECRET"] * 70, [True, False] * 35, pd.Series([None, "SECRET"] * 35)])
    def test_a_measured_column_that_is_no_number_any_more(self, name, column):
        problem = mixed_table()
        with pytest.raises(SchemaError) as caught:
            problem.backbone.encoder.encode(problem.frame.assign(**{name: column}))
        assert f"'{name}'" in caught.value.problem
        assert "SECRET" not in str(caught.value)

    def test_a_column_that_is_there_twice(self):
        problem = mixed_table()
        with pytest.raises(SchemaError, match="'speed'"):
            problem.backbone.encoder.encode(pd.concat([problem.frame, problem.frame[["speed"]]], axis=1))


class TestRestore:
    @MODEST
    @given(samples())
    def test_a_shift_of_zero_returns_the_same_bits(self, sample):
        encoder = Encoder.fit(sample.frame, sample.schema)
        restored = encoder.restore(sample.frame, np.zeros((len(sample.frame), len(sample.schema.cells)), "float32"))
        assert_faithful(sample, restored)
        for name in sample.schema.cells:
            column, values = sample.schema[name], sample.frame[name]
            legal = values.isna()
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
            legal |= (numbers >= (column.minimum or -np.inf)) & (numbers <= (column.maximum or np.inf))
            assert_same_cells(values[legal.to_numpy()], restored[name][legal.to_numpy()])

    @MODEST
    @given(samples(), st.sampled_from([0.01, 1.0, 1e3]), st.sampled_from(["float32", "float64"]))
    def test_any_shift_keeps_types_index_missing_and_untouched_cells(self, sample, size, dtype):
        random = np.random.default_rng(sample.seed)
        encoder = Encoder.fit(sample.frame, sample.schema)
        before = sample.frame.copy(deep=True)
        shift = random.normal(0.0, size, (len(before), len(sample.schema.cells))).astype(dtype)
        shift[random.random(shift.shape) < 0.3] = 0.0
        restored = encoder.restore(sample.frame, shift)
        assert_faithful(sample, restored)
        for name in before.columns:
            assert_same_cells(before[name], sample.frame[name])
        for at, name in enumerate(sample.schema.cells):
            column, values = sample.schema[name], before[name].to_numpy(dtype=np.float64, na_value=np.nan)
            if not column.refined:
                continue
            step = shift[:, at].astype(np.float64) * encoder.scales[at].spread
            low, high = column.minimum, column.maximum
            if column.integer:
                step = np.round(step)
                limits = np.iinfo(str(before[name].dtype).lower())
                low = limits.min if low is None else max(np.ceil(low), limits.min)
                high = limits.max if high is None else min(np.floor(high), limits.max)
            expected = np.clip(values + step, low, high)
            tolerance = 1e-6 if before[name].dtype == np.float32 else 1e-12
            found = restored[name].to_numpy(dtype=np.float64, na_value=np.nan)
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)

    def test_whole_numbers_end_at_the_limits_of_their_type(self):
        for dtype in ("int8", "uint8", "Int8", "UInt8"):
            values = pd.array(np.arange(60), dtype=dtype)
            encoder, frame = one_feature(values)
            limits = np.iinfo(dtype.lower())
            for shift, end in ((1e6, limits.max), (-1e6, limits.min)):
                restored = encoder.restore(frame, np.full((60, 2), shift))
                assert restored["x"].dtype == frame["x"].dtype
                assert (restored["x"] == end).all()

    @pytest.mark.parametrize("shift", [1e30, -1e30])
    def test_wide_whole_numbers_do_not_wrap(self, shift):
        encoder, frame = one_feature(np.arange(60))
        restored = encoder.restore(frame, np.full((60, 2), shift))["x"]
        assert restored.dtype == np.int64
        assert (np.sign(restored) == np.sign(shift)).all()

    def test_large_whole_numbers_that_stay_keep_every_digit(self):
        values = 2**60 + 1001 * np.arange(60)
        encoder, frame = one_feature(values)
        shift = np.zeros((60, 2))
        shift[7, 0] = 1.0
        restored = encoder.restore(frame, shift)["x"]
        assert restored.drop(index=7).tolist() == np.delete(values, 7).tolist()
        assert restored[7] > values[7]

    @pytest.mark.parametrize("bounds", [(-0.1, 0.1), (0.3, 0.7), (1 / 3, 2 / 3)])
    def test_bounds_hold_in_single_precision(self, bounds):
        encoder, frame = one_feature(RANDOM.normal(size=60).astype("float32"), x=bounds)
        for shift in (-5.0, 5.0):
            restored = encoder.restore(frame, np.full((60, 2), shift))["x"]
            assert restored.dtype == np.float32
            assert restored.astype("float64").between(*bounds).all()

    def test_cells_that_were_out_of_bounds_are_put_on_them_and_the_others_stay(self):
        values = RANDOM.normal(size=60)
        encoder, frame = one_feature(values, x=(-0.5, 1.0))
        restored = encoder.restore(frame, np.zeros((60, 2)))["x"]
        np.testing.assert_array_equal(restored, np.clip(values, -0.5, 1.0))

    def test_a_target_that_does_not_move_is_untouched(self):
        frame = pd.DataFrame({"x": RANDOM.normal(size=60), "grade": np.arange(60) % 3})
        encoder = Encoder.fit(frame, infer_schema(frame, "grade"))
        restored = encoder.restore(frame, np.ones((60, 2)))
        assert_same_cells(frame["grade"], restored["grade"])
        assert (restored["x"] != frame["x"]).all()

    @pytest.mark.parametrize("dtype", ["double[pyarrow]", "float[pyarrow]", "int64[pyarrow]", "int16[pyarrow]"])
    def test_columns_kept_by_arrow(self, dtype):
        values = pd.Series(np.round(RANDOM.normal(0, 30, 60)), dtype=dtype)
        values[[4, 9]] = pd.NA
        encoder, frame = one_feature(values)
        shift = np.ones((60, 2))
        shift[:10] = 0
        restored = encoder.restore(frame, shift)["x"]
        assert restored.dtype == values.dtype
        assert restored.isna().tolist() == values.isna().tolist()
        assert restored[:10].equals(frame["x"][:10])
        step = encoder.scales[0].spread
        expected = values[10:].astype("float64") + (np.round(step) if "int" in dtype else step)
        np.testing.assert_allclose(restored[10:].astype("float64"), expected, rtol=1e-6)


class TestPlainData:
    @pytest.mark.parametrize("problem", [mixed_table(targets=2, missing=True), mixed_series(entities=2)])
    def test_goes_through_json_and_back(self, problem):
        encoder = problem.backbone.encoder
        again = Encoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
        assert again == encoder
        assert again.encode(problem.frame).cells.tobytes() == encoder.encode(problem.frame).cells.tobytes()

    def test_limits_are_standardised(self):
        schema = Schema((Column("x", Role.FEATURE, refined=True, minimum=1.0), Column("y", Role.TARGET, maximum=9.0)))
        low, high = Encoder(schema, (Scale(3.0, 2.0), Scale(1.0, 4.0)), (), ()).limits()
        assert low.tolist() == [-1.0, -np.inf]
        assert high.tolist() == [np.inf, 2.0]

    def test_the_time_axis_is_no_context(self):
        problem = mixed_series()
        assert isinstance(problem.schema.series, Series)
        assert "time" not in [one.name for one in problem.backbone.encoder.contexts]
