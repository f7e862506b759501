"""Is everything still as it was published?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from denograd_tasks.audit.chain import Chain, Link, head_findings, read_chain, signature_findings
from denograd_tasks.audit.contents import content_findings
from denograd_tasks.audit.files import Ledger, additions, file_findings, listed
from denograd_tasks.audit.findings import Finding
from denograd_tasks.audit.given_up import GivenUp, given_ups
from denograd_tasks.audit.signing import verifying_key
from denograd_tasks.records import File
from denograd_tasks.store import Store
from denograd_tasks.versions import named_number, no_version, resolve


@dataclass(frozen=True)
class Verified:
    """The outcome of a verification.

    Attributes:
        dataset: The data set.
        versions: The numbers whose files were read. The manifests of all versions were.
        files: How many files were read besides manifests.
        bytes: Their size.
        head: Digest of the newest manifest; None if none is left.
        signed: Whether every version is signed; None if no key was given.
        given_up: Versions whose tables retention removed, as far as that may be believed.
        findings: What is not as it was published.
    """

    dataset: str
    versions: tuple[int, ...]
    files: int
    bytes: int
    head: str | None
    signed: bool | None
    given_up: tuple[GivenUp, ...]
    findings: tuple[Finding, ...]

    @property
    def intact(self) -> bool:
        """Whether everything is as it was published."""
        return not self.findings


def verify(
    store: Store, name: str, every: bool = False, expect_head: str | None = None, public_key: Path | None = None
) -> Verified:
    """Recompute every digest of a version, and follow the whole chain of manifests.

    Args:
        store: The publishing root.
        name: NAME, NAME@N or NAME@TAG; the name alone is the newest version.
        every: Whether the files of all versions are read.
        expect_head: The digest that the newest manifest must have, from a place that the store cannot change, such as
            the tag `denograd.manifest` of the MLflow run. Without it and without a key nobody can tell a removed
            newest version from one that never was.
        public_key: File of the key that every manifest must be signed with.

    Raises:
        ConfigError: If the name is malformed, or the key is none.
        StoreError: If there is no such data set or version.
    """
    dataset, number = named_number(store, name)
    key = None if public_key is None else verifying_key(public_key)
    chain = read_chain(store, dataset)
    if not chain.links and expect_head is None and not chain.findings:
        resolve(store, name)
    findings = list(chain.findings)
    if expect_head is not None:
        findings += head_findings(chain, dataset, expect_head.strip().lower())
    unsigned = [] if key is None else signature_findings(store, chain, key)
    ledger = Ledger(store)
    chosen = _chosen(store, dataset, chain, number, every)
    gone = given_ups(store, dataset, chain, key)
    findings += gone.findings
    known = frozenset(file.path for link in chain.links for file in _files(link))
    kept = frozenset(file.path for link in chain.links for file in _files(link) if file not in gone.of(link.number))
    for link in chosen:
        findings += _of_version(ledger, dataset, link, known, gone.of(link.number), kept)
    return Verified(
        dataset=dataset,
        versions=tuple(link.number for link in chosen),
        files=len(ledger),
        bytes=ledger.bytes,
        head=chain.links[-1].digest if chain.links else None,
        signed=None if key is None else not unsigned,
        given_up=gone.told(),
        findings=tuple(sorted({*findings, *unsigned}, key=lambda one: (one.version or 0, one.path))),
    )


def _chosen(store: Store, dataset: str, chain: Chain, number: int | None, every: bool) -> tuple[Link, ...]:
    if every or not chain.links:
        return chain.links
    wanted = chain.links[-1].number if number is None else number
    removed = {one.version for one in chain.findings if one.kind == "removed"}
    chosen = tuple(link for link in chain.links if link.number == wanted)
    if not chosen and wanted not in removed:
        raise no_version(store, dataset, wanted, [link.number for link in chain.links])
    return chosen


def _files(link: Link) -> tuple[File, ...]:
    try:
        return listed(link.content or {})
    except (KeyError, TypeError, ValueError):
        return ()


def _of_version(
    ledger: Ledger, dataset: str, link: Link, known: frozenset[str], gone: frozenset[File], kept: frozenset[str]
) -> list[Finding]:
    """What is not as it was published; a file that the version gave up may be gone, or be another version's."""
    if link.content is None:
        return []

    def due(file: File) -> bool:
        return file not in gone or (file.path not in kept and ledger.sha256(file.path) is not None)

    try:
        files = listed(link.content)
        findings = file_findings(ledger, dataset, link.number, [file for file in files if due(file)])
        inside = [file for file in files if not any(one.path == file.path for one in findings if one.kind == "foreign")]
        findings += additions(ledger.store, link.number, inside, known)
        return findings + content_findings(ledger, link.number, link.content, inside)
    except (KeyError, TypeError, ValueError):
        if link.wrong is not None:
            return []
        return [Finding(link.number, link.path, "edited", "the manifest lacks what every manifest has")]
