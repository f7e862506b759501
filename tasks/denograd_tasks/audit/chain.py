"""The history of a data set: one manifest for each number, each as it was written, each following the one before."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from denograd_tasks.audit.findings import Finding, present
from denograd_tasks.audit.signing import is_signed, signature_path
from denograd_tasks.store import Store
from denograd_tasks.versions import FORMAT_VERSION, canonical, manifest_path, sealed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MOST_REMOVED = 1000
"""Missing manifests in a row that are named one by one."""


@dataclass(frozen=True)
class Link:
    """A manifest as it is now.

    Attributes:
        number: By its file's name.
        path: Relative to the root.
        digest: sha256 of its bytes.
        content: Its fields; None if they cannot be read.
        wrong: What is wrong with it by itself; None if nothing is.
    """

    number: int
    path: str
    digest: str
    content: dict[str, Any] | None
    wrong: Finding | None


@dataclass(frozen=True)
class Chain:
    """The history of a data set.

    Attributes:
        links: The manifests that there are, ascending.
        signatures: Paths of the signatures beside them.
        findings: What is wrong with it.
    """

    links: tuple[Link, ...]
    signatures: frozenset[str]
    findings: tuple[Finding, ...]


def read_chain(store: Store, dataset: str) -> Chain:
    """Read every manifest, and check each against itself and against its neighbours.

    What an edited manifest of the newest version cannot tell is whether it was sealed again: see `head_findings` and
    `signature_findings`.
    """
    manifests, signatures, findings = _sorted(store, dataset)
    numbers = [int(path[-13:-5]) for path in manifests]
    links: list[Link] = []
    last = max((int(path[-12:-4]) for path in signatures), default=0)
    for number, following in pairwise([0, *numbers, max(last, *numbers, 0) + 1]):
        findings += _removed(dataset, range(number + 1, following))
    for number in numbers:
        link = _read(store, dataset, number, sealed_before=any("seal" in (one.content or {}) for one in links))
        before = links[-1] if links and links[-1].number == number - 1 else None
        found = link.wrong or _follows(link, before)
        if found is not None:
            findings.append(found)
        links.append(link)
    return Chain(tuple(links), frozenset(signatures), tuple(findings))


def _removed(dataset: str, missing: range) -> list[Finding]:
    """A finding for each manifest of a gap; where somebody made a number up, the first stands for all."""
    if len(missing) > MOST_REMOVED:
        problem = f"the manifests of versions {missing[0]} to {missing[-1]} were removed, or never were"
        return [Finding(missing[0], manifest_path(dataset, missing[0]), "removed", problem)]
    return [
        Finding(number, manifest_path(dataset, number), "removed", f"the manifest of version {number} was removed")
        for number in missing
    ]


def head_findings(chain: Chain, dataset: str, expected: str) -> list[Finding]:
    """Is the newest manifest the one with this digest? Finds one that was removed, or replaced and sealed again."""
    head = chain.links[-1] if chain.links else None
    if head is not None and head.digest == expected:
        return []
    older = next((link.number for link in chain.links if link.digest == expected), None)
    if head is None:
        number, problem = 1, "no manifest is left"
    elif older is None:
        number, problem = head.number, "the newest manifest was removed or replaced"
    else:
        number, problem = head.number, f"version {older} is the one with this digest, and {head.number} came after it"
    path = manifest_path(dataset, number)
    return [Finding(number, path, "removed", problem, expected, None if head is None else head.digest)]


def signature_findings(store: Store, chain: Chain, key: Ed25519PublicKey) -> list[Finding]:
    """Is every manifest signed by the owner of the key?"""
    findings = []
    for link in chain.links:
        path = signature_path(link.path)
        if path not in chain.signatures:
            findings.append(Finding(link.number, path, "unsigned", f"version {link.number} is not signed"))
        elif not is_signed(link.digest, store.read(path), key):
            findings.append(
                Finding(link.number, path, "unsigned", "this is no signature of the manifest by the owner of the key")
            )
    return findings


def _sorted(store: Store, dataset: str) -> tuple[list[str], list[str], list[Finding]]:
    """Manifests, signatures, and what is neither."""
    manifests, signatures, findings = [], [], []
    for path in present(store, f"{dataset}/versions"):
        name = path.removeprefix(f"{dataset}/versions/")
        if re.fullmatch(r"\d{8}\.json", name) and name != "00000000.json":
            manifests.append(path)
        elif re.fullmatch(r"\d{8}\.sig", name) and name != "00000000.sig":
            signatures.append(path)
        elif not re.fullmatch(r"\d{8}\.(json|sig)#\d+", name):  # a write under way, or broken off: no reader takes it
            findings.append(Finding(None, path, "added", "neither a manifest nor a signature"))
    return manifests, signatures, findings


def _read(store: Store, dataset: str, number: int, sealed_before: bool) -> Link:
    path = manifest_path(dataset, number)
    raw = store.read(path)
    digest = hashlib.sha256(raw).hexdigest()
    try:
        content = json.loads(raw)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return Link(number, path, digest, None, Finding(number, path, "edited", "the manifest is no JSON object"))
    return Link(number, path, digest, content, _wrong(path, dataset, number, content, raw, sealed_before))


def _wrong(
    path: str, dataset: str, number: int, content: dict[str, Any], raw: bytes, sealed_before: bool
) -> Finding | None:
    """What a manifest says against itself."""
    if content.get("format_version") != FORMAT_VERSION:
        expected, found = f"format_version {FORMAT_VERSION}", str(content.get("format_version"))
        return Finding(number, path, "edited", "a format that this release does not know", expected, found)
    if canonical(content) != raw:
        return Finding(number, path, "edited", "the manifest is not written as it is when a version is published")
    if "seal" in content or sealed_before:
        seal = sealed(content)["seal"]
        if content.get("seal") != seal:
            problem = "the manifest does not say what it said when it was published"
            return Finding(number, path, "edited", problem, str(content.get("seal")), seal)
    says = f"{content.get('dataset')}@{content.get('number')}"
    if says != f"{dataset}@{number}":
        problem = "the manifest of another version is in this place"
        return Finding(number, path, "exchanged", problem, f"{dataset}@{number}", says)
    return None


def _follows(link: Link, before: Link | None) -> Finding | None:
    """Was this manifest published after the one before it, as that one is now?"""
    parent = None if link.content is None else link.content.get("parent")
    if link.number == 1 and parent is not None:
        return Finding(1, link.path, "exchanged", "the first version names one before it", "none", str(parent))
    if before is None or before.wrong is not None or parent == before.digest:
        return None
    problem = f"version {link.number} was published after another manifest than this one"
    return Finding(before.number, before.path, "edited", problem, str(parent), before.digest)
