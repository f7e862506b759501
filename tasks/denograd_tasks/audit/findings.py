"""What a verification finds, and the names of all that it looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from denograd_tasks.store import Store

Kind = Literal["changed", "missing", "added", "exchanged", "edited", "removed", "foreign", "unsigned"]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was published.

    Attributes:
        version: The number of the version concerned; None if it belongs to none.
        path: Of the file, relative to the root.
        kind: What was done to it.
        problem: The same in words.
        expected: What would have been right, such as a digest; None if there is nothing to say.
        found: What is there instead, likewise.
    """

    version: int | None
    path: str
    kind: Kind
    problem: str
    expected: str | None = None
    found: str | None = None


def present(store: Store, folder: str) -> Iterator[str]:
    """Paths of everything below a folder, ascending.

    On local disk that is more than the store lists: what readers of the folder see counts, whoever put it there, and
    they follow links to folders.
    """
    if store.local is None:
        yield from store.list(folder)
        return
    inside = (path for path in (store.local / folder).rglob("*") if path.is_symlink() or not path.is_dir())
    yield from sorted(path.relative_to(store.local).as_posix() for path in inside)
