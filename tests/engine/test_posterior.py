"""The rule `posterior` as a whole: it recovers what is known to be there, and touches nothing else."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from denograd_engine import Series, add_gaussian_noise, infer_schema, recovery
from denograd_engine.errors import ConfigError, SchemaError, TooFewRowsError
from denograd_engine.noise import FORGOTTEN, add_noise
from denograd_engine.posterior.departures import Departure
from denograd_engine.posterior.model import fit_posterior
from denograd_engine.posterior.refining import clean
from denograd_engine.posterior.saving import from_plain, to_plain
from denograd_engine.posterior.task import RIDGES, Fit

QUICK = Fit(folds=3, hidden=16, fewest_steps=40, most_steps=40)
NOISE = 0.4
NAMES = ("a", "b", "c", "d", "y")


def factors(rows=600, seed=0):
    """Five columns that two factors explain, a frozen category, and an exact one that nothing has to do with."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(rows, 2))
    frame = pd.DataFrame(hidden @ generator.normal(size=(2, 5)), columns=list(NAMES)) * [1, 10, 0.1, 1, 100] + 3
    return frame.assign(kind=np.where(hidden[:, 0] > 0, "p", "q"), exact=generator.normal(size=rows))


def waves(steps=700):
    time = np.arange(steps)
    frame = pd.DataFrame({"a": np.sin(time / 9), "b": np.cos(time / 9), "y": np.sin(time / 9 + 1)})
    return frame.assign(time=pd.date_range("2024-01-01", periods=steps, freq="h"))


def roles(frame, names=NAMES, spread=NOISE, **more):
    return infer_schema(frame, target="y", noise={name: spread * float(frame[name].std()) for name in names}, **more)


@pytest.fixture(scope="module")
def table():
    """Clean, noisy, schema, model, result."""
    truth = factors()
    noisy = add_gaussian_noise(truth, NAMES, NOISE, seed=1)
    schema = roles(truth)
    model = fit_posterior(noisy, schema, QUICK, "cpu")
    return truth, noisy, schema, model, clean(noisy, model, "cpu")


class TestTable:
    def test_features_and_targets_are_recovered(self, table):
        truth, noisy, _, _, result = table
        found = recovery(truth, noisy, result.frame, NAMES[:4], ["y"])
        assert found.features < 0.8
        assert found.targets < 0.8

    def test_the_intervals_hold_the_truth_as_often_as_they_say(self, table):
        truth, _, _, _, result = table
        inside = (result.frame[list(NAMES)] - truth[list(NAMES)]).abs() <= 1.645 * result.std
        assert 0.84 <= inside.to_numpy().mean() <= 0.96

    def test_the_correction_is_as_large_as_noise_and_posterior_imply(self, table):
        columns = table[4].columns
        assert ((columns["correction"] / columns["expected"]).between(0.85, 1.15)).all()

    def test_columns_without_noise_are_what_they_were(self, table):
        _, noisy, _, model, result = table
        assert model.refined == NAMES
        for name in ("kind", "exact"):
            pd.testing.assert_series_equal(result.frame[name], noisy[name])
        assert list(result.std.columns) == list(NAMES)

    def test_rows_without_a_target_are_refined_from_what_is_there(self, table):
        truth, noisy, _, model, _ = table
        fresh = add_gaussian_noise(factors(seed=0).iloc[::-1].reset_index(drop=True), NAMES, NOISE, seed=5)
        result = clean(fresh.assign(y=np.nan), model, "cpu")
        found = recovery(truth.iloc[::-1].reset_index(drop=True), fresh, result.frame, NAMES[:4], [])
        assert found.features < 0.85
        assert result.frame["y"].isna().all()
        assert result.rows["residual_before"].isna().all()
        assert noisy["y"].notna().all()

    def test_missing_cells_stay_missing_and_the_rest_is_refined(self, table):
        truth, noisy, _, model, _ = table
        holes = noisy.copy()
        holes.loc[::3, "b"] = np.nan
        result = clean(holes, model, "cpu")
        assert result.frame["b"].isna().equals(holes["b"].isna())
        assert result.std["b"].isna().equals(holes["b"].isna())
        assert recovery(truth, noisy, result.frame, ["a", "c", "d"], ["y"]).cells < 0.85

    def test_draws_keep_the_spread_that_means_lose(self, table):
        truth, noisy, _, model, result = table
        drawn = clean(noisy, model, "cpu", draw=3).frame
        again = clean(noisy, model, "cpu", draw=3).frame
        pd.testing.assert_frame_equal(drawn, again)
        for name in NAMES:
            assert drawn[name].std() == pytest.approx(truth[name].std(), rel=0.06)
            assert result.frame[name].std() < drawn[name].std()

    def test_the_data_are_not_changed(self, table):
        _, noisy, _, model, _ = table
        before = noisy.copy()
        clean(noisy, model, "cpu")
        pd.testing.assert_frame_equal(noisy, before)

    def test_every_row_says_what_became_of_it(self, table):
        _, noisy, _, _, result = table
        assert (result.rows["status"] == "refined").all()
        assert (result.rows["residual_after"].abs() < result.rows["residual_before"].abs()).mean() > 0.9
        assert result.totals.rows == result.totals.moved == len(noisy)
        assert 0 < result.totals.eta < 1

    def test_noise_that_proves_to_be_less_changes_what_is_said_not_what_the_networks_are_asked(self, table):
        model = table[3]
        less = replace(model.columns["a"], noise=0.5 * model.columns["a"].noise)
        lowered = replace(model, columns={**model.columns, "a": less})
        on = torch.device("cpu")
        assert torch.equal(lowered.task(on).noise, model.task(on).noise)
        assert (lowered.errors / model.errors).tolist() == [0.5, 1, 1, 1, 1]

    def test_it_comes_back_from_plain_data_and_tensors(self, table):
        _, noisy, _, model, result = table
        plain, tensors = to_plain(model)
        again = clean(noisy, from_plain(plain, tensors, model.encoder), "cpu")
        pd.testing.assert_frame_equal(again.frame, result.frame)
        pd.testing.assert_frame_equal(again.std, result.std)
        del tensors["0.covariance"]
        with pytest.raises(ConfigError, match="damaged"):
            from_plain(plain, tensors, model.encoder)


