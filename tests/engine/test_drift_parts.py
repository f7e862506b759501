"""The parts of the watch against closed forms, and against scipy."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.signal import lfilter

from denograd_engine.drift.alternatives import alternatives
from denograd_engine.drift.bins import BINS, bins_of, watched
from denograd_engine.drift.comparison import compare, corrected
from denograd_engine.drift.dependence import dependence
from denograd_engine.drift.joint import SHARPNESS, compare_jointly, rows_compared
from denograd_engine.drift.profile import Profile, profile_of
from denograd_engine.drift.scores import normal_scores
from denograd_engine.drift.verdict import Finding, Kind
from denograd_engine.errors import ConfigError, SchemaError, TooFewRowsError
from denograd_engine.fidelity import sliced_wasserstein
from denograd_engine.schema import Schema, Series, infer_schema


def normal(rows, columns, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    return pd.DataFrame(values, columns=["y", *(f"x{at}" for at in range(1, columns))])


def profiled(frame, residuals=None, series=None):
    return profile_of(frame, infer_schema(frame, "y", series=series), residuals)


def memory(rows, coefficient, seed=0):
    shocks = np.random.default_rng(seed).normal(size=rows + 500)
    return lfilter([1.0], [1.0, -coefficient], shocks)[500:] * np.sqrt(1 - coefficient**2)


class TestBins:
    def test_a_bin_holds_its_upper_cut_and_missing_cells_have_their_own(self):
        column = bins_of("a", pd.Series([1, 2, 2, 3] * 20))
        places, _ = column.place(pd.Series([1.0, 2.0, 3.0, np.nan, 0.0, 1.5, 99.0]))
        assert column.cuts == (1.0, 2.0, 3.0)
        assert places.tolist() == [1, 2, 3, 0, 1, 2, 4]

    def test_whole_numbers_and_fractions_are_counted_alike(self):
        column = bins_of("a", pd.Series([1, 2, 2, 3] * 20))
        for dtype in ("int8", "Int64", "float32", "Float64"):
            assert column.place(pd.Series([1, 3], dtype=dtype))[0].tolist() == [1, 3]

    def test_a_constant_tells_below_equal_and_above(self):
        column = bins_of("a", pd.Series([7.5] * 20 + [np.nan]))
        assert not column.ordered
        assert column.place(pd.Series([7.5, 7.4, 7.6, np.nan]))[0].tolist() == [2, 1, 3, 0]

    def test_categories_that_were_not_seen_or_are_rare_are_counted_together(self):
        column = bins_of("a", pd.Series([f"level {at:02}" for at in range(40) for _ in range(40 - at)]))
        assert len(column.levels) == 31
        assert column.used == BINS
        places, _ = column.place(pd.Series(["level 00", "level 30", "level 31", "new", None]))
        assert places.tolist() == [1, 31, 32, 32, 0]

    def test_a_gross_outlier_moves_the_mean_by_ten_std_at_most(self):
        column = bins_of("a", pd.Series(np.random.default_rng(0).normal(3.0, 2.0, 5000)))
        _, units = column.place(pd.Series([3.0, 5.0, -1e9, np.nan]))
        np.testing.assert_allclose(units, [0.0, 1.0, -10.0, 0.0], atol=0.06)

    def test_time_stamps_and_ignored_columns_are_not_watched(self):
        frame = normal(60, 3).assign(when=pd.date_range("2024-01-01", periods=60), note="n")
        schema = infer_schema(frame, "y", ignored=["note"], frozen=["when"])
        assert watched(frame, schema) == ["y", "x1", "x2"]
        with pytest.raises(SchemaError, match="no column to watch"):
            profile_of(frame[["when"]], Schema(tuple(one for one in schema.columns if one.name == "when")))


class TestScores:
    def test_have_mean_zero_and_variance_one_in_the_reference(self):
        for counts in (np.arange(BINS), np.eye(BINS, dtype=int)[3] * 50 + np.eye(BINS, dtype=int)[9] * 7 + 1):
            whole = counts[None].astype(np.int64)
            scores = normal_scores(whole)[:, 0]
            shares = whole[0, 1:] / whole[0, 1:].sum()
            np.testing.assert_allclose(scores[:, 1:] @ shares, 0.0, atol=1e-12)
            np.testing.assert_allclose(np.square(scores[:, 1:]) @ shares, 1.0)
            assert (scores[:, 0] == 0).all()

    def test_in_every_hour_the_mean_is_zero(self):
        counts = np.random.default_rng(0).integers(20, 80, (24, BINS))
        scores = normal_scores(counts)[:, :, 1:]
        whole, rows = counts[:, 1:].sum(axis=0), counts[:, 1:].sum(axis=1, keepdims=True)
        shares = (counts[:, 1:] + 10 * whole / whole.sum()) / (rows + 10)
        np.testing.assert_allclose((scores * shares).sum(axis=2), 0.0, atol=1e-12)

    def test_a_score_that_ties_leave_nothing_of_is_zero(self):
        counts = np.zeros((1, BINS), dtype=np.int64)
        counts[0, [1, 2]] = 50
        scores = normal_scores(counts)
        assert np.ptp(scores[0, 0, 1:3]) == pytest.approx(2.0)
        assert not scores[1].any()


class TestDependence:
    @pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9])
    def test_is_the_sum_of_all_autocorrelations(self, coefficient):
        values = memory(60_000, coefficient)
        found = dependence(values, np.arange(len(values)))
        assert found.inflation == pytest.approx((1 + coefficient) / (1 - coefficient), rel=0.2)
        assert found.reach == pytest.approx(found.inflation - 1, rel=0.05, abs=0.02)

    def test_rows_of_one_step_that_are_alike_count_as_one(self):
        values = np.repeat(memory(30_000, 0.5), 4)
        found = dependence(values, np.arange(0, len(values), 4))
        assert found.inflation == pytest.approx(4 * 3, rel=0.15)

    def test_rows_that_make_up_for_each_other_count_one_each(self):
        assert dependence(np.resize([1.0, -1.0], 1000), np.arange(1000)).inflation == pytest.approx(1.0)
        assert dependence(np.zeros(100), np.arange(100)).inflation == 1.0

    def test_subjects_of_whom_each_has_many_rows_count_once_each(self):
        subjects = np.random.default_rng(0).normal(size=400)
        inflation = dependence(np.repeat(subjects, 50), np.arange(20_000)).inflation
        assert inflation == pytest.approx(50, rel=0.25)


class TestAlternatives:
    def test_no_ratio_gains_anything_on_average_while_the_reference_holds(self):
        frame = normal(2000, 3).assign(level=np.resize(["a", "a", "b"], 2000), few=np.resize([0, 1, 1, 2], 2000))
        frame.loc[::9, "x1"] = np.nan
        profile = profiled(frame, {"y": frame["x2"].to_numpy()})
        for at in range(len(profile.columns)):
            found = alternatives(profile, at)
            shares = profile.shares[0, at]
            assert len(found.ratios) == len(found.weights) > 1
            assert np.exp(found.weights).sum() == pytest.approx(1.0)
            assert (np.exp(found.ratios[:, 0]) @ shares <= 1 + 1e-9).all()

    def test_a_shift_pays_for_the_alternative_that_expects_it(self):
        profile = profiled(normal(20_000, 2))
        found = alternatives(profile, 0)
        shifted = profile.columns[0].place(pd.Series(normal(20_000, 1, seed=1)["y"] + 0.3))[0]
        gains = found.ratios[:, 0, :] @ np.bincount(shifted, minlength=BINS) / 20_000
        allowed = 2.5 / np.sqrt(20_000)
        assert gains[0] == pytest.approx(0.12 * (0.3 - allowed) - 0.12**2 / 2, abs=0.004)
        assert gains[0] > 0 > gains[1]


class TestJoint:
    def rows(self, count, seed, scale=1.0):
        values = np.random.default_rng(seed).normal(size=(count, 5)) * scale
        return np.clip(np.rint(SHARPNESS * values), -127, 127).astype(np.int8)

    def test_the_distance_is_the_sliced_wasserstein_distance(self):
        one, other = self.rows(256, 0), self.rows(256, 1, scale=1.4)
        exact = sliced_wasserstein(one / SHARPNESS, other / SHARPNESS)
        assert compare_jointly(other, one, 1, 0).distance == pytest.approx(exact, rel=0.1)

    def test_p_is_uniform_where_nothing_changed(self):
        found = [compare_jointly(self.rows(96, 2 * at), self.rows(96, 2 * at + 1), 1, at).p for at in range(120)]
        assert stats.kstest(found, "uniform").pvalue > 0.01

    def test_p_is_as_small_as_it_can_be_where_much_changed(self):
        assert compare_jointly(self.rows(256, 0), self.rows(256, 1, scale=1.5), 1, 0).p == 1 / 1000

    def test_blocks_keep_rows_with_memory_from_being_taken_for_a_change(self):
        def series(seed):
            values = np.column_stack([memory(512, 0.9, 10 * seed + at) for at in range(3)])
            return np.clip(np.rint(SHARPNESS * values[:480]), -127, 127).astype(np.int8)

        single, blocked = (
            np.mean([compare_jointly(series(2 * at), series(2 * at + 1), block, at).p < 0.05 for at in range(trials)])
            for block, trials in ((1, 6), (40, 20))
        )
        assert single > 0.5
        assert blocked < 0.2

    def test_too_few_blocks_are_not_compared(self):
        assert rows_compared(self.rows(2048, 0), 40) == 480
        assert rows_compared(self.rows(2048, 0), 100) == 0


class TestComparison:
    def found(self, later, reference=None, residuals=None):
        reference = normal(20_000, 2) if reference is None else reference
        return {(one.column, one.kind, one.measure): one for one in compare(profiled(reference), later, residuals)}

    def test_location_and_scale_agree_with_the_t_and_the_f_test(self):
        reference, later = normal(20_000, 2), normal(1000, 2, seed=1)
        later["y"] = 1.08 * later["y"] + 0.08
        profile = profiled(reference)
        raw = {one.kind: one for one in compare(profile, later) if one.column == "y"}
        tests = len(compare(profile, later))
        t = stats.ttest_ind(later["y"], reference["y"]).pvalue
        ratio = np.var(later["y"]) / np.var(reference["y"])
        f = 2 * stats.f.sf(ratio, 999, 19_999)
        assert np.log10(raw[Kind.LOCATION].p / tests) == pytest.approx(np.log10(t), abs=0.7)
        assert np.log10(raw[Kind.SCALE].p / tests) == pytest.approx(np.log10(f), abs=0.9)
        assert raw[Kind.LOCATION].effect == pytest.approx(later["y"].mean() - reference["y"].mean(), abs=0.02)
        assert raw[Kind.SCALE].effect == pytest.approx(np.sqrt(ratio), rel=0.02)

    def test_shape_agrees_with_the_ks_test(self):
        reference, later = normal(20_000, 2), normal(1000, 2, seed=1)
        later["y"] = np.where(later["y"].abs() < 0.7, 0.7 * np.sign(later["y"]), later["y"])
        found = self.found(later, reference)["y", Kind.SHAPE, "KS distance"]
        assert found.effect == pytest.approx(stats.ks_2samp(later["y"], reference["y"]).statistic, abs=0.05)
        assert found.p < 1e-6

    def test_categories_agree_with_chi_squared_and_unseen_ones_count(self):
        random = np.random.default_rng(0)
        reference = normal(20_000, 2).assign(level=random.choice(list("ab"), 20_000, p=[0.6, 0.4]))
        later = normal(500, 2).assign(level=random.choice(list("abc"), 500, p=[0.55, 0.4, 0.05]))
        found = self.found(later, reference)["level", Kind.CATEGORIES, "Cramer's V"]
        table = pd.crosstab(np.repeat(["r", "l"], [20_000, 500]), pd.concat([reference["level"], later["level"]]))
        assert np.log(found.p) == pytest.approx(np.log(stats.chi2_contingency(table).pvalue), rel=0.1)
        assert 0.1 < found.effect < 0.25

    def test_missing_cells_are_a_change_of_their_own(self):
        later = normal(500, 2).assign(x1=lambda frame: frame["x1"].where(frame.index % 5 > 0))
        found = self.found(later)["x1", Kind.MISSING, "change of the share"]
        assert found.effect == pytest.approx(0.2)
        assert found.p < 1e-10

    def test_p_values_are_uniform_without_a_change(self):
        profile = profiled(normal(3000, 2))
        ps = []
        for seed in range(1, 150):
            found = compare(profile, normal(100, 2, seed=seed))
            ps.append(min(one.p for one in found))
        assert np.mean(np.array(ps) < 0.1) < 0.17

    def test_nothing_is_said_of_columns_without_a_cell(self):
        found = self.found(normal(40, 2).assign(x1=np.nan))
        assert {kind for column, kind, _ in found if column == "x1"} == {Kind.MISSING}
        assert compare(profiled(normal(100, 2)), normal(0, 2)) == ()

    def test_holm_is_applied_step_by_step(self):
        given = [Finding(None, Kind.JOINT, "", 0.0, p, 1) for p in (0.04, 0.01, 0.03, 0.5)]
        assert [one.p for one in corrected(given)] == pytest.approx([0.09, 0.04, 0.09, 0.5])


class TestProfile:
    def test_its_size_does_not_grow_with_the_data(self):
        sizes = []
        for rows in (4000, 40_000):
            plain, arrays = profiled(normal(rows, 4)).to_plain()
            sizes.append(len(json.dumps(plain)) + sum(array.nbytes for array in arrays.values()))
        assert sizes[0] == pytest.approx(sizes[1], rel=0.01)

    def test_damaged_ones_are_refused(self):
        plain, arrays = profiled(normal(100, 3)).to_plain()
        for damaged in (({}, arrays), (plain, {}), ({**plain, "columns": plain["columns"][:1]}, arrays)):
            with pytest.raises(ConfigError, match="damaged"):
                Profile.from_plain(*damaged)

    def test_too_few_rows_are_refused(self):
        with pytest.raises(TooFewRowsError, match="too few rows"):
            profiled(normal(49, 2))

    def test_the_frame_stays_as_it_is(self):
        frame = normal(100, 3).assign(level=np.resize(["a", None], 100))
        kept = frame.copy(deep=True)
        profiled(frame)
        pd.testing.assert_frame_equal(frame, kept, check_exact=True)

    @pytest.mark.parametrize(("days", "phases"), [(2, 1), (5, 24)])
    def test_hours_are_told_apart_where_the_series_spans_days(self, days, phases):
        frame = normal(days * 24 + 24, 2)
        frame["time"] = pd.date_range("2024-01-01", periods=len(frame), freq="h")
        frame = frame.iloc[-max(50, days * 24) :]
        assert len(profiled(frame, series=Series("time")).counts) == phases

    def test_numeric_time_has_no_hours(self):
        frame = normal(2000, 2).assign(time=np.arange(2000.0))
        assert profiled(frame, series=Series("time")).clock.phases == 1

    def test_the_engine_brings_no_torch_for_it(self):
        import subprocess
        import sys

        code = "import sys, denograd_engine.drift.watch; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
