"""Published versions: a version exists when its manifest does, and manifests form a hash chain.

<root>/<dataset>/versions/00000007.json     the manifest of version 7

A manifest carries the digest of the one before, and as `seal` the digest of all that it says itself: by it the newest,
which no other names yet, tells whether it is as it was written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.store import Store
from denograd_tasks.tags import TAG, tagged

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """A published version as it was written.

    Attributes:
        path: Of the manifest, relative to the root.
        digest: sha256 of its bytes.
        content: Its fields.
    """

    path: str
    digest: str
    content: dict[str, Any]

    @property
    def number(self) -> int:
        return int(self.content["number"])

    @property
    def dataset(self) -> str:
        return str(self.content["dataset"])

    @property
    def identity(self) -> str:
        return str(self.content["identity"])

    @property
    def origin(self) -> int:
        """The number of the version whose content it is: its own, or that of the version that it rolls back to."""
        rolled_back = self.content.get("rolled_back")
        return int(rolled_back["to"]) if rolled_back else self.number


@dataclass(frozen=True)
class Committed:
    """What a commit came to.

    Attributes:
        manifest: The version that holds the result.
        already: Whether it had been published before.
    """

    manifest: Manifest
    already: bool


def manifest_path(dataset: str, number: int) -> str:
    """Where the manifest of a version is."""
    return f"{dataset}/versions/{number:08d}.json"


def numbers(store: Store, dataset: str) -> list[int]:
    """The numbers of a data set's versions, ascending."""
    found = (re.fullmatch(r".*/(\d{8})\.json", path) for path in store.list(f"{dataset}/versions"))
    return [int(match.group(1)) for match in found if match]


def datasets(store: Store) -> list[str]:
    """The data sets with at least one version, ascending."""
    return sorted(
        {path.split("/versions/")[0] for path in store.list("") if re.search(r"/versions/\d{8}\.json$", path)}
    )


def read_manifest(store: Store, dataset: str, number: int) -> Manifest:
    """The manifest of a version.

    Raises:
        StoreError: If there is no such version, it is damaged, or it was written by a later release.
    """
    path = manifest_path(dataset, number)
    raw = store.read(path)
    try:
        content = dict(json.loads(raw))
    except (ValueError, TypeError):
        raise StoreError("the manifest of a version is damaged", expected="JSON", where=store.uri(path)) from None
    if content.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            "this version was written in a format that this release does not know",
            expected=f"format_version {FORMAT_VERSION}",
            found=str(content.get("format_version")),
            where=store.uri(path),
            remedy="upgrade prefect-denograd",
        )
    return Manifest(path, hashlib.sha256(raw).hexdigest(), content)


def newest(store: Store, dataset: str) -> Manifest | None:
    """The manifest with the highest number, or None before the first."""
    known = numbers(store, dataset)
    return read_manifest(store, dataset, known[-1]) if known else None


def history(store: Store, dataset: str) -> Iterator[Manifest]:
    """Every manifest of a data set, ascending."""
    for number in numbers(store, dataset):
        yield read_manifest(store, dataset, number)


def parse_name(name: str) -> tuple[str, int | str | None]:
    """The data set and the number or tag in NAME, NAME@N or NAME@TAG.

    Raises:
        ConfigError: If the name is malformed.

    >>> parse_name("parkinsons@3"), parse_name("parkinsons@2026-q3"), parse_name("parkinsons")
    (('parkinsons', 3), ('parkinsons', '2026-q3'), ('parkinsons', None))
    """
    match = re.fullmatch(rf"([a-z0-9][a-z0-9_.-]*)(?:@(?:(\d+)|({TAG})))?", name)
    if not match:
        expected = "NAME, NAME@N or NAME@TAG, such as parkinsons@3"
        raise ConfigError("this is no name of a version", expected=expected, found=name)
    dataset, number, tag = match.groups()
    return dataset, int(number) if number else tag


def named_number(store: Store, name: str) -> tuple[str, int | None]:
    """The data set and the number that NAME, NAME@N or NAME@TAG means now; None is the newest.

    Raises:
        ConfigError: If the name is malformed.
        StoreError: If there is no such tag.
    """
    dataset, at = parse_name(name)
    return dataset, tagged(store, dataset, at) if isinstance(at, str) else at


