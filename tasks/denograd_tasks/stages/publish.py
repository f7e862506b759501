"""Publish a judged refinement as the next version, or put it in quarantine.

Writing the manifest is the commit; everything that it names is in the store before.
"""

from __future__ import annotations

import getpass
import json
import platform
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prefect import task

from denograd_engine.errors import StoreError
from denograd_tasks.home import scratch
from denograd_tasks.keys import digest_of
from denograd_tasks.models import SCALING
from denograd_tasks.records import (
    File,
    InputCheck,
    Quarantined,
    Refined,
    Report,
    Snapshot,
    TrainedBackbone,
    Verdict,
    Version,
)
from denograd_tasks.roles import std_name
from denograd_tasks.rule import chosen_rule
from denograd_tasks.settings import Settings, without_credentials
from denograd_tasks.store import Store, open_store
from denograd_tasks.tables import put_bytes, put_file
from denograd_tasks.tracking import tag_run
from denograd_tasks.versions import Committed, commit, is_published

PACKAGES = (
    "prefect-denograd",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "prefect",
    "mlflow",
    "great-expectations",
    "obstore",
)


@task(name="publish", persist_result=False)
def publish(
    snapshot: Snapshot,
    checked: InputCheck,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
    report: Report,
    settings: Settings,
) -> Version:
    """Commit the next version; or find that the newest is this very result.

    Raises:
        StoreError: If the refined data are gone.
        ServiceError: If the store does not answer.
    """
    store = open_store(settings.publish.root)
    _bring_back(store, refined)
    body = _body(store, snapshot, checked, backbone, refined, verdict, report, settings)
    committed = commit(store, settings.dataset, body)
    version = _version(settings, committed)
    if committed.manifest.content["model"]["mlflow_run_id"] == backbone.run_id:
        tags = {
            "denograd.version": f"{version.dataset}@{version.number}",
            "denograd.manifest": version.digest,
            "denograd.flow_run": committed.manifest.content["run"]["flow_run_id"],
        }
        tag_run(backbone.tracking_uri, backbone.run_id, tags)
    return version


@task(name="quarantine", persist_result=False)
def quarantine(refined: Refined, verdict: Verdict, report: Report, settings: Settings) -> Quarantined:
    """Keep refused data apart, with the verdict and the report beside them."""
    store = open_store(settings.publish.root)
    staged = refined.located()
    if staged is None:
        raise StoreError("the refined data are gone", where=store.uri(refined.data.path), remedy="run again")
    folder = f"{settings.dataset}/quarantine/{refined.attempt}/_evidence"  # readers of Parquet pass over it
    if staged.path != refined.quarantined.path:
        _copy(store, staged, refined.quarantined)
        if not is_published(store, settings.dataset, staged.path):
            store.delete(staged.path)
    kept = [
        put_bytes(store, store.read(file.path), f"{folder}/{file.path.split(f'/{refined.attempt}/')[1]}")
        for file in (verdict.record, report.page)
    ]
    return Quarantined(root=settings.publish.root, files=(refined.quarantined, *kept))


def identity(refined: Refined, backbone: TrainedBackbone, settings: Settings) -> str:
    """What makes two results the same: the refined content, the model, and the bounds that it passed."""
    return digest_of([refined.attempt, backbone.digest, settings.gates.model_dump(mode="json")])


def _bring_back(store: Store, refined: Refined) -> None:
    """Refused once, passed now: from quarantine to where published data are."""
    staged = refined.located()
    if staged is None:
        raise StoreError("the refined data are gone", where=store.uri(refined.data.path), remedy="run again")
    if staged.path == refined.quarantined.path:
        _copy(store, staged, refined.data)


def _copy(store: Store, source: File, target: File) -> None:
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        copied = put_file(store, store.fetch(source.path, Path(folder)), target.path)
    if copied.sha256 != source.sha256:
        raise StoreError(
            "a stored object is damaged",
            expected=f"sha256 {source.sha256}",
            found=copied.sha256,
            where=store.uri(target.path),
            remedy="move it away and run again, and it is written anew",
        )


def _version(settings: Settings, committed: Committed) -> Version:
    manifest = committed.manifest
    return Version(
        root=settings.publish.root,
        dataset=settings.dataset,
        number=manifest.number,
        digest=manifest.digest,
        parent=manifest.content["parent"],
        already=committed.already,
    )


def _body(
    store: Store,
    snapshot: Snapshot,
    checked: InputCheck,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
    report: Report,
    settings: Settings,
) -> dict[str, Any]:
    """Everything in the manifest that does not depend on its place in the history."""
    encoder = json.loads(store.read(backbone.file(SCALING).path))
    types = dict(snapshot.columns)
    return {
        "identity": identity(refined, backbone, settings),
        "files": [{**_plain(refined.data), "rows": snapshot.rows}],
        "content_digest": refined.digest,
        "schema": [{**column, "type": types[column["name"]]} for column in encoder["schema"]["columns"]]
        + (_uncertainty(refined) if settings.refine.uncertainty else []),
        "source": {
            "uri": without_credentials(snapshot.source),
            "snapshot": snapshot.digest,
            "files": [_plain(file) for file in snapshot.files],
        },
        "model": {
            "kind": backbone.kind,
            "architecture": backbone.architecture.model_dump(mode="json"),
            "adopted": backbone.adopted,
            "uri": backbone.model_uri,
            "digest": backbone.digest,
            "skill": backbone.skill,
            "residual_scale": backbone.residual_scale,
            "columns": {name: column.model_dump() for name, column in backbone.columns.items()},
            "tracking_uri": without_credentials(backbone.tracking_uri),
            "mlflow_run_id": backbone.run_id,
            "files": [_plain(file) for file in backbone.files],
        },
        "refinement": {**refined.totals, **vars(chosen_rule(settings)), "columns": refined.columns},
        "settings": settings.public(),
        "input_checks": [gate.model_dump() for gate in checked.gates],
        "gates": [gate.model_dump() for gate in verdict.gates],
        "fidelity": verdict.fidelity,
        "evidence": [_plain(file) for file in (report.page, *refined.evidence, *verdict.files, *checked.files)],
        "report": report.page.path,
        "docs": verdict.docs,
        "run": _run(settings, snapshot),
        "environment": _environment(),
    }


def _uncertainty(refined: Refined) -> list[dict[str, Any]]:
    """The columns of posterior standard deviations, which come after all others."""
    why = "posterior standard deviation of each cell"
    return [
        {"name": std_name(name), "role": "uncertainty", "of": name, "why": why, "type": "double"}
        for name in refined.columns
    ]


def _plain(file: File) -> dict[str, Any]:
    return file.model_dump()


def _run(settings: Settings, snapshot: Snapshot) -> dict[str, Any]:
    from prefect.runtime import flow_run

    try:
        user: str | None = getpass.getuser()
    except (KeyError, OSError):
        user = None
    return {
        "flow_run_id": flow_run.get_id(),
        "flow_run_name": snapshot.run_name(settings.dataset),
        "trigger": "schedule" if "auto-scheduled" in (flow_run.get_tags() or []) else "command",
        "user": user,
    }


def _environment() -> dict[str, Any]:
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The revision of this code, where it runs from a checkout."""
    git, checkout = shutil.which("git"), Path(__file__).parents[3]
    if git is None or not (checkout / ".git").exists() or not (checkout / "tasks" / "denograd_tasks").is_dir():
        return None
    asked = subprocess.run([git, "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None
