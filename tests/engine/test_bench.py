"""The measuring stand: nothing leaks, nothing is computed twice, and known methods get the scores they must."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import friedmanchisquare
from support import make_table

from denograd_engine import DenoGrad, Series, __version__, infer_schema
from denograd_engine.bench import downstream, methods, records
from denograd_engine.bench.case import Case, Denoised, Noise, check, contaminate
from denograd_engine.bench.grid import FORMAT, Grid, Subject
from denograd_engine.bench.methods import Named, Recipe, resolve
from denograd_engine.bench.protocols import measure
from denograd_engine.bench.ranks import rank
from denograd_engine.bench.results import BLOCK, Results, gather
from denograd_engine.bench.runner import run
from denograd_engine.errors import ConfigError, DataError, DenogradError
from denograd_engine.noise import FORGOTTEN

OWN = """
from denograd_engine.bench.case import Denoised

CALLS = []

def half(given, seed):
    names = given.schema.refined
    means = {name: (given.train[name] + given.train[name].mean()) / 2 for name in names}
    return Denoised(given.train.assign(**means), given.test)

def broken(given, seed):
    raise RuntimeError("it does not converge")
"""


def waves(rows=300, entities=1):
    time = np.arange(rows)
    parts = []
    for at in range(entities):
        a = np.sin(time / 10 + at)
        parts.append(pd.DataFrame({"site": at, "time": time, "a": a, "b": np.cos(time / 7), "y": np.roll(a, 3)}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table():
    frame = make_table(300)
    return Case.of("readings", frame, infer_schema(frame, "y"))


@pytest.fixture(scope="module")
def series():
    frame = waves().drop(columns="site")
    return Case.of("waves", frame, infer_schema(frame, "y", series=Series("time", window=8)))


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return lambda name: f"{tmp_path / 'own.py'}:{name}"


def truth(trial, std=None, faults=None):
    """The method that knows the answer."""
    test = trial.given.test.assign(**{name: trial.test[name] for name in trial.features})
    return Named("truth", lambda given, seed: Denoised(trial.train, test, std, faults), "")


@pytest.mark.parametrize("kind", ["table", "series"])
def test_the_parts_are_disjoint_and_together_everything(kind, request):
    case = request.getfixturevalue(kind)
    train, test = case.split(0)
    assert not set(train) & set(test)
    assert sorted([*train, *test]) == list(range(len(case.clean)))
    assert len(train) == round((0.7 if kind == "table" else 0.8) * len(case.clean))


def test_the_test_part_of_a_series_comes_after_the_training_part():
    frame = waves(entities=3)
    case = Case.of("w", frame, infer_schema(frame, "y", series=Series("time", entity=("site",), window=8)), rows=600)
    train, test = case.split(0)
    assert len(case.clean) == 600
    assert case.clean["time"].iloc[train].max() < case.clean["time"].iloc[test].min()


@pytest.mark.parametrize("kind", ["table", "series"])
def test_methods_see_neither_test_targets_nor_clean_cells(kind, request):
    case = request.getfixturevalue(kind)
    trial = contaminate(case, Noise(), 0)
    assert trial.given.test["y"].isna().all()
    for name in case.noisy:
        assert not np.isclose(trial.given.train[name], trial.train[name], rtol=0, atol=1e-12).any()
    for name in trial.features:
        assert not np.isclose(trial.given.test[name], trial.test[name], rtol=0, atol=1e-12).any()
    pd.testing.assert_series_equal(trial.test_noisy["y"], trial.test["y"])


def test_classes_are_hidden_from_methods_too():
    frame = make_table(300).drop(columns="rooms")
    case = Case.of("sites", frame, infer_schema(frame, "site"))
    trial = contaminate(case, Noise(), 0)
    assert trial.given.test["site"].isna().all()
    assert trial.given.train["site"].notna().all()
    models = ("ridge", "knn", "tree", "boosting", "ebm", "dnn")
    figures = measure(trial, resolve("none", Recipe()), 0, models)
    assert all(0 <= figures[f"clean_test/{name}"] <= 1 for name in models)
    assert np.isnan(figures["recovery_targets"])


def test_the_noise_has_the_size_that_methods_are_told(table):
    trial = contaminate(table, Noise(std=0.3), 1)
    for name in table.noisy:
        added = (trial.given.train[name] - trial.train[name]).std()
        assert added == pytest.approx(trial.schema[name].noise, rel=0.15)
        assert trial.schema[name].noise == pytest.approx(0.3 * table.clean[name].std(), rel=1e-6)
    unknown = contaminate(table, Noise(std=0.3, known=False), 1)
    assert all(unknown.schema[name].noise is None for name in table.noisy)
    pd.testing.assert_frame_equal(unknown.given.train, trial.given.train)


@pytest.mark.parametrize(("kind", "steps"), [("gaussian", 0), ("autocorrelated", FORGOTTEN)])
def test_methods_are_told_over_how_many_steps_the_noise_of_a_series_hangs_together(table, series, kind, steps):
    for case, told in ((series, steps), (table, 0)):
        trial = contaminate(case, Noise(kind, 0.3), 1)
        assert {trial.schema[name].noise_correlation for name in case.noisy} == {told}
        unknown = contaminate(case, Noise(kind, 0.3, known=False), 1)
        assert not any(unknown.schema[name].noise_correlation for name in case.noisy)


def test_noise_goes_where_it_is_declared_and_other_features_are_frozen():
    frame = make_table(300)
    case = Case.of("readings", frame, infer_schema(frame, "y", noise={"a": 0.1}))
    trial = contaminate(case, Noise(), 0)
    assert case.noisy == ("a",)
    assert trial.schema.refined == ["a"]
    pd.testing.assert_frame_equal(trial.given.train.drop(columns="a"), trial.train.drop(columns="a"))


def test_missing_cells_stay_missing_and_whole_numbers_are_measured():
    frame = make_table(300)
    frame["count"] = pd.Series(np.arange(300) % 97, dtype="Int64")
    frame.loc[::7, "count"] = pd.NA
    frame["flat"] = 1.5
    case = Case.of("readings", frame, infer_schema(frame, "y", features=["count", "flat"]))
    trial = contaminate(case, Noise(), 0)
    assert "flat" not in case.noisy
    assert trial.given.train["count"].isna().equals(trial.train["count"].isna())
    figures = measure(trial, resolve("pca", Recipe()), 0, ("ridge",))
    assert 0 < figures["recovery_cells"] < 1.2


def test_a_case_that_cannot_be_measured_is_refused():
    frame = make_table(60)
    with pytest.raises(DataError, match="too few rows"):
        check(Case.of("readings", frame, infer_schema(frame, "y")))
    with pytest.raises(ConfigError, match="no noise of kind"):
        Noise("pink")
    for told in ({"told": 0.0}, {"known": False, "told": 2.0}):
        with pytest.raises(ConfigError, match="cannot be told such a noise"):
            Noise(**told)


def test_methods_can_be_told_a_wrong_noise(table):
    right, wrong = (contaminate(table, Noise(told=told), 0) for told in (1.0, 2.0))
    pd.testing.assert_frame_equal(right.given.train, wrong.given.train)
    for name in table.noisy:
        assert wrong.schema[name].noise == 2 * right.schema[name].noise


def test_a_noise_told_as_it_is_has_the_digest_of_results_from_before_any_other_could_be(table):
    grid = Grid((Subject.of(table, methods=["pca"], models="ridge"),), (Noise(), Noise(told=0.5)), (0,))
    found = {cell.digest for cell in grid.cells if cell.noise.told == 1}
    expected = set()
    for name in ("none", "pca"):
        determinants = {
            "format": FORMAT,
            "engine": __version__,
            "case": table.digest,
            "noise": {"kind": "gaussian", "std": 0.2, "known": True},
            "seed": 0,
            "method": [name, resolve(name, Recipe()).digest],
            "models": ("ridge",),
        }
        expected.add(sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest())
    assert found == expected
    assert len({cell.digest for cell in grid.cells}) == 4


@pytest.mark.parametrize("kind", ["table", "series"])
def test_doing_nothing_scores_one(kind, request):
    case = request.getfixturevalue(kind)
    trial = contaminate(case, Noise(), 0)
    figures = measure(trial, resolve("none", Recipe()), 0, ("ridge", "knn"))
    for name in ("recovery_features", "recovery_targets", "recovery_cells", "recovery_test_features"):
        assert figures[name] == 1.0
    assert figures["paper_swd"] == 0.0
    assert figures["paper_rho"] == 1.0
    assert figures["noisy_inputs/knn"] == figures["refined_inputs/knn"] > figures["clean_test/ridge"]


def test_where_nothing_is_refined_there_are_no_intervals(table):
    trial = contaminate(table, Noise(), 0)
    none = trial.train[[]]
    figures = measure(trial, truth(trial, none), 0, ("ridge",))
    assert not any(name.startswith(("coverage", "width")) for name in figures)


@pytest.mark.parametrize("kind", ["table", "series"])
def test_the_truth_scores_zero_and_downstream_as_clean(kind, request):
    case = request.getfixturevalue(kind)
    trial = contaminate(case, Noise(std=1.0), 0)
    std = trial.train[list(case.noisy)] * 0 + 0.1
    figures = measure(trial, truth(trial, std), 0, ("ridge",))
    unrefined = measure(trial, resolve("none", Recipe()), 0, ("ridge",))
    for name in ("recovery_features", "recovery_targets", "recovery_cells", "recovery_test_features", "swd_to_clean"):
        assert figures[name] == 0.0
    assert figures["worst_std_ratio"] == 1.0
    assert figures["coverage_90"] == 1.0
    assert figures["width_90"] > 0
    assert figures["clean_test/ridge"] == unrefined["ceiling/ridge"] == figures["refined_inputs/ridge"]
    assert figures["clean_test/ridge"] < unrefined["clean_test/ridge"]
    assert figures["noisy_inputs/ridge"] > figures["refined_inputs/ridge"]


def struck_cells(trial):
    names = list(trial.features + trial.targets)
    return trial.given.train[names] != trial.train[names]


def detected(trial, faults):
    figures = measure(trial, truth(trial, faults=faults), 0, ())
    return figures["fault_precision"], figures["fault_recall"]


def test_faults_are_what_noise_has_struck(table):
    trial = contaminate(table, Noise("spikes", 0.5), 0)
    struck = struck_cells(trial)
    count, cells = int(struck.to_numpy().sum()), struck.size
    assert 0 < count < 0.1 * cells
    assert detected(trial, struck) == (1.0, 1.0)
    assert detected(trial, struck | True) == (count / cells, 1.0)
    assert detected(trial, ~struck) == (0.0, 0.0)
    one = struck[["a"]]
    assert detected(trial, one) == (1.0, one["a"].sum() / count)
    precision, recall = detected(trial, struck & False)
    assert np.isnan(precision)
    assert recall == 0.0


def test_a_column_without_noise_has_no_faults(table):
    trial = contaminate(table, Noise("spikes", 0.5), 0)
    struck = struck_cells(trial)
    with_rooms = struck.assign(rooms=True)
    precision, recall = detected(trial, with_rooms)
    assert precision == struck.to_numpy().sum() / with_rooms.to_numpy().sum()
    assert recall == 1.0


@pytest.mark.parametrize(
    "change",
    [lambda faults: faults.iloc[1:], lambda faults: faults.astype(float), lambda faults: faults.assign(absent=True)],
    ids=["rows", "numbers", "column"],
)
def test_faults_that_are_no_cells_are_refused(table, change):
    trial = contaminate(table, Noise("spikes", 0.5), 0)
    with pytest.raises(DenogradError, match="the faults are not true or false"):
        measure(trial, truth(trial, faults=change(struck_cells(trial))), 0, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.iloc[1:], "other rows"),
        (lambda frame: frame.assign(rooms=frame["rooms"] + 1), "'rooms', which has no noise"),
        (lambda frame: frame.assign(a=np.nan), "no number in cells of column 'a'"),
    ],
)
def test_a_method_that_gives_back_something_else_is_refused(table, change, message):
    trial = contaminate(table, Noise(), 0)
    method = Named("own", lambda given, seed: Denoised(change(given.train), given.test), "")
    with pytest.raises(DenogradError, match=message):
        measure(trial, method, 0, ())


@pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
def test_rules_leave_rows_without_a_target_as_they_are(table, rule):
    trial = contaminate(table, Noise(), 0)
    refined = resolve(rule, Recipe()).call(trial.given, 0)
    pd.testing.assert_frame_equal(refined.test, trial.given.test)
    assert not refined.train["a"].equals(trial.given.train["a"])


def test_every_model_of_a_kind_can_be_asked_for(table, series):
    assert downstream.chosen("quick", table.schema) == ("ridge", "knn", "tree", "boosting")
    assert downstream.chosen(["ridge", "tree"], series.schema) == ("ridge",)
    assert {"lstm", "cnn_lstm", "dlinear"} <= set(downstream.chosen("all", series.schema))
    with pytest.raises(ConfigError, match="no downstream model 'ridgee'"):
        downstream.chosen("ridgee", table.schema)
    with pytest.raises(ConfigError, match="none of these models is for a series"):
        downstream.chosen("tree", series.schema)


def test_several_horizons_are_predicted(series):
    schema = replace(series.schema, series=replace(series.schema.series, future=(1, 3)))
    trial = contaminate(replace(series, schema=schema), Noise(), 0)
    figures = measure(trial, resolve("moving_average", Recipe()), 0, ("ridge", "dlinear"))
    assert figures["recovery_cells"] < 1
    assert 0 < figures["clean_test/ridge"] < 1


def test_methods_are_found_by_name(own):
    assert methods.names()[:4] == ["none", "denograd", "gauss_newton", "proximal"]
    assert "kalman" not in methods.suited("table")
    assert "kalman" in methods.suited("series")
    half, mine = resolve(own("half"), Recipe()), resolve(f"mine={own('half')}", Recipe())
    assert half.digest == mine.digest != resolve("pca", Recipe()).digest
    with pytest.raises(ConfigError, match="no method 'denogradd'"):
        resolve("denogradd", Recipe())


def test_a_package_that_is_not_there_names_the_extra(monkeypatch, table):
    import sys

    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(ConfigError, match="prefect-denograd\\[bench\\]"):
        downstream.chosen("boosting", table.schema)


def small(case, *names, seeds=(0, 1)):
    return Grid((Subject.of(case, methods=names, models="ridge"),), (Noise(),), seeds)


def test_a_second_run_computes_nothing_and_a_damaged_result_is_redone(table, tmp_path):
    first = run(small(table, "pca"), tmp_path, jobs=1)
    assert (first.computed, first.reused, first.failed) == (4, 0, 0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    again = run(small(table, "pca"), tmp_path, jobs=1)
    assert (again.computed, again.reused) == (0, 4)

    damaged, other, *_ = sorted(before)
    damaged.write_bytes(before[damaged][:40])
    content = json.loads(before[other])
    other.write_text(json.dumps({**content, "error": "", "figures": {"seconds": 0.0}}))
    assert run(small(table, "pca"), tmp_path, jobs=1).computed == 2
    for path in (damaged, other):
        redone, whole = (json.loads(raw)["figures"] for raw in (path.read_bytes(), before[path]))
        assert {**redone, "seconds": 0} == {**whole, "seconds": 0}
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "cells", *sorted(before)]


def test_what_determines_a_result_names_it(table, own, tmp_path):
    cells = {cell.digest for cell in small(table, "pca", own("half")).cells}
    assert len(cells) == 6
    (tmp_path / "own.py").write_text(OWN + "\n# another version\n")
    changed = {cell.digest for cell in small(table, "pca", own("half")).cells}
    assert len(cells & changed) == 4
    other = replace(table, clean=table.clean.assign(a=table.clean["a"] + 1))
    assert not cells & {cell.digest for cell in small(other, "pca").cells}


def test_a_failing_method_is_recorded_and_ends_only_itself(table, own, tmp_path):
    grid = small(table, own("broken"), own("half"))
    counts = run(grid, tmp_path, jobs=1)
    assert (counts.computed, counts.failed) == (4, 2)
    results = gather(grid, tmp_path)
    assert {one.method for one in results.failures} == {"own.py:broken"}
    assert "it does not converge" in results.failures[0].error
    assert "own.py:broken" not in set(results.long["method"])
    assert run(grid, tmp_path, jobs=1).failed == 2


def test_processes_side_by_side_find_the_same_as_one_and_one_that_dies_is_a_failure(table, own, tmp_path):
    alone = small(table, own("half"), "pca", seeds=(0,))
    run(alone, tmp_path / "one", jobs=1)
    (tmp_path / "deadly.py").write_text("import os\ndef deadly(given, seed):\n    os._exit(3)\n")
    together = small(table, own("half"), "pca", f"{tmp_path / 'deadly.py'}:deadly", seeds=(0,))
    counts = run(together, tmp_path / "two", jobs=2)
    assert (counts.computed, counts.failed) == (3, 1)
    results = gather(together, tmp_path / "two")
    assert "exit code 3" in results.failures[0].error
    one, two = (long[long["measure"] != "seconds"] for long in (gather(alone, tmp_path / "one").long, results.long))
    pd.testing.assert_frame_equal(one, two)


def test_an_interrupt_leaves_what_is_finished(table, tmp_path):
    def interrupt(cell, result, reused):
        raise KeyboardInterrupt

    grid = small(table, "pca")
    with pytest.raises(KeyboardInterrupt):
        run(grid, tmp_path, jobs=1, report=interrupt)
    assert sum(records.read(tmp_path, cell) is not None for cell in grid.cells) == 1
    assert run(grid, tmp_path, jobs=1).reused == 1


def test_ratios_are_taken_to_the_unrefined_data(table, own, tmp_path):
    grid = small(table, own("half"))
    run(grid, tmp_path, jobs=1)
    results = gather(grid, tmp_path)
    short = results.short().set_index("method")
    assert (short.loc["none", ["recovery_cells", "downstream", "swd_ratio"]] == 1).all()
    raw = results.long.set_index(["method", "seed", "measure", "model"])["value"].sort_index()
    for seed in (0, 1):
        ours, theirs = raw["own.py:half", seed], raw["none", seed]
        assert ours["downstream", "ridge"] == ours["clean_test", "ridge"] / theirs["clean_test", "ridge"]
        assert ours["imp", "ridge"] == pytest.approx(100 * (1 - ours["paper", "ridge"] / theirs["paper", "ridge"]))
    results.write(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), results.long)


def figures_of(**methods):
    """Results with these figures of each method on each data set: recovery of all cells, and Imp %."""
    rows = [
        (dataset, "gaussian", 0.2, True, 1.0, seed, method, measure, "", value)
        for method, datasets in methods.items()
        for dataset, seeds in datasets.items()
        for seed, both in enumerate(seeds)
        for measure, value in (("recovery_cells", both[0]), ("imp", both[1]), ("seconds", 0.1))
    ]
    return Results(pd.DataFrame(rows, columns=[*BLOCK, "method", "measure", "model", "value"]), ())


def test_each_protocol_has_its_own_ranks():
    results = figures_of(none={"d": [(1.0, 0.0)]}, careful={"d": [(0.5, 20.0)]}, smooth={"d": [(1.5, 90.0)]})
    ranks = results.short().merge(results.paper()).set_index("method")[["rank", "paper_rank"]]
    assert ranks.to_dict("index") == {
        "none": {"rank": 2.0, "paper_rank": 3.0},
        "careful": {"rank": 1.0, "paper_rank": 2.0},
        "smooth": {"rank": 3.0, "paper_rank": 1.0},
    }
    assert results.winner() == "careful"


def test_who_is_not_in_every_data_set_is_not_ranked_over_them():
    results = figures_of(
        none={"d": [(1.0, 0.0), (1.0, 0.0)], "e": [(1.0, 0.0)]},
        everywhere={"d": [(0.8, 1.0), (0.6, 3.0)], "e": [(0.4, 5.0)]},
        nearly={"d": [(0.9, 2.0)], "e": [(0.3, 6.0)]},
        once={"d": [(0.1, 9.0), (0.1, 9.0)]},
    )
    overall = results.overall().set_index("method")
    assert overall["groups"].to_dict() == {"none": 2, "everywhere": 2, "nearly": 2, "once": 1}
    assert overall["recovery_cells"].to_dict() == pytest.approx(
        {"none": 1.0, "everywhere": 0.55, "nearly": 0.6, "once": 0.1}
    )
    assert overall["rank"].dropna().to_dict() == {"everywhere": 1.5, "nearly": 1.5, "none": 3.0}
    assert overall["paper_rank"].dropna().to_dict() == {"nearly": 1.0, "everywhere": 2.0, "none": 3.0}
    ranking = results.ranking()
    assert (ranking.blocks, ranking.left_out) == (2, ("once",))


def test_ranks_agree_with_scipy():
    figures = pd.DataFrame(np.random.default_rng(0).normal([0, 0.5, 1, 3], size=(9, 4)), columns=list("abcd"))
    found = rank(figures)
    assert found.p_value == pytest.approx(friedmanchisquare(*figures.to_numpy().T).pvalue)
    expected = np.argsort(np.argsort(figures.to_numpy(), axis=1), axis=1).mean(axis=0) + 1
    assert found.average.reindex(list("abcd")).tolist() == pytest.approx(expected.tolist())
    assert found.nemenyi.loc["a", "d"] < 0.05 < found.nemenyi.loc["a", "b"]


def test_ranks_leave_out_what_failed():
    figures = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [2.0, np.nan, 4.0], "c": [np.nan] * 3})
    found = rank(figures)
    assert (found.blocks, found.left_out, found.p_value) == (2, ("c",), None)
    assert found.average.to_dict() == {"a": 1.0, "b": 2.0}


@pytest.fixture(scope="module")
def published():
    """How the stand asks a published release; our class `DenoGrad` is asked in the same way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])
        yield import_module("tests.benchmarks.published")


