"""The command that looks for drift, on what an ordinary run published, and the event that it emits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from support import make_table

from denograd_tasks.store import Store
from denograd_tasks.watch.history import past_looks


def events(name: str) -> list[dict[str, Any]]:
    """The events of this name that the server has, once it has any."""
    from prefect.client.orchestration import get_client

    ours = {"event": {"name": [name]}, "resource": {"id": ["denograd.dataset.drifting"]}}
    asked = {"filter": {**ours, "occurred": {"since": "2000-01-01T00:00:00Z"}}}
    with get_client(sync_client=True) as server:
        for _ in range(40):
            found: list[dict[str, Any]] = server._client.post("/events/filter", json=asked).json()["events"]
            if found:
                return found
            time.sleep(0.5)
    return []


def artifacts() -> list[str]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as server:
        found = server._client.post("/artifacts/filter", json={"sort": "CREATED_DESC"}).json()
    return [one["data"] for one in found if one["key"] == "watch"]


def arrive(table: Path, rows: int, shift: float = 0.0) -> None:
    came = make_table(rows, seed=rows)
    pd.concat([pd.read_parquet(table), came.assign(c=came["c"] + shift)]).to_parquet(table, index=False)


def test_drift_is_told_once_until_the_next_version(
    denograd: Any, process: Any, config: Callable[..., Path], table: Path, home: Path
) -> None:
    from prefect.settings import PREFECT_API_URL

    from denograd_flows.watch_flow import watch
    from denograd_tasks.settings import load_settings

    settings = config(dataset="drifting")
    ran = denograd("watch", settings)
    assert ran.code == 1
    assert "no published data set" in ran.err
    assert watch(load_settings(settings)) is None

    assert denograd("run", settings, "--json").code == 0
    arrive(table, 50)
    ran = denograd("watch", settings)
    assert ran.code == 0, ran.err
    assert ran.out.strip() == "drifting@1: no drift; 50 rows, 50 of them new (check 1)"

    arrive(table, 300, shift=1.5)
    ran = process("watch", settings, PREFECT_API_URL=str(PREFECT_API_URL.value()))
    assert ran.code == 5, ran.err
    assert "drifting@1: drift since 20" in ran.out
    assert ["c", "location"] in [line.split()[:2] for line in ran.out.splitlines()]
    assert ["residual", "of", "y", "relation"] in [line.split()[:4] for line in ran.out.splitlines()]
    assert "c | location" in artifacts()[0]

    ran = denograd("watch", settings, "--json")
    assert ran.code == 5
    assert (ran.json["arrived"], ran.json["rows"]) == (0, 350)
    assert {one["column"] for one in ran.json["alarm"]["changed"]} == {"c", "residual of y"}
    (event,) = events("denograd.drift.detected")
    assert event["resource"]["prefect.resource.id"] == "denograd.dataset.drifting"
    payload = event["payload"]
    assert (payload["version"], payload["severity"], set(payload["columns"])) == (1, "drift", {"c", "residual of y"})
    assert set(payload["kinds"]) >= {"location", "relation"}

    assert denograd("verify", "drifting", "--all").code == 0
    assert denograd("run", settings, "--json").json["version"] == 2
    assert denograd("watch", settings).code == 0
    assert len(events("denograd.drift.detected")) == 1
    looks = past_looks(Store(str(home / "published")), "drifting")
    assert [(one.version, one.check) for one in looks] == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert [(one.drift, one.began) for one in looks] == [(False, False), (True, True), (True, False), (False, False)]
    assert set(looks[1].columns) == {"c", "residual of y"}


def test_two_watches_come_one_after_the_other(denograd: Any, config: Callable[..., Path], table: Path) -> None:
    from denograd_flows.watch_flow import watch
    from denograd_tasks.settings import load_settings

    settings = config(dataset="shared")
    assert denograd("run", settings, "--json").code == 0
    arrive(table, 60)
    loaded, found = load_settings(settings), []
    both = [threading.Thread(target=lambda: found.append(watch(loaded))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted((one.arrived, one.rows, one.checks) for one in found) == [(0, 60, 2), (60, 60, 1)]


def test_a_source_that_cannot_be_read_is_bad_input(
    denograd: Any, config: Callable[..., Path], table: Path, tmp_path: Path
) -> None:
    assert denograd("run", config(dataset="away"), "--json").code == 0
    (tmp_path / "empty").mkdir()
    for source in ("gone.parquet", "empty"):
        ran = denograd("watch", config(dataset="away", source=str(tmp_path / source)))
        assert ran.code == 2
        assert source in ran.err
