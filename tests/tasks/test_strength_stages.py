"""How far cells go: a share that is set, or the largest that the gates accept; and whom the verdict is of."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from denograd_engine.fidelity import measure_fidelity
from denograd_engine.folds import first_half
from denograd_engine.frames import Encoder
from denograd_tasks.fidelity_gates import acceptable
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store
from denograd_tasks.tables import read_table, to_frame
from denograd_tasks.tracking import client
from denograd_tasks.versions import resolve

NOISE = 0.5


def make_table(rows=400):
    """A target that its features explain to a part, and a whole number."""
    generator = np.random.default_rng(2)
    x = generator.normal(size=(rows, 3))
    y = x @ [1.0, -0.5, 0.25] + 0.7 * generator.normal(size=rows)
    whole = np.round(100 * x[:, 2]).astype(np.int32)
    return pa.table({"a": x[:, 0], "b": x[:, 1], "whole": whole, "id": [f"row {at}" for at in range(rows)], "y": y})


@pytest.fixture(scope="module")
def full(clean, make_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("strength")
    backbone = {"training": {"epochs": 20, "batch_size": 32}}
    return clean(make_settings(make_table(), folder, dataset="far", backbone=backbone, refine={"max_epochs": 40}))


def again(run, **changes):
    plain = run.settings.model_dump(mode="json")
    refine = plain["refine"] | changes.pop("refine", {})
    return Settings.model_validate(plain | {"refine": refine} | changes)


def frames(run):
    store = Store(run.refined.root)
    return (to_frame(read_table(store, path)) for path in (run.snapshot.files[0].path, run.refined.located().path))


def encoder_of(run):
    return Encoder.from_dict(json.loads(Store(run.backbone.root).read(run.backbone.file("encoder.json").path)))


def other_half(run):
    """What the verdict should have been measured on."""
    observed, refined = frames(run)
    encoder = encoder_of(run)
    half = first_half(observed, encoder.schema)
    return measure_fidelity(observed[~half], refined[~half], encoder)


@pytest.fixture(scope="module")
def tight(full):
    """A bound on rho that the whole refinement fails, and a part of it passes."""
    rho = float(np.mean(list(full.verdict.fidelity["rho"].values())))
    assert rho < 0.995
    return {"rho": {"min": (1 + 2 * rho) / 3}}


@pytest.fixture(scope="module")
def chosen(clean, full, tight):
    return clean(again(full, refine={"strength": "auto"}, gates=tight))


def test_all_the_way_by_default(full):
    assert (full.refined.strength, full.refined.strength_chosen, full.verdict.half) == (1.0, False, False)
    assert full.verdict.fidelity["rows"] == full.snapshot.rows
    assert "strength" not in full.refined.describe()


def test_a_share_of_the_way(clean, full):
    run = clean(again(full, refine={"strength": 0.5}))
    assert run.reused == {"ingest", "check_input", "train_backbone"}
    assert (run.refined.strength, run.refined.strength_chosen) == (0.5, False)
    observed, whole = frames(full)
    _, half = frames(run)
    for name in ("a", "b", "y"):
        np.testing.assert_allclose(half[name], observed[name] + 0.5 * (whole[name] - observed[name]))
    expected = observed["whole"] + (0.5 * (whole["whole"] - observed["whole"])).round()
    assert (half["whole"] == expected).all()
    assert full.refined.totals["residual_after"] < run.refined.totals["residual_after"]
    assert run.refined.totals["residual_after"] < run.refined.totals["residual_before"]
    rows = to_frame(read_table(Store(run.refined.root), run.refined.rows.path))
    assert int((rows["correction"] > 0).sum()) == run.refined.totals["moved"]


def test_auto_goes_as_far_as_the_gates_accept_on_the_first_half(chosen, full, tight):
    observed, refined = frames(chosen)
    _, whole = frames(full)
    strength = chosen.refined.strength
    assert 0.05 < strength < 1
    encoder = encoder_of(chosen)
    half = first_half(observed, encoder.schema)
    assert acceptable(measure_fidelity(observed, refined, encoder, half), chosen.settings)
    further = observed.assign(
        **{name: observed[name] + (strength + 0.05) * (whole[name] - observed[name]) for name in ("a", "b", "y")}
    ).assign(whole=observed["whole"] + ((strength + 0.05) * (whole["whole"] - observed["whole"])).round())
    assert not acceptable(measure_fidelity(observed, further, encoder, half), chosen.settings)


def test_the_verdict_is_of_the_other_half(chosen):
    assert chosen.verdict.half
    found = other_half(chosen)
    measured = {gate.name: gate.value for gate in chosen.verdict.gates}
    assert measured["rho"] == pytest.approx(found.mean_rho)
    assert measured["swd"] == pytest.approx(found.swd)
    assert measured["untouched_identical"] == measured["rows_kept"] == 1
    assert chosen.verdict.fidelity["rows"] == found.rows < 0.6 * chosen.snapshot.rows
    written = json.loads(Store(chosen.verdict.root).read(chosen.verdict.record.path))
    assert written["half"] is True
    assert "on the other half of the rows" in chosen.verdict.describe()


def test_the_strength_is_written_down_everywhere(chosen):
    assert chosen.version is not None
    strength = chosen.refined.strength
    words = f"{strength:g}, chosen on one half of the rows; the gates judge the other half"
    content = resolve(Store(chosen.version.root), "far").content
    assert (content["refinement"]["strength"], content["refinement"]["strength_chosen"]) == (strength, True)
    assert content["settings"]["refine"]["strength"] == "auto"
    tags = client(chosen.settings.tracking.uri).get_run(chosen.backbone.run_id).data.tags
    assert tags["denograd.strength"] == str(strength)
    assert words in chosen.refined.describe()
    assert words in Store(chosen.page.root).read(chosen.page.page.path).decode()


def test_the_same_content_judged_otherwise_has_evidence_of_its_own(clean, full, chosen, tight):
    set_ = clean(again(full, refine={"strength": chosen.refined.strength}, gates=tight))
    assert set_.refined.attempt == chosen.refined.attempt
    assert not set_.verdict.half
    assert set_.verdict.record.path != chosen.verdict.record.path
    assert chosen.verdict.intact()


def test_what_no_strength_saves_is_refused_at_the_smallest(clean, full):
    run = clean(again(full, refine={"strength": "auto"}, gates={"swd": {"max": 1e-12}}))
    assert run.refined.strength == 0.05
    assert not run.verdict.passed
    assert [gate.name for gate in run.verdict.failed("error")] == ["swd"]
    assert run.version is None


def test_warnings_do_not_hold_it_back(clean, full):
    gates = {"largest_correction": {"max": 1e-6}, "rho": {"min": 0.5}, "std_ratio": {"min": 0.3}, "swd": {"max": 1}}
    run = clean(again(full, refine={"strength": "auto"}, gates=gates))
    assert (run.refined.strength, run.verdict.half, run.verdict.passed) == (1.0, True, True)


@pytest.fixture(scope="module")
def made(make_settings, tmp_path_factory):
    generator = np.random.default_rng(0)
    signal = generator.normal(size=300)
    table = pa.table({name: signal + NOISE * generator.normal(size=300) for name in ("a", "b", "c", "y")})
    arguments = {"folds": 2, "fewest_steps": 20, "most_steps": 40, "hidden": 16}
    return make_settings(
        table,
        tmp_path_factory.mktemp("posterior"),
        dataset="wide",
        columns={"target": "y", "noise": dict.fromkeys("abcy", NOISE)},
        backbone={},
        refine={"arguments": arguments, "uncertainty": True},
        gates={"rho": {"min": 0.5}, "std_ratio": {"min": 0.3}, "swd": {"max": 1}, "correlation_change": {"max": 1}},
    )


@pytest.fixture(scope="module")
def whole(clean, made):
    return clean(made)


def test_posteriors_corrections_are_compared_with_what_is_implied_of_that_share(clean, whole):
    run = clean(again(whole, refine={"strength": 0.5}))
    (observed, full), (_, half) = frames(whole), frames(run)
    for name in "abcy":
        np.testing.assert_allclose(half[name], observed[name] + 0.5 * (full[name] - observed[name]))
    for name, column in run.refined.columns.items():
        before = whole.refined.columns[name]
        for fact in ("correction", "expected"):
            assert column[fact] == pytest.approx(0.5 * before[fact], rel=1e-5)
        assert (column["std"], column["noise"]) == (before["std"], before["noise"])
    gates = [{gate.name: gate.value for gate in one.verdict.gates}["correction"] for one in (whole, run)]
    assert gates[0] == pytest.approx(gates[1], rel=1e-5)
    assert run.refined.totals["eta"] == pytest.approx(0.5 * whole.refined.totals["eta"])


def test_the_published_std_is_that_of_the_whole_posterior_and_the_manifest_says_so(clean, whole):
    run = clean(again(whole, refine={"strength": 0.4}))
    (_, full), (_, part) = frames(whole), frames(run)
    pd.testing.assert_series_equal(part["a__std"], full["a__std"])
    (described,) = [
        one for one in resolve(Store(run.version.root), "wide").content["schema"] if one["name"] == "a__std"
    ]
    assert described["why"].endswith("of the whole posterior: cells went 0.4 of the way")


def test_a_draw_goes_that_share_as_well(clean, whole):
    run = clean(again(whole, refine={"strength": 0.5, "draw": True}))
    for column in run.refined.columns.values():
        assert column["expected"] == pytest.approx(0.5 * column["noise"])


def test_auto_is_held_back_by_the_gates(clean, whole):
    found = float(np.mean(list(whole.verdict.fidelity["rho"].values())))
    gates = whole.settings.gates.model_dump(mode="json") | {"rho": {"min": (1 + found) / 2}}
    run = clean(again(whole, refine={"strength": "auto"}, gates=gates))
    assert 0.05 < run.refined.strength < 1
    assert run.verdict.half
    assert run.reused == {"ingest", "check_input", "train_backbone"}
