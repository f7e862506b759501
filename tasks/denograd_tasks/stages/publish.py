"""Publish a judged refinement as the next version, or put it in quarantine.

Writing the manifest is the commit; everything that it names is in the store before.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from prefect import task

from denograd_engine.errors import StoreError
from denograd_tasks.audit.signing import sign_committed, signing_key
from denograd_tasks.environment import environment
from denograd_tasks.home import scratch
from denograd_tasks.keys import digest_of
from denograd_tasks.litter import require_young
from denograd_tasks.models import SCALING
from denograd_tasks.provenance import run_facts
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
from denograd_tasks.refusals import keep_intended, released_as
from denograd_tasks.removals import is_published
from denograd_tasks.roles import std_name
from denograd_tasks.rule import chosen_rule
from denograd_tasks.settings import Settings, without_credentials
from denograd_tasks.store import Store, open_store
from denograd_tasks.tables import put_bytes, put_file
from denograd_tasks.tracking import tag_run
from denograd_tasks.versions import Committed, commit
from denograd_tasks.watch.reference import keep_reference


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
        Overtaken: If it appends to a version that is not the newest any more.
        StoreError: If the refined data are gone, or what was computed is too old to be published.
        ServiceError: If the store does not answer.
        ConfigError: If there is no key to sign with.
    """
    store = open_store(settings.publish.root)
    _bring_back(store, refined)
    body = _body(store, snapshot, checked, backbone, refined, verdict, report, settings)
    require_young(store, settings.dataset, body)
    committed = commit(store, settings.dataset, body)
    if settings.publish.sign_with is not None:
        sign_committed(store, committed, body, signing_key(settings.publish.sign_with))
    version = _version(settings, committed)
    if committed.manifest.content["model"]["mlflow_run_id"] == backbone.run_id:
        tags = {
            "denograd.version": f"{version.dataset}@{version.number}",
            "denograd.manifest": version.digest,
            "denograd.strength": refined.strength,
            "denograd.flow_run": committed.manifest.content["run"]["flow_run_id"] or "none",
        }
        tag_run(backbone.tracking_uri, backbone.run_id, tags)
    return version


@task(name="quarantine", persist_result=False)
def quarantine(
    snapshot: Snapshot,
    checked: InputCheck,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
    report: Report,
    settings: Settings,
) -> Quarantined:
    """Keep refused data apart, with the verdict, the report, and what the manifest would have said beside them.

    Raises:
        StoreError: If the refined data are gone.
        ServiceError: If the store does not answer.
    """
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
    body = _body(store, snapshot, checked, backbone, refined, verdict, report, settings)
    kept.append(keep_intended(store, kept[0].path.rsplit("/", 1)[0], body))
    return Quarantined(root=settings.publish.root, files=(refined.quarantined, *kept))


def released_version(refined: Refined, backbone: TrainedBackbone, settings: Settings) -> Version | None:
    """The version under which a person released this very result after it was refused; None if nobody did."""
    store, named = open_store(settings.publish.root), identity(refined, backbone, settings)
    found = released_as(store, settings.dataset, named)
    return None if found is None else _version(settings, Committed(found, already=True))


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
    reference = keep_reference(store, snapshot, backbone, refined, settings)
    return {
        "identity": identity(refined, backbone, settings),
        "mode": "full" if refined.appended is None else "append",
        "appended": None if refined.appended is None else refined.appended.model_dump(),
        "unsettled": None if refined.unsettled is None else refined.unsettled.model_dump(),
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
            "start": None if backbone.start is None else backbone.start.model_dump(),
            "contest": None if backbone.contest is None else backbone.contest.model_dump(),
            "tracking_uri": without_credentials(backbone.tracking_uri),
            "mlflow_run_id": backbone.run_id,
            "files": [_plain(file) for file in backbone.files],
        },
        "refinement": {
            **refined.totals,
            **vars(chosen_rule(settings)),
            "strength": refined.strength,
            "strength_chosen": refined.strength_chosen,
            "columns": refined.columns,
        },
        "settings": settings.public(),
        "input_checks": [gate.model_dump() for gate in checked.gates],
        "gates": [gate.model_dump() for gate in verdict.gates],
        "fidelity": verdict.fidelity,
        "evidence": [
            _plain(file) for file in (report.page, *refined.evidence, *verdict.files, *checked.files, *reference)
        ],
        "report": report.page.path,
        "docs": verdict.docs,
        "run": run_facts(settings, snapshot),
        "environment": environment(settings.device),
    }


def _uncertainty(refined: Refined) -> list[dict[str, Any]]:
    """The columns of posterior standard deviations, which come after all others."""
    why = "posterior standard deviation of each cell"
    if refined.strength < 1:
        why += f", of the whole posterior: cells went {refined.strength:g} of the way"
    return [
        {"name": std_name(name), "role": "uncertainty", "of": name, "why": why, "type": "double"}
        for name in refined.columns
    ]


def _plain(file: File) -> dict[str, Any]:
    return file.model_dump()
