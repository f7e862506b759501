"""Publishing roots made of manifests and small records alone, as many versions as one likes, without any run."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from denograd_tasks.audit.files import listed
from denograd_tasks.refusals import keep_intended
from denograd_tasks.store import Store
from denograd_tasks.versions import FORMAT_VERSION, canonical, manifest_path, sealed
from denograd_tasks.watch.history import Past, history_path

START = datetime(2026, 1, 5, 6, tzinfo=UTC)
BOUNDS: dict[str, tuple[float | None, float | None, str]] = {
    "skill": (0.1, None, "error"),
    "swd": (None, 0.15, "error"),
    "rho": (0.9, None, "error"),
    "mean_drift": (None, 0.1, "error"),
    "std_ratio": (0.7, 1.1, "error"),
    "correlation_change": (None, 0.1, "error"),
    "column_rho": (0.7, None, "warning"),
    "largest_correction": (None, 6.0, "warning"),
    "untouched_identical": (1.0, None, "error"),
    "rows_kept": (1.0, None, "error"),
}
USUAL = {
    "skill": 0.82,
    "swd": 0.09,
    "rho": 0.97,
    "mean_drift": 0.02,
    "std_ratio": 0.92,
    "correlation_change": 0.04,
    "column_rho": 0.88,
    "largest_correction": 4.6,
}
DOCS = "docs/validations/fidelity/__none__/20260105T060000.000000Z/measured-values.html"


def digest(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def gates_at(generator: np.random.Generator, wave: float) -> list[dict[str, Any]]:
    found = []
    for name, (low, high, severity) in BOUNDS.items():
        value = 1.0
        if name in USUAL:
            value = USUAL[name] * float(1 + 0.01 * wave + 0.02 * generator.normal())
            value = min(value, 0.999) if "rho" in name else value
        if severity == "error":
            value = float(np.clip(value, -math.inf if low is None else low, math.inf if high is None else high))
        passed = (low is None or value >= low) and (high is None or value <= high)
        found.append(
            {
                "name": name,
                "value": value,
                "minimum": low,
                "maximum": high,
                "severity": severity,
                "passed": passed,
                "meaning": f"what {name} measures, in one plain sentence",
                "remedy": "what to try when it fails",
            }
        )
    return found


def body_of(dataset: str, number: int, columns: Sequence[str], rows: int, event: str | None = None) -> dict[str, Any]:
    """What a manifest says of itself, made up; the rule is `posterior`."""
    generator = np.random.default_rng([number, *dataset.encode()])
    wave = math.sin(number / 9)
    attempt = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{dataset}@{number}"))
    evidence, snapshot = f"{dataset}/evidence/{attempt}", digest(dataset, number, "snapshot")
    model = digest(dataset, number // 7, "model")

    def file(path: str, **more: Any) -> dict[str, Any]:
        return {"path": path, "sha256": digest(path), "bytes": int(generator.integers(1e3, 1e6)), **more}

    assets = [f"docs/static/asset-{at}.css" for at in range(16)]
    named = ["a1b2/report.html", "rows.parquet", "std.parquet", "c3d4/verdict.json", "profile.json", f"c3d4/{DOCS}"]
    noisy = {
        name: {
            "noise": 0.3 + 0.01 * at,
            "declared": 0.3,
            "bound": 0.5,
            "skill": float(np.clip(0.8 - 0.02 * at + 0.03 * wave, 0, 1)),
            "gain": float(np.clip(0.55 + 0.01 * at + 0.05 * wave + 0.02 * generator.normal(), 0.05, 1)),
            "faults": None,
        }
        for at, name in enumerate(columns)
    }
    checks = [
        {"name": "rows", "value": float(rows), "minimum": 50.0, "passed": True, "meaning": "number of rows"},
        {"name": "absent_columns", "value": 0.0, "maximum": 0.0, "passed": True, "meaning": "columns not found"},
    ]
    return {
        "identity": digest(attempt),
        "mode": "full",
        "appended": None,
        "unsettled": None,
        "files": [file(f"{dataset}/data/{attempt}/part-00000.parquet", rows=rows)],
        "content_digest": digest(attempt, "content"),
        "schema": [
            {"name": name, "role": "feature" if at else "target", "why": "numbers", "type": "double"}
            for at, name in enumerate(columns)
        ],
        "source": {
            "uri": f"s3://plant/{dataset}/",
            "snapshot": snapshot,
            "files": [file(f"{dataset}/snapshots/{snapshot}/part-00000.parquet")],
        },
        "model": {
            "kind": "posterior",
            "architecture": {"kind": "posterior", "arguments": {}},
            "adopted": False,
            "uri": f"models:/{dataset}/{1 + number // 7}",
            "digest": model,
            "skill": {name: one["skill"] for name, one in noisy.items()},
            "residual_scale": 0.4,
            "columns": noisy,
            "tracking_uri": "https://mlflow.example",
            "mlflow_run_id": digest(model)[:32],
            "files": [
                file(f"{dataset}/models/{model}/{name}")
                for name in ("model.safetensors", "encoder.json", "posterior.json")
            ],
        },
        "refinement": {
            "rule": "posterior",
            "why": f"columns.noise declares that of {len(columns)} columns",
            "rows": rows,
            "moved": rows,
            "epochs": 1,
            "eta": 0.5,
            "residual_before": 0.34 + 0.02 * wave,
            "residual_after": 0.09 + 0.01 * wave,
            "strength": 1.0,
            "strength_chosen": False,
            "columns": {},
        },
        "settings": {
            "dataset": dataset,
            "source": f"s3://plant/{dataset}/",
            "columns": {"target": [columns[0]], "noise": dict.fromkeys(columns, 0.3)},
            "backbone": {"training": {"epochs": 100, "patience": 10}},
            "refine": {"rule": "auto", "tau": 0.1, "eta": "auto", "max_epochs": 100},
            "publish": {"root": "s3://plant/published"},
        },
        "input_checks": checks,
        "gates": gates_at(generator, wave),
        "fidelity": {"rho": dict.fromkeys(columns, 0.97), "mean_drift": dict.fromkeys(columns, 0.01)},
        "evidence": [file(f"{evidence}/{name}") for name in [*named, *assets]],
        "report": f"{evidence}/a1b2/report.html",
        "docs": f"{evidence}/c3d4/{DOCS}",
        "run": {
            "flow_run_id": str(uuid.UUID(digest(attempt)[:32])),
            "flow_run_name": f"{dataset}-{snapshot[:8]}",
            "trigger": "drift" if event else "schedule",
            "event": event,
            "user": "worker",
        },
        "environment": {
            "python": "3.11.7",
            "platform": "Linux",
            "packages": {"prefect-denograd": "0.1.0", "torch": "2.13.0", "prefect": "3.8.8"},
            "git_revision": None,
        },
    }


def publish_made_up(
    store: Store,
    dataset: str,
    versions: int,
    columns: Sequence[str] = ("load", "flow", "heat", "power"),
    drifts: Sequence[int] = (),
    every: timedelta = timedelta(hours=12),
) -> None:
    """A history with sealed manifests that follow each other.

    Args:
        store: The publishing root.
        dataset: The data set.
        versions: How many.
        columns: Of the data, the first is the target.
        drifts: Numbers of the versions that answer a drift.
        every: From one version to the next.
    """
    parent = None
    for number in range(1, versions + 1):
        event = str(uuid.uuid5(uuid.NAMESPACE_URL, f"drift {number}")) if number in drifts else None
        body = body_of(dataset, number, columns, 5000 + 40 * number, event)
        place = {
            "format_version": FORMAT_VERSION,
            "dataset": dataset,
            "number": number,
            "parent": parent,
            "created": (START + every * number).isoformat(timespec="seconds"),
        }
        raw = canonical(sealed(body | place))
        parent = hashlib.sha256(raw).hexdigest()
        store.create(manifest_path(dataset, number), raw)
        for file in listed(body):
            store.create(file.path, b"")


def watch_made_up(store: Store, dataset: str, drifts: Sequence[int], every: timedelta = timedelta(hours=12)) -> None:
    """Four looks a version; a drift begins a look before each of these versions."""
    looks = []
    for number in range(1, max(drifts, default=0) + 3):
        for check in range(1, 5):
            drifted = number + 1 in drifts and check >= 3
            looks.append(
                Past(
                    at=START + every * number + every / 5 * check,
                    version=number,
                    check=check,
                    arrived=50,
                    severity="drift" if drifted else "none",
                    evidence=10.0 ** (3.6 + 0.2 * check if drifted else 0.3 * check),
                    drift=drifted,
                    began=drifted and check == 3,
                    columns=("flow", "residual of load") if drifted and check == 3 else (),
                    kinds=("location", "relation") if drifted and check == 3 else (),
                )
            )
    plain = {"looks": [one.model_dump(mode="json") for one in looks]}
    store.replace(history_path(dataset), json.dumps(plain).encode())


def refuse_made_up(store: Store, dataset: str, number: int, columns: Sequence[str] = ("load", "flow")) -> str:
    """A result in quarantine; returns the name of the attempt."""
    body = body_of(dataset, number, columns, 5000)
    body["gates"][1] |= {"value": 0.31, "passed": False}
    attempt = body["files"][0]["path"].split("/")[2]
    for file in listed(body):
        store.create(file.path, b"")
    keep_intended(store, f"{dataset}/quarantine/{attempt}/_evidence/c3d4", body)
    return attempt
