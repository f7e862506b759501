"""What catalogues and Prefect are told of whole runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from lineage_receiver import Receiver
from lineage_schema import problems


def events(kind: str, key: str) -> list[dict[str, Any]]:
    """Events of an asset, as the Prefect server keeps them."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as server:
        asked = {"filter": {"event": {"name": [kind]}, "resource": {"id": [key]}}}
        return list(server._client.post("/events/filter", json=asked).json()["events"])


def awaited(kind: str, key: str) -> dict[str, Any]:
    for _ in range(100):
        found = events(kind, key)
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"no {kind} of {key}")


def by_event(received: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [event for _, event in received]


def test_runs_are_told_to_a_receiver_and_their_assets_to_prefect(
    denograd: Any, config: Callable[..., Path], home: Path, table: Path
) -> None:
    with Receiver() as receiver:
        lineage = {"url": receiver.url}
        outcome = denograd("run", config(lineage=lineage), "--json").json
        assert denograd("run", config(lineage=lineage, gates={"swd": {"max": 1e-9}})).code == 3
        pd.DataFrame({"y": ["a"] * 60, "a": range(60)}).to_parquet(table)
        assert denograd("run", config(lineage=lineage, columns={"target": ["absent"]})).code == 2
        told = by_event(receiver.received)
    assert told == [json.loads(line) for line in (home / "lineage" / "readings.jsonl").read_text().splitlines()]
    assert [problems(one) for one in told] == [[]] * 6
    assert [one["eventType"] for one in told] == ["START", "COMPLETE", "START", "FAIL", "START", "FAIL"]
    assert len({one["run"]["runId"] for one in told}) == 3
    published, refused, failed = told[1::2]

    source, (result,) = published["inputs"][0], published["outputs"]
    assert (source["namespace"], source["name"]) == ("file", str(table))
    assert source["facets"]["version"]["datasetVersion"] == outcome["snapshot"]
    assert (result["namespace"], result["name"]) == ("file", str(home / "published" / "readings"))
    assert result["facets"]["version"]["datasetVersion"] == "1"
    assert published["run"]["facets"]["denograd"]["manifest"] == outcome["manifest"]
    assert published["run"]["facets"]["parent"]["job"]["name"] == "clean"
    assert "nominalTime" not in published["run"]["facets"]

    (kept,) = refused["outputs"]
    assert kept["name"] == str(home / "published" / "readings" / "quarantine")
    verdict = {one["assertion"]: one["success"] for one in kept["facets"]["dataQualityAssertions"]["assertions"]}
    assert not verdict["swd"]
    assert "refused by swd" in refused["run"]["facets"]["errorMessage"]["message"]
    assert failed["outputs"] == []
    assert failed["inputs"][0]["inputFacets"]["dataQualityMetrics"]["rowCount"] == 60
    assert "absent" in failed["run"]["facets"]["errorMessage"]["message"]

    root = f"file://{home}/published/readings"
    materialised = "prefect.asset.materialization.succeeded"
    version = awaited(materialised, root)
    assert version["payload"]["manifest"] == outcome["manifest"]
    assert version["payload"]["gates"]["swd"]["passed"] is True
    related = {one["prefect.resource.id"] for one in version["related"]}
    assert {f"file://{table}", f"{root}/models"} <= related
    model = awaited(materialised, f"{root}/models")
    assert model["payload"]["uri"] == outcome["model"]
    assert awaited("prefect.asset.referenced", f"file://{table}")
    assert len(events(materialised, root)) == 1
