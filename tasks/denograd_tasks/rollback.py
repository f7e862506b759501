"""Going back: an earlier version's content becomes that of the next one. History is never rewritten.

The new manifest names the files of the earlier version, which are not copied, and says who went back, when and why.
What is appended afterwards builds on it: on that content, by that model, with those settings. Rows that later versions
added are not in it; a source that holds everything brings them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from denograd_engine.errors import DenogradError
from denograd_tasks.audit.files import listed, require_intact
from denograd_tasks.audit.signing import sign_committed, signing_key
from denograd_tasks.home import person
from denograd_tasks.removals import require_tables
from denograd_tasks.store import Store
from denograd_tasks.tracking import SQLITE, tag_run
from denograd_tasks.versions import PLACE, Committed, Manifest, commit, last_run, origin_of


@dataclass(frozen=True)
class RolledBack:
    """What came of it.

    Attributes:
        committed: The version with the earlier content.
        told: Whether the MLflow run of its training was told.
    """

    committed: Committed
    told: bool


def roll_back(store: Store, manifest: Manifest, reason: str) -> RolledBack:
    """Publish a version's content as the next version; to be called by the only one at work on the data set.

    Args:
        store: The publishing root.
        manifest: Of the version to go back to.
        reason: Why.

    Returns:
        The newest version where that has this very content already.

    Raises:
        StoreError: If a file of the version is gone, removed by retention, or damaged.
        ConfigError: If versions are signed, and there is no key to sign with.
    """
    origin, last = origin_of(store, manifest), last_run(store, manifest.dataset)
    assert last is not None
    named = last.content["settings"]["publish"].get("sign_with")
    key = None if named is None else signing_key(named)
    label, by = f"{origin.dataset}@{origin.number}", person()
    require_tables(store, origin)
    require_intact(store, listed(origin.content), label, "look for a version that is whole with: denograd verify --all")
    body = {name: value for name, value in origin.content.items() if name not in PLACE}
    body["run"] = {
        "flow_run_id": None,
        "flow_run_name": f"rollback of {label}",
        "trigger": f"rollback of {label}",
        "event": None,
        "user": by,
    }
    body["rolled_back"] = {
        "to": origin.number,
        "manifest": origin.digest,
        "by": by,
        "reason": reason,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    committed = commit(store, origin.dataset, body)
    if key is not None:
        sign_committed(store, committed, body, key)
    return RolledBack(committed, _told(committed.manifest))


def _told(manifest: Manifest) -> bool:
    """Write the new version down in MLflow, where the newest manifest's digest is looked for; it may be away."""
    model = manifest.content["model"]
    uri = model["tracking_uri"]
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return False
    tags = {
        "denograd.version": f"{manifest.dataset}@{manifest.number}",
        "denograd.manifest": manifest.digest,
    }
    try:
        tag_run(uri, model["mlflow_run_id"], tags)
    except DenogradError:
        return False
    return True
