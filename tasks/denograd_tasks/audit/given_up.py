"""Tables that retention removed: what was written down of that, and whether it may be believed.

Whoever can delete a table can write down that retention did so. It is told in any case; only where versions are signed,
and the key is asked for, does nobody else's word count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from denograd_engine.errors import StoreError
from denograd_tasks.audit.chain import Chain, Link
from denograd_tasks.audit.findings import Finding, present
from denograd_tasks.audit.signing import is_signed, signature_path
from denograd_tasks.records import File
from denograd_tasks.removals import Removal, read_removal, removal_path, tables_of
from denograd_tasks.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True)
class GivenUp:
    """A version whose tables retention removed.

    Attributes:
        version: Its number.
        tables: How many it gave up; others may still have them.
        by: Who removed them, on the machine where that was done; None if that is not known.
        at: When.
        kept: How many versions were to be kept.
    """

    version: int
    tables: int
    by: str | None
    at: str
    kept: int


@dataclass(frozen=True)
class GivenUps:
    """What retention removed of a data set.

    Attributes:
        known: By the number of the version; only what may be believed.
        findings: What is wrong with the rest.
    """

    known: Mapping[int, Removal]
    findings: tuple[Finding, ...]

    def of(self, number: int) -> frozenset[File]:
        """The tables that a version gave up."""
        return frozenset(self.known[number].files) if number in self.known else frozenset()

    def told(self) -> tuple[GivenUp, ...]:
        """The same for people."""
        return tuple(
            GivenUp(number, len(one.files), one.by, one.at, one.kept) for number, one in sorted(self.known.items())
        )


def given_ups(store: Store, dataset: str, chain: Chain, key: Ed25519PublicKey | None) -> GivenUps:
    """Read what was written down, and check it against the manifests, and against signatures if there is a key."""
    links = {link.number: link for link in chain.links}
    paths = {*present(store, f"{dataset}/removed")}
    known: dict[int, Removal] = {}
    findings = []
    for path in sorted(paths):
        name = re.fullmatch(rf"{re.escape(dataset)}/removed/(\d{{8}})\.(json|sig)", path)
        if name is None:
            findings.append(Finding(None, path, "added", "neither what retention removed nor a signature"))
        elif name.group(2) == "json":
            number = int(name.group(1))
            removal, wrong = _believed(store, path, number, links, chain.links[-1].number if chain.links else 0)
            if wrong is None and removal is not None and key is not None:
                signature = signature_path(path)
                if signature not in paths or not is_signed(removal.digest, store.read(signature), key):
                    wrong = Finding(number, signature, "unsigned", "what retention removed is not signed by the key")
            if wrong is not None:
                findings.append(wrong)
            elif removal is not None:
                known[number] = removal
    return GivenUps(known, tuple(findings))


def _believed(
    store: Store, path: str, number: int, links: Mapping[int, Link], newest: int
) -> tuple[Removal | None, Finding | None]:
    try:
        removal = read_removal(store, path)
    except StoreError:
        return None, Finding(number, path, "edited", "what retention removed cannot be read")
    link = links.get(number)
    if link is None or link.content is None or link.wrong is not None:
        return None, None  # the manifest is named already
    if not removal.sealed or removal_path(str(link.content["dataset"]), removal.number) != path:
        return None, Finding(number, path, "edited", "it does not say what it said when it was written")
    if removal.manifest != link.digest:
        problem = "it was written of another manifest"
        return None, Finding(number, path, "exchanged", problem, removal.manifest, link.digest)
    if removal.files != tables_of(link.content):
        return None, Finding(number, path, "edited", "it names other files than the tables of the version")
    if number == newest:
        return None, Finding(number, path, "added", "retention never removes the newest version's tables")
    return removal, None
