"""Tags: names that people give to versions.

<root>/<dataset>/tags/<tag>.json     the number of the version, who tagged it, and when

A tag is no part of a manifest: it may be moved and deleted, and neither seal nor signature covers it. What it points to
does not change.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.home import person
from denograd_tasks.store import Store

TAG = r"(?!\d+$)[a-z0-9][a-z0-9_.-]{0,63}"
"""A pattern; what is all digits is a number."""
RESERVED = ("champion", "challenger", "latest", "newest")
"""Names that mean something else: aliases of models, and the version that a data set's name alone means."""


@dataclass(frozen=True)
class Tag:
    """A tag.

    Attributes:
        name: Of it.
        number: Of the version.
        by: Who tagged it, on the machine where that was done; None if that is not known.
        at: When.
    """

    name: str
    number: int
    by: str | None
    at: str


def tags_of(store: Store, dataset: str) -> list[Tag]:
    """The tags of a data set, by name."""
    found = (
        _read(store, dataset, path[:-5].rsplit("/", 1)[-1])
        for path in store.list(f"{dataset}/tags")
        if path.endswith(".json")
    )
    return [tag for tag in found if tag is not None]


def tagged(store: Store, dataset: str, name: str) -> int:
    """The number of the version with this tag.

    Raises:
        StoreError: If there is none, or the tag cannot be read.
    """
    tag = _read(store, dataset, name)
    if tag is None:
        raise _no_tag(store, dataset, name)
    return tag.number


def put_tag(store: Store, dataset: str, name: str, number: int, move: bool) -> Tag:
    """Give a version a tag; of several who give the same one at once, one does.

    Args:
        store: The publishing root.
        dataset: The data set.
        name: Of the tag.
        number: Of the version.
        move: Whether a tag that another version has is taken from it.

    Raises:
        ConfigError: If this can be no tag, or another version has it and it is not to be moved.
    """
    if not re.fullmatch(TAG, name) or name in RESERVED:
        raise ConfigError(
            f"{name!r} can be no tag",
            expected="lower case letters, digits, _ . -, not digits alone",
            found="a name that means something else" if name in RESERVED else None,
            remedy="choose another, such as quarterly-report",
        )
    tag = Tag(name, number, person(), datetime.now(UTC).isoformat(timespec="seconds"))
    written = json.dumps(vars(tag), indent=1, sort_keys=True).encode()
    path = _path(dataset, name)
    while not store.create(path, written):
        before = _read(store, dataset, name)
        if before is None:
            continue
        if before.number == number:
            return before
        if not move:
            raise ConfigError(
                f"{dataset}@{before.number} has the tag {name!r}",
                found=f"set by {before.by}, {before.at}",
                where=store.uri(path),
                remedy="choose another, or take it from there with --move",
            )
        store.replace(path, written)
        break
    return tag


def delete_tag(store: Store, dataset: str, name: str) -> Tag:
    """Take a tag away; the version stays.

    Raises:
        StoreError: If there is no such tag.
    """
    tag = _read(store, dataset, name)
    if tag is None:
        raise _no_tag(store, dataset, name)
    store.delete(_path(dataset, name))
    return tag


def _path(dataset: str, name: str) -> str:
    return f"{dataset}/tags/{name}.json"


def _read(store: Store, dataset: str, name: str) -> Tag | None:
    path = _path(dataset, name)
    if store.size(path) is None:
        return None
    try:
        plain = json.loads(store.read(path))
        return Tag(name, int(plain["number"]), plain["by"], str(plain["at"]))
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            "a tag cannot be read", expected="JSON with number, by and at", where=store.uri(path), remedy="set it anew"
        ) from None


def _no_tag(store: Store, dataset: str, name: str) -> StoreError:
    there = [tag.name for tag in tags_of(store, dataset)]
    return StoreError(
        f"data set {dataset!r} has no version with the tag {name!r}",
        found=", ".join(there[:10]) or "no tags at all",
        where=store.root,
        remedy="see what is there with: denograd versions",
    )