class TestFitting:
    @pytest.mark.parametrize("threads", [1, 2])
    def test_the_same_seed_gives_the_same_bytes(self, table, threads):
        _, noisy, schema, _, result = table
        before = torch.get_num_threads()
        state = torch.get_rng_state()
        try:
            torch.set_num_threads(threads)
            again = clean(noisy, fit_posterior(noisy, schema, QUICK, "cpu"), "cpu")
        finally:
            torch.set_num_threads(before)
        pd.testing.assert_frame_equal(again.frame, result.frame, rtol=1e-4 if threads != before else 0)
        assert torch.equal(torch.get_rng_state(), state)

    def test_progress_is_told_in_the_callers_thread(self, table):
        _, noisy, schema, _, _ = table
        told = []
        fit_posterior(noisy, schema, QUICK, "cpu", lambda *given: told.append((*given, threading.current_thread())))
        assert told[-1][0] == 1.0
        assert all(np.isfinite(loss) and thread is threading.main_thread() for _, loss, thread in told)

    def test_an_exception_of_the_listener_ends_it(self, table):
        _, noisy, schema, _, _ = table

        def interrupt(*_):
            raise KeyboardInterrupt

        long = Fit(folds=2, hidden=16, fewest_steps=100_000, most_steps=100_000)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            with pytest.raises(KeyboardInterrupt):
                fit_posterior(noisy, schema, long, "cpu", interrupt)
        finally:
            torch.set_num_threads(before)

    def test_without_declared_noise_there_is_nothing_to_take_out(self):
        frame = factors(100)
        with pytest.raises(SchemaError, match="no column has declared noise"):
            fit_posterior(frame, infer_schema(frame, target="y"), QUICK, "cpu")

    def test_too_few_rows_are_refused(self):
        frame = factors(30)
        with pytest.raises(TooFewRowsError):
            fit_posterior(frame, roles(frame), QUICK, "cpu")

    def test_noise_beyond_what_the_data_allow_is_cut_off(self):
        frame = factors()
        model = fit_posterior(frame, roles(frame, names=["a"], spread=5.0), QUICK, "cpu")
        assert model.columns["a"].noise <= model.columns["a"].bound < 0.5 * frame["a"].std()

    @pytest.mark.parametrize(("kind", "evident"), [("gaussian", (0, 0)), ("laplace", (3, 5))])
    def test_heavy_tails_of_the_noise_are_found_and_do_not_pass_for_signal(self, kind, evident):
        truth = factors(1500)
        noisy = add_noise(truth, NAMES, NOISE, seed=1, kind=kind)
        model = fit_posterior(noisy, roles(truth), QUICK, "cpu")
        found = [model.columns[name].departure for name in NAMES]
        assert set(found) <= {None, Departure.HEAVY}
        assert evident[0] <= found.count(Departure.HEAVY) <= evident[1]
        plain, tensors = to_plain(model)
        again = from_plain(json.loads(json.dumps(plain)), tensors, model.encoder)
        assert [again.columns[name].departure for name in NAMES] == found
        assert {type(one) for one in found} == {type(again.columns[name].departure) for name in NAMES}
        result = clean(noisy, again, "cpu")
        assert recovery(truth, noisy, result.frame, NAMES[:4], ["y"]).features < 0.8
        within = (result.frame[list(NAMES)] - truth[list(NAMES)]).abs() <= 1.645 * result.std
        assert 0.84 < within.to_numpy().mean() < 0.96

    def test_a_column_that_nothing_explains_is_left_alone_or_nearly_so(self):
        generator = np.random.default_rng(0)
        frame = pd.DataFrame(generator.normal(size=(500, 3)), columns=["a", "b", "y"])
        noisy = add_gaussian_noise(frame, ["a"], 0.3, seed=1)
        result = clean(noisy, fit_posterior(noisy, roles(frame, names=["a"], spread=0.3), QUICK, "cpu"), "cpu")
        assert recovery(frame, noisy, result.frame, ["a"], []).features < 1.02

    def test_bounds_and_whole_numbers_are_kept(self):
        frame = factors()
        frame["b"] = (frame["b"] * 10).round().astype("int64")
        noise = {"a": 0.4 * float(frame["a"].std()), "b": 0.4 * float(frame["b"].std())}
        low = float(frame["a"].quantile(0.3))
        schema = infer_schema(frame, target="y", features=["b"], noise=noise, bounds={"a": (low, None)})
        result = clean(frame, fit_posterior(frame, schema, QUICK, "cpu"), "cpu").frame
        assert result["b"].dtype == "int64"
        assert result["a"].min() >= low - 1e-9

    @pytest.mark.parametrize("informs", [True, None], ids=["evidence", "default"])
    def test_classes_stay_and_are_evidence_where_targets_are(self, informs):
        frame = factors().drop(columns="kind").assign(y=lambda table: np.where(table["a"] > 3, "high", "low"))
        noisy = add_gaussian_noise(frame, ["b", "c"], NOISE, seed=0)
        noise = {name: NOISE * float(frame[name].std()) for name in ("b", "c")}
        schema = infer_schema(frame, target="y", noise=noise)
        model = fit_posterior(noisy, schema, replace(QUICK, target_informs=informs), "cpu")
        result = clean(noisy, model, "cpu")
        assert recovery(frame, noisy, result.frame, ["b", "c"], []).features < 0.9
        pd.testing.assert_series_equal(result.frame["y"], noisy["y"])
        turned = clean(noisy.assign(y=np.where(noisy["y"] == "high", "low", "high")), model, "cpu").frame
        assert turned[["b", "c"]].equals(result.frame[["b", "c"]]) == (informs is None)


