"""Mode `append`: the next version holds the last one's cells and those that arrived; and running without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import HASTY, make_series, make_table

QUICK = {"folds": 2, "fewest_steps": 20, "most_steps": 40, "hidden": 16}
NETWORK = {"backbone": {"training": {"epochs": 15}}, "refine": {"max_epochs": 20}}
NOISE = {"noise": {"a": 0.2, "b": 0.2, "y": 0.2}}
LOOSE = {
    "swd": {"max": 1},
    "rho": {"min": 0.1},
    "std_ratio": {"min": 0.1, "max": 2},
    "mean_drift": {"max": 1},
    "correlation_change": {"max": 1},
    "skill": {"min": -1},
    **HASTY,
}
RULES = {
    "denograd": (NETWORK, {}),
    "folds": (NETWORK | {"backbone": {"training": {"epochs": 10, "folds": 2}}}, {}),
    "posterior": ({"refine": {"arguments": QUICK, "uncertainty": True}}, NOISE),
    "faults": ({"refine": {"arguments": QUICK, "faults": True, "strength": 0.5}}, NOISE),
}


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    """Writes the source and a configuration in mode append, with changes."""

    def write(source: pd.DataFrame, **changes: Any) -> Path:
        source.to_parquet(tmp_path / "source.parquet", index=False)
        plain = {
            "dataset": "readings",
            "source": str(tmp_path / "source.parquet"),
            "mode": "append",
            "columns": {"target": "y", "key": "serial"},
            "gates": LOOSE,
            **NETWORK,
            **changes,
        }
        path = tmp_path / "denograd.yaml"
        path.write_text(json.dumps(plain))
        return path

    return write


def numbered(rows: int, first: int = 0, seed: int = 0) -> pd.DataFrame:
    frame = make_table(rows, seed)
    return frame.assign(serial=np.arange(first, first + rows), note=[f"row {at}" for at in range(first, first + rows)])


def published(denograd: Any, number: int) -> pd.DataFrame:
    return pd.read_parquet(denograd("path", f"readings@{number}").out.strip())


def manifest(denograd: Any, number: int) -> Any:
    return denograd("show", f"readings@{number}", "--json").json


def run(denograd: Any, config: Path, *options: str) -> Any:
    ran = denograd("run", config, *options, "--json")
    assert ran.code == 0, ran.err
    return ran.json


@pytest.mark.parametrize("rule", RULES)
def test_what_arrived_joins_what_was_published(denograd: Any, files: Callable[..., Path], rule: str) -> None:
    changes, columns = RULES[rule]
    changes = {"backbone": {}, **changes, "columns": {"target": "y", "key": "serial", **columns}}
    first, later = numbered(300), numbered(80, 300, seed=1)
    assert run(denograd, files(first, **changes))["version"] == 1
    outcome = run(denograd, files(later, **changes))
    assert (outcome["version"], outcome["rows"]) == (2, 380)
    old, new = published(denograd, 1), published(denograd, 2)
    pd.testing.assert_frame_equal(new.iloc[:300], old, check_exact=True)
    assert new["serial"].tolist() == list(range(380))
    assert not new["y"].iloc[300:].equals(later["y"].set_axis(range(300, 380)))
    said = manifest(denograd, 2)
    assert said["mode"] == "append"
    assert said["appended"] == {"parent": 1, "added": 80, "corrected": 0, "revisited": 0, "settled": 0}
    assert said["unsettled"] is None
    before = manifest(denograd, 1)
    assert (before["mode"], before["appended"]) == ("full", None)
    assert said["model"]["digest"] == before["model"]["digest"]
    assert (said["model"]["adopted"], said["model"]["uri"]) == (True, before["model"]["uri"])
    assert said["fidelity"]["rows"] == 80
    assert denograd("verify", "readings", "--all").code == 0
    assert denograd("reproduce", "readings@2", "--json").json["outcome"] == "identical"


def test_the_same_again_is_already_published(denograd: Any, files: Callable[..., Path]) -> None:
    run(denograd, files(numbered(300)))
    later = files(numbered(60, 300, seed=1))
    run(denograd, later)
    again = run(denograd, later)
    assert (again["status"], again["version"]) == ("already_published", 2)
    everything = pd.concat([numbered(300), numbered(60, 300, seed=1)])
    assert run(denograd, files(everything))["status"] == "already_published"


def test_corrected_rows_are_refined_anew_and_ignored_columns_follow_the_source(
    denograd: Any, files: Callable[..., Path]
) -> None:
    first = numbered(300)
    run(denograd, files(first))
    corrected = first.iloc[[5, 7, 9]].assign(note="looked at again")
    corrected.loc[5, "a"] += 1.0
    corrected.loc[7, "c"] = np.nan
    run(denograd, files(corrected))
    old, new = published(denograd, 1), published(denograd, 2)
    others = [at for at in range(300) if at not in (5, 7, 9)]
    pd.testing.assert_frame_equal(new.loc[others], old.loc[others], check_exact=True)
    assert new["note"].iloc[[5, 7, 9]].tolist() == ["looked at again"] * 3
    pd.testing.assert_frame_equal(new.loc[[9]].drop(columns="note"), old.loc[[9]].drop(columns="note"))
    assert np.isnan(new["c"].iloc[7])
    assert abs(new["a"].iloc[5] - corrected["a"].loc[5]) < abs(new["a"].iloc[5] - old["a"].iloc[5])
    assert manifest(denograd, 2)["appended"]["corrected"] == 2
    assert manifest(denograd, 2)["fidelity"]["rows"] == 300  # too few alone


def test_a_single_row_goes_as_far_as_the_others_went(denograd: Any, files: Callable[..., Path]) -> None:
    changes = {"refine": {"max_epochs": 20, "strength": "auto"}, "gates": LOOSE | {"rho": {"min": 0.99}}}
    run(denograd, files(numbered(300), **changes))
    later = numbered(2, 300, seed=1)
    later.loc[1, "y"] = np.nan
    outcome = run(denograd, files(later, **changes))
    first = manifest(denograd, 1)["refinement"]
    assert (outcome["strength"], outcome["strength_chosen"]) == (first["strength"], False)
    assert first["strength_chosen"]
    assert outcome["appended"] == {"parent": 1, "added": 2, "corrected": 0, "revisited": 0, "settled": 0}
    new = published(denograd, 2)
    assert new["a"].iloc[300] != later["a"][0]
    assert new["a"].iloc[301] == later["a"][1]
    assert np.isnan(new["y"].iloc[301])
    assert "appended                2 rows added to version 1" in denograd("show", "readings@2").out


SERIES = {
    "columns": {"target": "load"},
    "series": {"time": "time", "entity": "entity"},
    "backbone": {},
    "refine": {"arguments": QUICK},
}
WINDOWS = SERIES | {
    "series": {"time": "time", "entity": "entity", "window": 8},
    "backbone": {"arguments": {"hidden": 16}, "training": {"epochs": 8, "batch_size": 64}},
    "refine": {"max_epochs": 15},
}


@pytest.mark.parametrize(("changes", "steps"), [(SERIES, 12), (WINDOWS, 8)], ids=["posterior", "denograd"])
def test_the_last_steps_of_a_series_settle_when_their_future_has_come(
    denograd: Any, files: Callable[..., Path], changes: dict[str, Any], steps: int
) -> None:
    frame = make_series(300).to_pandas()
    start, end = frame["time"].sort_values().iloc[[2 * 240, 2 * 270]]
    early, late = frame[frame["time"] < start], frame[(frame["time"] >= start) & (frame["time"] < end)]
    only_east = late[late["entity"] == "east"]
    run(denograd, files(early, **changes))
    assert manifest(denograd, 1)["unsettled"] == {"steps": steps, "rows": 2 * steps}
    run(denograd, files(only_east, **changes))
    said = manifest(denograd, 2)
    assert said["appended"] == {"parent": 1, "added": 30, "corrected": 0, "revisited": steps, "settled": steps}
    old, new = published(denograd, 1), published(denograd, 2)
    same = _by_step(old).join(_by_step(new), lsuffix="_old", rsuffix="_new")
    assert len(same) == len(old)
    moved = (same["load_old"] != same["load_new"]) | (same["wave_old"] != same["wave_new"])
    ends = same.index.get_level_values("time") >= start - steps * pd.Timedelta(hours=1)
    assert not moved[~ends].any()
    assert not moved.loc["west"].any()
    assert moved.loc["east"][-steps:].mean() > 0.5
    assert new["time"].is_monotonic_increasing
    assert denograd("reproduce", "readings@2", "--json").json["outcome"] == "identical"


def test_late_steps_are_put_in_their_place_and_what_is_around_them_stays(
    denograd: Any, files: Callable[..., Path]
) -> None:
    frame = make_series(240).to_pandas()
    missing = (frame["entity"] == "west") & frame["time"].isin(frame["time"].unique()[100:103])
    changes = SERIES | {"series": SERIES["series"] | {"max_gap": "6h"}}
    run(denograd, files(frame[~missing], **changes))
    run(denograd, files(frame[missing], **changes))
    old, new = published(denograd, 1), published(denograd, 2)
    assert manifest(denograd, 2)["appended"]["added"] == 3
    assert _by_step(new).index.equals(_by_step(frame).index)
    settled = _by_step(old)
    settled = settled[settled.index.get_level_values("time") < frame["time"].max() - pd.Timedelta(hours=12)]
    pd.testing.assert_frame_equal(_by_step(new).loc[settled.index], settled, check_exact=True)


def _by_step(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_index(["entity", "time"]).sort_index()


def test_whoever_loses_the_race_builds_on_the_winner(denograd: Any, files: Callable[..., Path], home: Path) -> None:
    from prefect import flow

    from denograd_flows.clean_flow import run_stages
    from denograd_tasks.settings import load_settings
    from denograd_tasks.store import open_store
    from denograd_tasks.versions import commit, resolve

    run(denograd, files(numbered(300)))
    settings = load_settings(files(numbered(60, 300, seed=1)))
    raced = []

    def meanwhile(*_: object) -> dict[str, float]:
        if not raced:
            store = open_store(settings.publish.root)
            winner = resolve(store, "readings").content | {"identity": "another", "appended": {"parent": 1}}
            raced.append(commit(store, "readings", winner))
        return {}

    @flow
    def race() -> Any:
        return run_stages(settings, meanwhile)

    outcome = race()
    assert (outcome.version, outcome.rows) == (3, 360)
    assert manifest(denograd, 3)["appended"]["parent"] == 2
    assert denograd("verify", "readings", "--all").code == 0


@pytest.mark.parametrize("rule", ["denograd", "posterior"])
def test_a_model_refines_without_training_whatever_it_is_named_by(
    denograd: Any, files: Callable[..., Path], rule: str
) -> None:
    changes, columns = RULES[rule]
    changes = {"backbone": {}, **changes, "columns": {"target": "y", "key": "serial", **columns}, "mode": "full"}
    run(denograd, files(numbered(300), **changes))
    config = files(numbered(200, 300, seed=1), **changes)
    for name in ("readings@1", "readings@champion", "models:/readings/1"):
        outcome = run(denograd, config, "--model", name)
        assert (outcome["version"], outcome["model"], outcome["rows"]) == (2, "models:/readings/1", 200)
        assert outcome["status"] == ("published" if name == "readings@1" else "already_published")
    first, second = (manifest(denograd, number) for number in (1, 2))
    assert second["model"]["adopted"]
    assert second["settings"]["model"] == "readings@1"
    if rule == "posterior":
        weights = [one["model"]["files"][0]["sha256"] for one in (first, second)]
        assert weights[0] == weights[1]
        louder = {name: 2 * std for name, std in changes["columns"]["noise"].items()}
        other = {**changes, "columns": {**changes["columns"], "noise": louder}}
        refused = denograd("run", files(numbered(200, 300, seed=1), **other), "--model", "readings@1")
        assert refused.code != 0
        assert "takes out other noise" in refused.err
    assert denograd("verify", "readings", "--all").code == 0


def test_an_exchanged_export_is_refused(denograd: Any, files: Callable[..., Path]) -> None:
    config = files(numbered(300), mode="full")
    run(denograd, config)
    said = manifest(denograd, 1)
    root = Path(said["settings"]["publish"]["root"])
    scaling = next(root / file["path"] for file in said["model"]["files"] if file["path"].endswith("encoder.json"))
    scaling.write_text(scaling.read_text().replace('"center": ', '"center": 1'))
    for options in (("--model", "readings@1"), ()):
        later = files(numbered(60, 300, seed=1), mode="full" if options else "append")
        ran = denograd("run", later, *options)
        assert ran.code != 0
        assert "digest" in ran.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("readings", "model: this value cannot be used"),
        ("readings@7", "has no version 7"),
        ("readings@best", "there is no model 'models:/readings@best' in the registry"),
        ("readings@champion", "is no posterior model"),
    ],
)
def test_a_model_that_is_none_is_refused(denograd: Any, files: Callable[..., Path], name: str, words: str) -> None:
    run(denograd, files(numbered(300), mode="full"))
    noisy = {"columns": {"target": "y", "key": "serial", **NOISE}, "backbone": {}, "refine": {"arguments": QUICK}}
    ran = denograd("run", files(numbered(300), mode="full", **noisy), "--model", name)
    assert ran.code != 0
    assert words in ran.err
