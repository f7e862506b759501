"""What killed, refused and failed runs leave in a publishing root, and when it may be deleted.

Deleting is safe without any lock, since it goes by age, and by one clock, that of the store:

- What a version has is never deleted, nor what a quarantined result needs to be released. It has all that its manifest
  names, but for tables that retention made it give up (see `removals.py`).
- What nothing names is deleted `LONGEST_RUN` and `GRACE` after it was written.
- What is older than `LONGEST_RUN`, and named by nothing yet, is not published any more. `GRACE` is how long writing a
  manifest may take after that was asked.

Only folders that this project names are looked into: other files in the root stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from denograd_engine.errors import StoreError
from denograd_tasks.audit.files import listed
from denograd_tasks.refusals import refusals
from denograd_tasks.removals import claimed
from denograd_tasks.store import Store, Stored

LONGEST_RUN = timedelta(days=7)
"""From the first object that a run writes or finds to its manifest."""
GRACE = timedelta(hours=1)

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OURS = re.compile(
    rf"[^/]+/(?:(data|evidence|quarantine)/{_UUID}|(snapshots|models)/[0-9a-f]{{64}}|(evidence)/input-[0-9a-f]{{32}})/.+"
    rf"|[^/]+/(clock)/{_UUID}|[^/]+/(tags|watch)/[^/]+\.{_UUID}\.new"
)
_OF_A_DATASET = re.compile(r"([a-z0-9][a-z0-9_.-]*)/(?:snapshots/[0-9a-f]{64}/|versions/\d{8}\.json$)")
WHOLE = ("data", "snapshots", "models")
"""Folders of which readers take everything: beside what a version names there, `verify` finds what does not belong."""


@dataclass(frozen=True)
class Litter:
    """An object that nothing needs.

    Attributes:
        path: Relative to the root.
        kind: The folder of the data set that it is in.
        bytes: Its size.
    """

    path: str
    kind: str
    bytes: int


def littered(store: Store) -> list[str]:
    """The data sets in a root, published or not, ascending."""
    return sorted({match.group(1) for path in store.list("") if (match := _OF_A_DATASET.match(path))})


def litter_of(store: Store, dataset: str, keep_quarantined: timedelta | None = None) -> list[Litter]:
    """What may be deleted of a data set, in the order in which it should be.

    Args:
        store: The publishing root.
        dataset: The data set.
        keep_quarantined: Results in quarantine for longer than that are litter; None keeps all of them.

    Raises:
        StoreError: If a manifest cannot be read: then nobody knows what it names.
    """
    now = store.clock(dataset)
    entries = [(entry, match) for entry in store.entries(dataset) if (match := _OURS.fullmatch(entry.path))]
    spent = _spent([entry for entry, _ in entries], now, keep_quarantined)
    needed = _needed(store, dataset, without=spent)
    whole = {folder for path in needed if (folder := _folder(path)).split("/")[1] in WHOLE}
    found = []
    for entry, match in entries:
        kind = next(group for group in match.groups() if group)
        folder = _folder(entry.path)
        if kind == "quarantine":
            if folder in spent:
                found.append(Litter(entry.path, kind, entry.bytes))
        elif now - entry.written > LONGEST_RUN + GRACE and entry.path not in needed and folder not in whole:
            found.append(Litter(entry.path, kind, entry.bytes))
    return sorted(found, key=lambda one: (one.kind != "quarantine", one.path))


def collect(store: Store, litter: Iterable[Litter]) -> None:
    """Delete it."""
    for one in litter:
        store.delete(one.path)


def require_young(store: Store, dataset: str, body: Mapping[str, Any]) -> None:
    """Refuse to publish what `litter_of` may be about to delete; to be asked right before the commit.

    What is old enough to be deleted is deleted here, so that the next run computes it anew.

    Args:
        store: The publishing root.
        dataset: The data set.
        body: What the manifest is going to say.

    Raises:
        StoreError: If a file that it names, and nothing else does, is older than the longest allowed run, or gone.
    """
    now = store.clock(dataset)
    ages = {file.path: _age(store, file.path, now) for file in listed(body)}
    old = {path for path, age in ages.items() if age > LONGEST_RUN}
    old -= _needed(store, dataset) if old else set()
    if not old:
        return
    deletable = all(ages[path] > LONGEST_RUN + GRACE for path in old)
    if deletable:
        collect(store, (Litter(path, "", 0) for path in sorted(old)))
    raise StoreError(
        f"this attempt is older than {LONGEST_RUN.days} days, the longest that a run may take",
        found=f"{len(old)} of its files are",
        where=store.uri(body["files"][0]["path"]),
        remedy="run again, and it is computed anew" if deletable else "wait an hour, and run again",
    )


def _age(store: Store, path: str, now: datetime) -> timedelta:
    written = store.written(path)
    if written is None:
        raise StoreError("a stored object is missing", where=store.uri(path), remedy="run again")
    return now - written


def _needed(store: Store, dataset: str, without: frozenset[str] = frozenset()) -> set[str]:
    """Paths that a version has, or that a quarantined result needs other than those in these folders."""
    refused = (one.body for one in refusals(store, dataset) if one.folder not in without)
    return claimed(store, dataset) | {file.path for body in refused for file in listed(body)}


def _spent(entries: Sequence[Stored], now: datetime, keep: timedelta | None) -> frozenset[str]:
    """Folders of quarantined results that have been there for longer than they are kept."""
    newest: dict[str, datetime] = {}
    for entry in entries:
        if entry.path.split("/")[1] == "quarantine":
            folder = _folder(entry.path)
            newest[folder] = max(entry.written, newest.get(folder, entry.written))
    return frozenset(folder for folder, written in newest.items() if keep is not None and now - written > keep)


def _folder(path: str) -> str:
    """The folder of an attempt, snapshot or model."""
    return "/".join(path.split("/")[:3])