class TestSeries:
    def test_both_sides_and_the_other_channels_recover_a_series(self):
        truth = waves()
        names = ["a", "b", "y"]
        noisy = add_gaussian_noise(truth, names, NOISE, seed=0)
        schema = roles(truth, names, series=Series("time", window=24))
        model = fit_posterior(noisy, schema, QUICK, "cpu")
        result = clean(noisy, model, "cpu")
        assert recovery(truth, noisy, result.frame, ["a", "b"], ["y"]).cells < 0.5
        assert -1 in model.lags
        assert 1 in model.lags

    def test_the_linear_part_is_as_stiff_as_held_out_steps_want_it(self, monkeypatch):
        steps, names = 500, ("a", "b", "c", "y")
        generator = np.random.default_rng(0)
        walk = generator.normal(size=steps).cumsum()
        truth = pd.DataFrame(dict.fromkeys(names, walk / walk.std())).assign(time=np.arange(steps))
        noisy = truth.assign(**{name: truth[name] + generator.normal(0, 0.5, steps) for name in names})
        schema = infer_schema(noisy, target="y", series=Series("time"), noise=dict.fromkeys(names, 0.5))

        def left(model):
            return recovery(truth, noisy, clean(noisy, model, "cpu").frame, names[:3], ["y"]).cells

        chosen = fit_posterior(noisy, schema, QUICK, "cpu")
        assert {column.ridge for column in chosen.columns.values()} <= set(RIDGES[1:])
        monkeypatch.setattr("denograd_engine.posterior.model.RIDGES", RIDGES[:1])
        assert left(chosen) < 0.85 * left(fit_posterior(noisy, schema, QUICK, "cpu"))

    def test_entities_and_gaps_are_apart_and_rows_come_back_in_order(self):
        one, two = waves(300), waves(300)
        two.loc[150:, "time"] += pd.Timedelta("30D")
        frame = pd.concat([one.assign(site="n"), two.assign(site="s")], ignore_index=True).sort_values("time")
        names = ["a", "b", "y"]
        noisy = add_gaussian_noise(frame, names, NOISE, seed=0)
        schema = roles(frame, names, series=Series("time", window=24, entity=("site",)))
        model = fit_posterior(noisy, schema, QUICK, "cpu")
        result = clean(noisy, model, "cpu")
        assert result.frame.index.equals(noisy.index)
        assert recovery(frame, noisy, result.frame, ["a", "b"], ["y"]).cells < 0.6
        loud = noisy.copy()
        loud.loc[loud["site"] == "s", names] *= 1000.0
        others = (noisy["site"] == "n").to_numpy()
        shifted = clean(loud, model, "cpu").frame
        pd.testing.assert_frame_equal(shifted[others][names], result.frame[others][names])

    def test_noise_of_sensors_that_drift_is_taken_out_where_it_is_declared(self):
        truth, names = waves(1200), ["a", "b", "y"]
        noisy = add_noise(truth, names, NOISE, seed=0, kind="autocorrelated")
        steps = dict.fromkeys(names, FORGOTTEN)
        schema = roles(truth, names, series=Series("time"), noise_correlation=steps)
        model = fit_posterior(noisy, schema, QUICK, "cpu")
        result = clean(noisy, model, "cpu")
        assert recovery(truth, noisy, result.frame, ["a", "b"], ["y"]).cells < 0.6
        inside = (result.frame[names] - truth[names]).abs() <= 1.645 * result.std
        assert 0.8 <= inside.to_numpy().mean() <= 0.97
        assert (result.columns["correction"] / result.columns["expected"]).between(0.8, 1.25).all()
        again = clean(noisy, from_plain(*to_plain(model), model.encoder), "cpu").frame
        pd.testing.assert_frame_equal(again, result.frame)

    def test_where_it_is_not_declared_to_hang_together_the_correction_tells(self):
        truth, names = waves(1200), ["a", "b", "y"]
        noisy = add_noise(truth, names, NOISE, seed=0, kind="autocorrelated")
        model = fit_posterior(noisy, roles(truth, names, series=Series("time")), QUICK, "cpu")
        columns = clean(noisy, model, "cpu").columns
        assert (columns["correction"] < 0.8 * columns["expected"]).all()

    def test_the_newest_steps_need_no_target(self):
        truth = waves()
        names = ["a", "b", "y"]
        noisy = add_gaussian_noise(truth, names, NOISE, seed=0)
        model = fit_posterior(noisy, roles(truth, names, series=Series("time", window=24)), QUICK, "cpu")
        noisy.loc[noisy.index[-50:], "y"] = np.nan
        result = clean(noisy, model, "cpu").frame
        assert result["y"].tail(50).isna().all()
        assert recovery(truth.tail(50), noisy.tail(50), result.tail(50), ["a", "b"], []).features < 0.7

    def test_noise_that_is_not_declared_is_estimated(self):
        truth = waves(2000)
        names = ["a", "b", "y"]
        noisy = add_gaussian_noise(truth, names, NOISE, seed=0)
        schema = infer_schema(truth, target="y", series=Series("time", window=24))
        model = fit_posterior(noisy, schema, QUICK, "cpu")
        for name in names:
            assert model.columns[name].estimated
            assert model.columns[name].noise == pytest.approx(NOISE * truth[name].std(), rel=0.15)
        assert recovery(truth, noisy, clean(noisy, model, "cpu").frame, ["a", "b"], ["y"]).cells < 0.5

    def test_a_series_without_noise_stays_as_it_is(self):
        truth = waves()
        model = fit_posterior(truth, infer_schema(truth, target="y", series=Series("time", window=24)), QUICK, "cpu")
        result = clean(truth, model, "cpu")
        assert model.refined == ()
        pd.testing.assert_frame_equal(result.frame, truth)
        assert (result.rows["status"] == "skipped").all()
        plain, tensors = to_plain(model)
        assert from_plain(plain, tensors, model.encoder).refined == ()
