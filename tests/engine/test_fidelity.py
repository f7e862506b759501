"""Statistics of distortion on changes whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from denograd_engine.evaluate import recovery
from denograd_engine.fidelity import Fidelity, correlation_matrix, measure_fidelity, sliced_wasserstein
from denograd_engine.frames import Encoder
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import infer_schema
from tests.engine.problems import mixed_series, mixed_table


def table(rows=300):
    random = np.random.default_rng(7)
    a, b = random.normal(10.0, 2.0, rows), random.normal(size=rows)
    frame = pd.DataFrame({"a": a, "b": b, "y": a - b + random.normal(size=rows), "code": np.arange(rows) % 3})
    return frame, Encoder.fit(frame, infer_schema(frame, "y"))


def spread(encoder, name):
    return encoder.scales[encoder.schema.cells.index(name)].spread


class TestIdentity:
    @pytest.mark.parametrize(
        "problem", [mixed_table(targets=2, missing=True, frozen_target=True), mixed_series(missing=True)]
    )
    def test_is_perfect(self, problem):
        found = measure_fidelity(problem.frame, problem.frame.copy(), problem.backbone.encoder)
        ones, zeros = (dict.fromkeys(problem.schema.refined, value) for value in (1.0, 0.0))
        assert found.swd == 0
        assert found.rho == pytest.approx(ones)
        assert found.mean_rho == pytest.approx(1.0)
        assert found.mean_drift == zeros
        assert found.std_ratio == ones
        assert found.mean_squared_correction == zeros
        assert (found.correlation_change, found.moved, found.largest_correction) == (0.0, 0.0, 0.0)
        assert found.untouched_identical
        assert found.rows_kept

    def test_is_perfect_where_a_column_has_become_constant(self):
        frame, encoder = table()
        for value in (encoder.scales[0].center, 3.0, 10.1):
            constant = frame.assign(a=value)
            found = measure_fidelity(constant, constant.copy(), encoder)
            assert found.rho == pytest.approx({"a": 1.0, "b": 1.0, "y": 1.0})
            assert found.mean_drift == {"a": 0.0, "b": 0.0, "y": 0.0}
            assert found.std_ratio == pytest.approx({"a": 1.0, "b": 1.0, "y": 1.0}, abs=1e-12)
            assert found.correlation_change == 0.0

    def test_is_perfect_where_a_column_has_lost_all_its_cells(self):
        frame, encoder = table()
        empty = frame.assign(a=np.nan)
        found = measure_fidelity(empty, empty.copy(), encoder)
        assert found.mean_rho == pytest.approx(1.0)
        assert found.swd == 0.0


class TestKnownChanges:
    def test_a_shifted_column_drifts_by_as_much_and_keeps_its_shape(self):
        frame, encoder = table()
        shift = 0.25 * spread(encoder, "a")
        found = measure_fidelity(frame, frame.assign(a=frame["a"] + shift), encoder)
        own = frame["a"].std(ddof=0)
        assert found.mean_drift == pytest.approx({"a": shift / own, "b": 0.0, "y": 0.0}, abs=1e-12)
        assert found.std_ratio == pytest.approx({"a": 1.0, "b": 1.0, "y": 1.0})
        assert found.rho == pytest.approx({"a": 1.0, "b": 1.0, "y": 1.0})
        assert found.largest_correction == pytest.approx(0.25)
        assert found.mean_squared_correction == pytest.approx({"a": 0.0625, "b": 0.0, "y": 0.0}, abs=1e-12)
        assert found.correlation_change == pytest.approx(0.0, abs=1e-12)
        assert found.moved == 1.0

    @pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
    def test_a_stretched_column_has_that_ratio(self, factor):
        frame, encoder = table()
        mean = frame["b"].mean()
        found = measure_fidelity(frame, frame.assign(b=mean + factor * (frame["b"] - mean)), encoder)
        assert found.std_ratio["b"] == pytest.approx(factor)
        assert found.mean_drift["b"] == pytest.approx(0.0, abs=1e-12)
        assert found.rho["b"] == pytest.approx(1.0)

    def test_correlations_are_pearsons(self):
        frame, encoder = table()
        random = np.random.default_rng(0)
        refined = frame.assign(a=frame["a"] + random.normal(size=300), y=random.normal(size=300))
        found = measure_fidelity(frame, refined, encoder)
        for name in ("a", "b", "y"):
            assert found.rho[name] == pytest.approx(np.corrcoef(frame[name], refined[name])[0, 1])
        assert found.mean_rho == pytest.approx(np.mean([found.rho[name] for name in ("a", "b", "y")]))
        pairs = [("a", "b"), ("a", "y"), ("b", "y")]
        change = [np.corrcoef(refined[i], refined[j])[0, 1] - np.corrcoef(frame[i], frame[j])[0, 1] for i, j in pairs]
        assert found.correlation_change == pytest.approx(np.abs(change).mean())

    def test_a_column_turned_upside_down_has_rho_minus_one(self):
        frame, encoder = table()
        assert measure_fidelity(frame, frame.assign(a=-frame["a"]), encoder).rho["a"] == pytest.approx(-1.0)

    def test_a_column_flattened_has_rho_zero(self):
        frame, encoder = table()
        found = measure_fidelity(frame, frame.assign(a=frame["a"].mean()), encoder)
        assert found.rho["a"] == pytest.approx(0.0, abs=1e-6)
        assert found.std_ratio["a"] == pytest.approx(0.0, abs=1e-12)

    def test_a_constant_column_that_moved_is_no_small_drift(self):
        frame, encoder = table()
        constant = frame.assign(a=10.0)
        random = np.random.default_rng(0)
        moved = 10.5 + random.normal(size=300)
        found = measure_fidelity(constant, constant.assign(a=moved), encoder)
        unit = spread(encoder, "a")
        assert found.mean_drift["a"] == pytest.approx((moved.mean() - 10.0) / unit)
        assert found.std_ratio["a"] == pytest.approx(1 + moved.std() / unit)
        assert abs(found.rho["a"]) < 0.2

    def test_rows_that_moved_are_counted_once(self):
        frame, encoder = table()
        refined = frame.copy()
        refined.loc[:29, "a"] += 1.0
        refined.loc[20:44, "b"] -= 5.0 * spread(encoder, "b")
        found = measure_fidelity(frame, refined, encoder)
        assert found.moved == pytest.approx(45 / 300)
        assert found.largest_correction == pytest.approx(5.0)

    def test_missing_cells_weigh_nothing(self):
        frame, encoder = table()
        holed, refined = frame.copy(), frame.assign(a=frame["a"] + spread(encoder, "a"))
        holed.loc[:149, "a"] = refined.loc[:149, "a"] = np.nan
        found = measure_fidelity(holed, refined, encoder)
        assert found.mean_squared_correction["a"] == pytest.approx(0.5)
        assert found.moved == 0.5

    @pytest.mark.parametrize("dtype", ["Int64", "Int16", "Float64", "float32", "int64"])
    def test_does_not_depend_on_the_type(self, dtype):
        frame, _ = table()
        frame["a"] = np.round(10 * frame["a"])
        encoder = Encoder.fit(frame, infer_schema(frame, "y"))
        refined = frame.assign(a=frame["a"] + np.arange(300) % 4)
        expected = measure_fidelity(frame, refined, encoder)
        found = measure_fidelity(frame.astype({"a": dtype}), refined.astype({"a": dtype}), encoder)
        assert found == expected

    def test_of_a_refinement_it_is_small_and_honest(self):
        problem = mixed_table(targets=2, missing=True)
        result = refine(problem.frame, problem.backbone, Refining(eta=0.02, max_epochs=5, device="cpu"))
        found = measure_fidelity(problem.frame, result.frame, problem.backbone.encoder)
        assert found.moved == pytest.approx(result.totals.moved / 70)
        assert 0 < found.largest_correction <= 0.1 + 1e-9
        squares = sum(found.mean_squared_correction.values()) * 70
        assert squares == pytest.approx((result.rows["correction"] ** 2).sum())
        assert found.untouched_identical


class TestSlicedWasserstein:
    def test_is_the_same_every_time(self):
        random = np.random.default_rng(0)
        one, other = random.normal(size=(200, 3)), random.normal(size=(200, 3))
        assert sliced_wasserstein(one, other) == sliced_wasserstein(one, other) > 0

    def test_of_the_same_rows_in_another_order_is_zero(self):
        one = np.random.default_rng(0).normal(size=(200, 3))
        assert sliced_wasserstein(one, one[::-1]) == pytest.approx(0.0, abs=1e-9)

    @pytest.mark.parametrize("width", [1, 2, 5])
    def test_of_a_shift_is_its_length_over_the_root_of_the_width(self, width):
        one = np.random.default_rng(0).normal(size=(400, width))
        shift = np.zeros(width)
        shift[0] = 0.7
        assert sliced_wasserstein(one, one + shift) == pytest.approx(0.7 / np.sqrt(width), rel=0.12)

    def test_of_one_column_is_exact(self):
        one = np.array([[0.0], [1.0], [2.0]])
        other = np.array([[5.0], [1.0], [0.0]])
        assert sliced_wasserstein(one, other) == pytest.approx(np.sqrt(9 / 3))


class TestUntouched:
    def change(self, values, at, value, dtype=None):
        frame, _ = table()
        frame["kept"] = pd.Series(values, dtype=dtype)
        encoder = Encoder.fit(frame, infer_schema(frame, "y", frozen=["kept"]))
        changed = frame.copy()
        changed.loc[at, "kept"] = value
        return measure_fidelity(frame, changed, encoder).untouched_identical

    def test_the_sign_of_zero_counts(self):
        assert not self.change(np.zeros(300), 5, -0.0)
        assert self.change(np.zeros(300), 5, 0.0)

    def test_a_missing_cell_is_equal_to_itself(self):
        values = np.where(np.arange(300) % 7, np.arange(300.0), np.nan)
        assert self.change(values, 0, np.nan)
        assert not self.change(values, 0, 0.0)
        assert not self.change(values, 1, np.nan)

    def test_the_payload_of_nan_counts(self):
        payload = np.array([0x7FF8000000000123], dtype=np.uint64).view(np.float64)[0]
        assert np.isnan(payload)
        values = np.where(np.arange(300) % 7, np.arange(300.0), payload)
        assert self.change(values, 1, 1.0)
        frame, _ = table()
        frame["kept"] = values
        encoder = Encoder.fit(frame, infer_schema(frame, "y", frozen=["kept"]))
        other = frame.assign(kept=np.where(np.isnan(values), np.nan, values))
        assert not measure_fidelity(frame, other, encoder).untouched_identical
        assert measure_fidelity(other, other.copy(), encoder).untouched_identical

    @pytest.mark.parametrize(
        ("values", "value", "dtype"),
        [
            (np.arange(300), 1, "int64"),
            (np.arange(300), pd.NA, "Int64"),
            (np.arange(300) % 2 == 0, False, "boolean"),
            (["a", "b", None] * 100, "b", "category"),
            (["a", "b", None] * 100, None, "str"),
            (["a", "b", None] * 100, "A", object),
            (pd.date_range("2024-03-30", periods=300, tz="UTC"), pd.NaT, None),
        ],
    )
    def test_any_changed_cell_is_seen_whatever_the_type(self, values, value, dtype):
        assert not self.change(values, 0, value, dtype)
        same = pd.Series(values, dtype=dtype)[0]
        assert self.change(values, 0, same, dtype)

    def test_a_changed_type_is_seen(self):
        frame, encoder = table()
        changed = frame.astype({"code": "int32"})
        assert not measure_fidelity(frame, changed, encoder).untouched_identical

    def test_ignored_columns_count_too(self):
        frame, _ = table()
        frame["note"] = [f"note {at}" for at in range(300)]
        encoder = Encoder.fit(frame, infer_schema(frame, "y"))
        changed = frame.assign(note=frame["note"].where(frame.index != 7, "other"))
        assert not measure_fidelity(frame, changed, encoder).untouched_identical


class TestOtherRows:
    @pytest.mark.parametrize(
        "change",
        [
            lambda frame: frame.head(299),
            lambda frame: frame.iloc[::-1],
            lambda frame: frame[["b", "a", "y", "code"]],
            lambda frame: frame.set_axis(range(1, 301)),
        ],
    )
    def test_are_not_compared(self, change):
        frame, encoder = table()
        with pytest.raises(ValueError, match="same rows and columns"):
            measure_fidelity(frame, change(frame), encoder)


def test_a_constant_column_correlates_with_nothing():
    values = np.column_stack([np.arange(5.0), np.ones(5), -np.arange(5.0)])
    np.testing.assert_allclose(correlation_matrix(values), [[1, 0, -1], [0, 0, 0], [-1, 0, 1]], atol=1e-12)
    assert correlation_matrix(np.arange(5.0)[:, None]).tolist() == [[1.0]]


def test_the_result_is_one_object():
    frame, encoder = table()
    assert isinstance(measure_fidelity(frame, frame, encoder), Fidelity)


def test_recovery_is_one_where_nothing_and_zero_where_everything_is_recovered():
    clean, _ = table()
    random = np.random.default_rng(3)
    noisy = clean.assign(a=clean["a"] + random.normal(size=300), y=clean["y"] + random.normal(size=300))
    nothing, everything = (recovery(clean, noisy, refined, ["a"], ["y"]) for refined in (noisy, clean))
    assert (nothing.features, nothing.targets, nothing.cells) == (1.0, 1.0, 1.0)
    assert (everything.features, everything.targets, everything.cells) == (0.0, 0.0, 0.0)
    half = recovery(clean, noisy, noisy.assign(a=clean["a"]), ["a"], ["y"])
    assert (half.features, half.targets) == (0.0, 1.0)
    assert 0 < half.cells < 1
    assert np.isnan(recovery(clean, clean, clean, [], ["y"]).features)
