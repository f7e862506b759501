"""Results that a gate refused, and how a person publishes one nevertheless.

<root>/<dataset>/quarantine/<attempt>/_evidence/<verdict>/manifest.json     what the manifest would have said

It is written last, so whoever finds it finds the data, the verdict and the report. Whatever it names is kept as long as
it is there.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.audit.files import listed, require_intact
from denograd_tasks.audit.signing import sign_committed, signing_key
from denograd_tasks.home import person, scratch
from denograd_tasks.records import File, Gate
from denograd_tasks.store import Store
from denograd_tasks.tables import put_bytes, put_file
from denograd_tasks.tracking import tag_run
from denograd_tasks.versions import Committed, Manifest, commit, history

INTENDED = "manifest.json"


@dataclass(frozen=True)
class Refusal:
    """A refused result.

    Attributes:
        dataset: The data set.
        attempt: Names the result.
        refused: When, by the clock of the store.
        rows: Of the data.
        failed: The gates that refused it.
        version: Under which it was published after all; None if it was not.
        folder: Where it is, relative to the root.
        body: What its manifest would say.
    """

    dataset: str
    attempt: str
    refused: datetime
    rows: int
    failed: tuple[Gate, ...]
    version: int | None
    folder: str
    body: Mapping[str, Any]


def keep_intended(store: Store, quarantined: str, body: Mapping[str, Any]) -> File:
    """Keep what a manifest would have said.

    Args:
        store: The publishing root.
        quarantined: The folder of the verdict in quarantine.
        body: As for `commit`.
    """
    return put_bytes(store, json.dumps(body, indent=1, sort_keys=True).encode(), f"{quarantined}/{INTENDED}")


def refusals(store: Store, dataset: str) -> list[Refusal]:
    """The refused results of a data set that can be released, in the order in which they were refused."""
    published = {
        manifest.content["files"][0]["path"]: manifest.number
        for manifest in history(store, dataset)
        if manifest.content.get("released") and manifest.origin == manifest.number
    }
    found = []
    for entry in store.entries(f"{dataset}/quarantine"):
        match = re.fullmatch(rf"([^/]+/quarantine/([^/]+))/_evidence/[^/]+/{INTENDED}", entry.path)
        if match is None:
            continue
        body, gates = _read(store, entry.path)
        found.append(
            Refusal(
                dataset=dataset,
                attempt=match.group(2),
                refused=entry.written,
                rows=body["files"][0]["rows"],
                failed=tuple(gate for gate in gates if gate.severity == "error" and not gate.passed),
                version=published.get(body["files"][0]["path"]),
                folder=match.group(1),
                body=body,
            )
        )
    return sorted(found, key=lambda one: one.refused)


def _read(store: Store, path: str) -> tuple[dict[str, Any], list[Gate]]:
    try:
        body = dict(json.loads(store.read(path)))
        return body, [Gate(**one) for one in body["gates"]]
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            "what a refused result was to publish cannot be read",
            where=store.uri(path),
            remedy="move it away; the result can then not be released",
        ) from None


def released_as(store: Store, dataset: str, identity: str) -> Manifest | None:
    """The version under which a person released a refused result; None if nobody did.

    Args:
        store: The publishing root.
        dataset: The data set.
        identity: Of the result, as its manifest would give it.
    """
    released = (one for one in history(store, dataset) if one.content.get("released") and one.origin == one.number)
    return next((one for one in released if one.identity == identity), None)


def find_refusal(store: Store, dataset: str, attempt: str) -> Refusal:
    """The refused result whose name begins with this; of several verdicts on it, the last.

    Raises:
        ConfigError: If there is none, or more than one.
    """
    known = refusals(store, dataset)
    found = {one.attempt: one for one in known if one.attempt.startswith(attempt)}
    if len(found) != 1:
        raise ConfigError(
            f"data set {dataset!r} has {'several refused results' if found else 'no refused result'} of this name",
            expected=", ".join(sorted({one.attempt for one in known})[:10]) or None,
            found=attempt,
            where=store.uri(f"{dataset}/quarantine"),
            remedy=f"see what there is with: denograd quarantine {dataset}",
        )
    return next(iter(found.values()))


def release(store: Store, refusal: Refusal, reason: str) -> Committed:
    """Publish a refused result as the next version. Its manifest says who did so, and why.

    Args:
        store: The publishing root.
        refusal: From `find_refusal`.
        reason: Why the verdict does not count.

    Raises:
        StoreError: If a file of it is gone or damaged, or it was to be appended to a version that is not the newest.
        ConfigError: If there is no key to sign with.
        ServiceError: If MLflow does not answer; the version is published then, and releasing again tells MLflow.
    """
    body = refusal.body
    named = body["settings"]["publish"].get("sign_with")
    key = None if named is None else signing_key(named)
    _bring_back(store, refusal)
    released = {"by": person(), "reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    committed = commit(store, refusal.dataset, {**body, "released": released})
    if key is not None:
        sign_committed(store, committed, body, key)
    model = body["model"]
    tags = {
        "denograd.version": f"{refusal.dataset}@{committed.manifest.number}",
        "denograd.manifest": committed.manifest.digest,
    }
    tag_run(model["tracking_uri"], model["mlflow_run_id"], tags)
    return committed


def _bring_back(store: Store, refusal: Refusal) -> None:
    """Copy the data to where those of versions are, and see that everything is there."""
    for file in refusal.body["files"]:
        if store.size(file["path"]) is None:
            kept = file["path"].replace("/data/", "/quarantine/", 1)
            with tempfile.TemporaryDirectory(dir=scratch()) as folder:
                put_file(store, store.fetch(kept, Path(folder)), file["path"])
    require_intact(store, listed(refusal.body), "the refused result", "run again")