def two_targets():
    frame = make_table(300).assign(z=lambda frame: frame["y"] + frame["a"])
    return Case.of("two", frame, infer_schema(frame, ["y", "z"], frozen=["b"]))


def two_sites():
    frame = waves(120, entities=2)
    return Case.of("sites", frame, infer_schema(frame, "y", series=Series("time", entity=("site",), window=8)))


@pytest.fixture(params=["ours", "published_1.1.0", "published_2.0.0"])
def release(request, published):
    """Ours always, the published ones where they have been installed to compare with."""
    if request.param == "ours":
        return lambda given, seed: published.refined(given, seed, published.target_by_target(DenoGrad))
    if not import_module("tests.benchmarks.peer").is_installed(published.VERSIONS[request.param]):
        pytest.skip("this release is not installed")
    return resolve(published.METHODS[request.param], Recipe()).call


@pytest.mark.parametrize("make", [two_targets, two_sites])
def test_a_published_release_moves_noisy_columns_of_the_training_part_alone(release, make):
    case = make()
    trial = contaminate(case, Noise(), 0)
    found = release(trial.given, 0)
    pd.testing.assert_frame_equal(found.test, trial.given.test)
    for name in case.clean.columns:
        same = found.train[name].equals(trial.given.train[name])
        assert same == (name not in case.noisy), name


