"""What a publishing root holds, from manifests and small records alone: no data are read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from denograd_engine.errors import StoreError
from denograd_tasks.audit.lineage import Lineage, lineage_in
from denograd_tasks.catalog.entries import Entry, entry_of
from denograd_tasks.litter import littered
from denograd_tasks.refusals import Refusal, refusals
from denograd_tasks.removals import removals
from denograd_tasks.store import Store
from denograd_tasks.tags import tags_of
from denograd_tasks.versions import Manifest, numbers, read_manifest
from denograd_tasks.watch.bookmark import Alarm, read_bookmark
from denograd_tasks.watch.history import Past, past_looks

READERS = 16
"""Manifests that are read at once: an object store answers each in its own time."""


@dataclass(frozen=True)
class Published:
    """A version whose manifest can be read.

    Attributes:
        manifest: As it was written.
        entry: The same in figures.
        lineage: Where it came from, but for what only other manifests know.
    """

    manifest: Manifest
    entry: Entry
    lineage: Lineage


@dataclass(frozen=True)
class Holding:
    """What is known of a data set.

    Attributes:
        name: Of it.
        versions: Ascending.
        amiss: What is wrong with manifests, in words.
        tags: Names that people gave to versions, by number.
        gone: Numbers of versions whose data retention removed.
        waiting: Refused results that nobody has released; None if a damaged record leaves that open.
        looks: What watches found, oldest first.
        alarm: The drift that holds, if there is one.
    """

    name: str
    versions: tuple[Published, ...]
    amiss: tuple[str, ...]
    tags: Mapping[int, tuple[str, ...]]
    gone: frozenset[int]
    waiting: tuple[Refusal, ...] | None
    looks: tuple[Past, ...]
    alarm: Alarm | None

    @property
    def newest(self) -> Entry | None:
        """The last version in figures; None before the first."""
        return self.versions[-1].entry if self.versions else None


def holdings(store: Store) -> list[Holding]:
    """What is known of each data set, ascending by name.

    Raises:
        ServiceError: If the store does not answer.
    """
    return [_holding(store, name) for name in littered(store)]


def learnt_snapshots(found: list[Holding]) -> Mapping[str, str]:
    """The snapshots that models were trained on, by the models' URIs."""
    lineages = (one.lineage for holding in found for one in holding.versions)
    return {one.model.uri: one.origin.snapshot for one in lineages if not one.model.adopted}


def _holding(store: Store, name: str) -> Holding:
    known = numbers(store, name)
    with ThreadPoolExecutor(READERS) as readers:
        manifests = list(readers.map(lambda number: _read(store, name, number), known))
    read = [None if one is None else _understood(one) for one in manifests]
    versions = tuple(one for one in read if one is not None)
    amiss = [f"the manifest of version {known[at]} cannot be read" for at, one in enumerate(read) if one is None]
    tags: dict[int, tuple[str, ...]] = {}
    gone, waiting, alarm = frozenset[int](), None, None
    with suppress(StoreError):
        waiting = _waiting(store, name)
    with suppress(StoreError):
        gone = frozenset(removals(store, name))
    with suppress(StoreError):
        for tag in tags_of(store, name):
            tags[tag.number] = (*tags.get(tag.number, ()), tag.name)
    with suppress(StoreError):
        bookmark = read_bookmark(store, name, versions[-1].manifest.digest) if versions else None
        alarm = None if bookmark is None else bookmark.alarm
    looks = past_looks(store, name)
    return Holding(name, versions, (*amiss, *_apart(versions)), tags, gone, waiting, looks, alarm)


def _read(store: Store, name: str, number: int) -> Manifest | None:
    try:
        return read_manifest(store, name, number)
    except StoreError:
        return None


def _understood(manifest: Manifest) -> Published | None:
    """None for a manifest that lacks what every manifest has."""
    try:
        return Published(manifest, entry_of(manifest), lineage_in(manifest, None, None))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _waiting(store: Store, name: str) -> tuple[Refusal, ...]:
    if next(store.list(f"{name}/quarantine"), None) is None:
        return ()
    return tuple(one for one in refusals(store, name) if one.version is None)


def _apart(versions: tuple[Published, ...]) -> list[str]:
    """Manifests that do not name the one before as it is now."""
    pairs = pairwise(one.manifest for one in versions)
    return [
        f"version {after.number} was published after another manifest of version {before.number}"
        for before, after in pairs
        if after.number == before.number + 1 and after.content["parent"] != before.digest
    ]