def resolve(store: Store, name: str) -> Manifest:
    """The version called NAME, NAME@N or NAME@TAG; the name alone is the newest.

    Raises:
        ConfigError: If the name is malformed.
        StoreError: If there is no such data set or version: names those that there are.
    """
    dataset, _ = parse_name(name)
    known = numbers(store, dataset)
    if not known:
        there = datasets(store)
        raise StoreError(
            f"there is no published data set {dataset!r}",
            found=", ".join(there[:10]) or "none at all",
            where=store.root,
            remedy="publish one with: denograd run denograd.yaml",
        )
    _, number = named_number(store, name)
    wanted = known[-1] if number is None else number
    if wanted not in known:
        raise no_version(store, dataset, wanted, known)
    return read_manifest(store, dataset, wanted)


def origin_of(store: Store, manifest: Manifest) -> Manifest:
    """The version whose content this is: itself, or the one that it rolls back to.

    Raises:
        StoreError: If that one is not what it was then.
    """
    if manifest.origin == manifest.number:
        return manifest
    known = manifest.content["rolled_back"]["manifest"]
    return read_same(store, manifest.dataset, manifest.origin, known, "it was rolled back to")


def read_same(store: Store, dataset: str, number: int, digest: str, when: str) -> Manifest:
    """A manifest that was read before.

    Args:
        store: The publishing root.
        dataset: The data set.
        number: Of the version.
        digest: Of the manifest then.
        when: That was, in the error.

    Raises:
        StoreError: If it is gone, or not the same any more.
    """
    found = read_manifest(store, dataset, number)
    if found.digest != digest:
        raise StoreError(
            f"{dataset}@{number} is not what it was when {when}",
            expected=f"a manifest with the digest {digest}",
            found=found.digest,
            where=store.uri(found.path),
            remedy="look for damage with: denograd verify",
        )
    return found


def last_run(store: Store, dataset: str) -> Manifest | None:
    """The newest version that is no rollback, whose settings are those of the last run; None before the first."""
    manifests = (read_manifest(store, dataset, number) for number in reversed(numbers(store, dataset)))
    return next((one for one in manifests if one.origin == one.number), None)


def no_version(store: Store, dataset: str, wanted: int, known: Sequence[int]) -> StoreError:
    """The error of a number that is not among those of a data set."""
    return StoreError(
        f"data set {dataset!r} has no version {wanted}",
        found=f"versions {known[0]} to {known[-1]}",
        where=store.root,
    )


def canonical(content: Mapping[str, Any]) -> bytes:
    """A manifest as it is written."""
    return json.dumps(content, indent=1, sort_keys=True).encode()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a manifest with `seal`, the sha256 of all the rest."""
    rest = {name: value for name, value in content.items() if name != "seal"}
    return rest | {"seal": hashlib.sha256(canonical(rest)).hexdigest()}


PLACE = ("format_version", "dataset", "number", "parent", "created", "seal")
"""What a manifest says of its place in the history; all the rest is its body."""


class Overtaken(StoreError):
    """Another version was published meanwhile, which this one would have had to build on."""


def commit(store: Store, dataset: str, body: Mapping[str, Any]) -> Committed:
    """Write the manifest of the next version, unless the newest has the same identity.

    Of several that race for a number one wins; the others go on from its version, unless they were made in mode
    `append` from the one before.

    Args:
        store: The publishing root.
        dataset: The data set.
        body: The manifest without what depends on its place in the history; all files that it names are in the store.

    Raises:
        Overtaken: If it was appended to a version that is not the newest.
    """
    while True:
        parent = newest(store, dataset)
        if parent is not None and parent.identity == body["identity"]:
            return Committed(parent, already=True)
        if not _builds_on(body, parent):
            raise Overtaken(
                f"another version of {dataset!r} was published meanwhile",
                found="none" if parent is None else f"{dataset}@{parent.number}",
                where=store.root,
                remedy="run again, and it builds on that one",
            )
        place = {
            "format_version": FORMAT_VERSION,
            "dataset": dataset,
            "number": 1 if parent is None else parent.number + 1,
            "parent": None if parent is None else parent.digest,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        content = sealed({**body, **place})
        raw = canonical(content)
        path = manifest_path(dataset, content["number"])
        if store.create(path, raw):
            return Committed(Manifest(path, hashlib.sha256(raw).hexdigest(), content), already=False)


def _builds_on(body: Mapping[str, Any], newest: Manifest | None) -> bool:
    """Whether a result may come after this version; of mode `append`, only after the one that it has the rows of.

    What was published before may come after any.
    """
    if body.get("settings", {}).get("mode") != "append" or body.get("rolled_back"):
        return True
    appended = body.get("appended")
    return (appended and appended["parent"]) == (newest and newest.number)
