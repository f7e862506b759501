"""What a run does that answers a drift: it goes on from the champion, and says who is champion then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from support import make_table

EVENT = "0c1f3f0a-6f7e-4a53-9f0b-000000000001"
TRAINING = {"training": {"epochs": 30, "batch_size": 32}}
MIXED = {"columns": {"target": ["y"], "frozen": ["rooms", "site"]}, "backbone": TRAINING}


def test_it_goes_on_from_the_champion_and_the_version_names_event_and_champion(
    denograd: Any, config: Callable[..., Path], table: Path
) -> None:
    from denograd_flows import clean
    from denograd_tasks import load_settings

    path = config(**MIXED)
    assert denograd("run", path, "--json").json["contest"] is None
    later = make_table(400, seed=1)
    pd.concat([pd.read_parquet(table), later.assign(a=later["a"] + 4, y=4 - later["y"])]).to_parquet(table, index=False)

    outcome = clean(load_settings(path), event=EVENT)
    assert outcome.contest is not None
    assert (outcome.contest.champion, outcome.contest.model) == ("readings/1", "readings/2")
    assert (outcome.contest.new, outcome.contest.won) == (True, True)
    model = denograd("show", "readings", "--json").json["model"]
    assert model["start"]["model"] == "readings/1"
    assert model["start"]["reason"] is None
    assert model["contest"] == outcome.contest.model_dump()
    shown = denograd("show", "readings").out
    assert f"champion                {outcome.contest.words()}" in shown
    lineage = denograd("lineage", "readings").out
    for said in (f"event: {EVENT}", "trained: from readings/1", f"champion: {outcome.contest.words()}"):
        assert said in lineage

    repeated = clean(load_settings(path), event=EVENT)
    assert (repeated.status, repeated.contest) == ("already_published", None)
    assert "train_backbone" in repeated.reused
    nightly = denograd("run", path, "--json").json
    assert nightly["contest"]["champion"] == "readings/2"
    assert denograd("show", "readings", "--json").json["model"]["start"] is None
