"""What retention removed: which version gave up its tables, when, and who did it. See `retention.py`.

<root>/<dataset>/removed/00000003.json     the tables that version 3 gave up
<root>/<dataset>/removed/00000003.sig      a signature, where manifests are signed

It is written before anything is deleted. A table that a version gave up is still there as long as another one has it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from denograd_engine.errors import StoreError
from denograd_tasks.audit.files import listed
from denograd_tasks.home import person
from denograd_tasks.records import File
from denograd_tasks.store import Store
from denograd_tasks.versions import Manifest, canonical, history, sealed


@dataclass(frozen=True)
class Removal:
    """Tables that a version gave up.

    Attributes:
        path: Of what says so, relative to the root.
        digest: sha256 of its bytes.
        number: Of the version.
        manifest: Digest of its manifest.
        files: The tables.
        by: Who removed them, on the machine where that was done; None if that is not known.
        at: When.
        kept: How many versions were to be kept.
        sealed: Whether it says what it said when it was written.
    """

    path: str
    digest: str
    number: int
    manifest: str
    files: tuple[File, ...]
    by: str | None
    at: str
    kept: int
    sealed: bool

    def words(self) -> str:
        """Who did it, when and why."""
        return f"removed by {self.by}, {self.at}: retention kept {self.kept}"


def tables_of(content: Mapping[str, Any]) -> tuple[File, ...]:
    """The tables of a version: refined and observed data, and what says something of each row."""
    return tuple(file for file in listed(content) if file.path.endswith(".parquet"))


def removal_path(dataset: str, number: int) -> str:
    """Where it is written down."""
    return f"{dataset}/removed/{number:08d}.json"


def write_removal(store: Store, manifest: Manifest, kept: int) -> Removal:
    """Write down that a version gives up its tables, unless that is written down already.

    Raises:
        StoreError: If what is written down cannot be read.
    """
    plain = {
        "dataset": manifest.dataset,
        "number": manifest.number,
        "manifest": manifest.digest,
        "files": [file.model_dump() for file in tables_of(manifest.content)],
        "by": person(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kept": kept,
    }
    path = removal_path(manifest.dataset, manifest.number)
    store.create(path, canonical(sealed(plain)))
    return read_removal(store, path)


def removals(store: Store, dataset: str) -> dict[int, Removal]:
    """Every removal of a data set, by the number of its version.

    Raises:
        StoreError: If one cannot be read.
    """
    paths = (path for path in store.list(f"{dataset}/removed") if re.search(r"/\d{8}\.json$", path))
    return {removal.number: removal for removal in (read_removal(store, path) for path in paths)}


def claimed(store: Store, dataset: str, without: Collection[int] = ()) -> set[str]:
    """Paths of the files that versions have: all that their manifests name, less what they gave up.

    Args:
        store: The publishing root.
        dataset: The data set.
        without: Numbers of versions that count as having given up their tables.
    """
    gave_up, found = {*removals(store, dataset), *without}, set()
    for manifest in history(store, dataset):
        kept = {*listed(manifest.content)}
        if manifest.number in gave_up:
            kept -= {*tables_of(manifest.content)}
        found |= {file.path for file in kept}
    return found


def is_published(store: Store, dataset: str, path: str) -> bool:
    """Whether any version has this file."""
    return path in claimed(store, dataset)


def require_tables(store: Store, manifest: Manifest) -> None:
    """See that the tables of a version are there, as far as retention is concerned.

    Raises:
        StoreError: If it removed any of them: says who did it, and when.
    """
    removal = removal_of(store, manifest)
    if removal is not None:
        raise StoreError(
            f"the data of {manifest.dataset}@{manifest.number} were removed by retention",
            found=removal.words(),
            where=store.uri(removal.path),
            remedy="name a version that is kept; manifest, model, verdict and report of this one are still there",
        )


def removal_of(store: Store, manifest: Manifest) -> Removal | None:
    """What became of tables of a version that are gone; None if all are there, or nobody wrote down why not."""
    path = removal_path(manifest.dataset, manifest.number)
    if store.size(path) is None:
        return None
    removal = read_removal(store, path)
    return removal if any(store.size(file.path) is None for file in removal.files) else None


def read_removal(store: Store, path: str) -> Removal:
    """What is written down here.

    Raises:
        StoreError: If it cannot be read.
    """
    raw = store.read(path)
    try:
        plain = dict(json.loads(raw))
        return Removal(
            path=path,
            digest=hashlib.sha256(raw).hexdigest(),
            number=int(plain["number"]),
            manifest=str(plain["manifest"]),
            files=tuple(File(**file) for file in plain["files"]),
            by=plain["by"],
            at=str(plain["at"]),
            kept=int(plain["kept"]),
            sealed=canonical(plain) == raw and sealed(plain)["seal"] == plain.get("seal"),
        )
    except (ValueError, KeyError, TypeError):
        raise StoreError("what retention removed cannot be read", where=store.uri(path)) from None
