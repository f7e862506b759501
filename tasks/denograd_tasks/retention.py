"""Retention: the last so many versions and all tagged ones keep their tables; older ones give theirs up.

Only tables go: refined and observed data, and what says something of each row. Manifests, models, verdicts, profiles
and reports stay, so that the history can be read and verified. A table that any other version has stays as well: the
snapshot of several versions, or the data of one that a later version rolls back to.

To be called by the only one at work on the data set. What is given up is written down first, then deleted; a version
that is tagged meanwhile keeps its tables, since either the one who tags it sees that they are given up, or this one
sees the tag.
"""

from __future__ import annotations

from dataclasses import dataclass

from denograd_engine.errors import StoreError
from denograd_tasks.audit.files import listed
from denograd_tasks.audit.signing import sign, signature_path, signing_key
from denograd_tasks.refusals import refusals
from denograd_tasks.removals import claimed, removal_path, removals, tables_of, write_removal
from denograd_tasks.store import Store
from denograd_tasks.tags import Tag, put_tag, tags_of
from denograd_tasks.versions import Manifest, history, last_run


@dataclass(frozen=True)
class Outdated:
    """Versions that are to give up their tables.

    Attributes:
        manifests: Of them, ascending.
        paths: Tables that no other version has, and no refused result needs: those that go.
        bytes: Their size.
        kept: How many versions are kept; None is all.
    """

    manifests: tuple[Manifest, ...]
    paths: tuple[str, ...]
    bytes: int
    kept: int | None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the versions."""
        return tuple(one.number for one in self.manifests)


def retention_of(store: Store, dataset: str) -> int | None:
    """How many versions are kept, as the last run was configured; None is all."""
    last = last_run(store, dataset)
    return None if last is None else last.content["settings"]["publish"].get("retention")


def outdated(store: Store, dataset: str, keep: int | None) -> Outdated:
    """Versions of which tables may go: neither among the last so many, nor tagged, nor without tables already.

    Args:
        store: The publishing root.
        dataset: The data set.
        keep: How many, at least 1; None keeps all.

    Raises:
        StoreError: If a manifest cannot be read: then nobody knows what it names.
    """
    if keep is None:
        return Outdated((), (), 0, keep)
    known, tagged = list(history(store, dataset)), {tag.number for tag in tags_of(store, dataset)}
    stay = {*removals(store, dataset), *tagged, *(one.number for one in known[-keep:])}
    old = tuple(one for one in known if one.number not in stay)
    needed = claimed(store, dataset, {one.number for one in old}) | _refused(store, dataset)
    tables = {file.path for one in old for file in tables_of(one.content)} - needed
    sizes = {path: size for path in sorted(tables) if (size := store.size(path)) is not None}
    return Outdated(old, tuple(sizes), sum(sizes.values()), keep)


def retire(store: Store, dataset: str, found: Outdated) -> None:
    """Write down that these versions give up their tables, and delete those that nobody else has.

    Raises:
        ConfigError: If versions are signed, and there is no key to sign with; then nothing is removed.
        StoreError: If a manifest cannot be read.
    """
    if not found.manifests or found.kept is None:
        return
    last = last_run(store, dataset)
    named = None if last is None else last.content["settings"]["publish"].get("sign_with")
    key = None if named is None else signing_key(named)
    for manifest in found.manifests:
        removal = write_removal(store, manifest, found.kept)
        if key is not None:
            sign(store, removal, key)
    for number in {tag.number for tag in tags_of(store, dataset)} & {*found.numbers}:
        _withdraw(store, dataset, number)
    needed = claimed(store, dataset) | _refused(store, dataset)
    for path in found.paths:
        if path not in needed:
            store.delete(path)


def tag_version(store: Store, manifest: Manifest, name: str, move: bool) -> Tag:
    """Tag a version, which retention keeps from then on.

    Raises:
        StoreError: If its tables are given up already.
        ConfigError: If this can be no tag, or another version has it and it is not to be moved.
    """
    path = removal_path(manifest.dataset, manifest.number)
    _require_kept(store, manifest, path)
    tag = put_tag(store, manifest.dataset, name, manifest.number, move)
    _require_kept(store, manifest, path)
    return tag


def _require_kept(store: Store, manifest: Manifest, path: str) -> None:
    if store.size(path) is not None:
        raise StoreError(
            f"{manifest.dataset}@{manifest.number} has given up its data: retention does not keep it any more",
            where=store.uri(path),
            remedy="tag a version that is kept",
        )


def _refused(store: Store, dataset: str) -> set[str]:
    """What results in quarantine need to be released."""
    return {file.path for one in refusals(store, dataset) for file in listed(one.body)}


def _withdraw(store: Store, dataset: str, number: int) -> None:
    path = removal_path(dataset, number)
    store.delete(signature_path(path))
    store.delete(path)