def test_a_published_release_does_what_our_class_does_by_itself(published, table):
    trial = contaminate(table, Noise(), 0)
    found = published.refined(trial.given, 0, published.target_by_target(DenoGrad))
    backbone = published.train(trial.given.train, trial.schema, training=published.Training(seed=0, device="cpu"))
    encoder = backbone.encoder
    encoded = encoder.encode(trial.given.train)
    features = len(trial.schema.features)
    x = np.concatenate([encoded.cells[:, :features], encoded.context], axis=1)
    network = published.without_dropout(backbone.module)
    x_after, y_after, *_ = DenoGrad(network, published.nn.MSELoss(), "cpu").fit(x, encoded.cells[:, -1]).transform()
    after = encoder.encode(found.train).cells
    shown = encoded.present
    expected = np.column_stack([x_after[:, :features], y_after])
    np.testing.assert_allclose(after[shown], expected[shown], atol=1e-5)


def test_a_published_release_refines_no_classes(published):
    frame = make_table(300).assign(y=lambda frame: np.where(frame["y"] > 0, "high", "low"))
    trial = contaminate(Case.of("classes", frame, infer_schema(frame, "y")), Noise(), 0)
    with pytest.raises(DenogradError, match="cannot refine these data"):
        published.refined(trial.given, 0, published.target_by_target(DenoGrad))


@pytest.mark.parametrize("name", ["published_1.1.0", "published_2.0.0"])
def test_the_stand_finds_the_published_releases_by_name(published, name):
    spec = published.METHODS[name]
    assert methods.labels([spec]) == {spec: name}
    assert resolve(spec, Recipe()).call in (published.first, published.second)
