"""The files of a version: each there, each byte as it was, and none beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from denograd_engine.errors import StoreError
from denograd_tasks.audit.findings import Finding, present
from denograd_tasks.records import File
from denograd_tasks.store import Store


class Ledger:
    """Digests of files, each taken once however many versions share it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._taken: dict[str, str | None] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return sum(digest is not None for digest in self._taken.values())

    def sha256(self, path: str) -> str | None:
        """Hex digest of a file; None if there is none."""
        if path not in self._taken:
            self._taken[path] = self.store.sha256(path)
            self.bytes += self.store.size(path) or 0
        return self._taken[path]

    def intact(self, file: File) -> bool:
        """Whether a file is as it was listed."""
        return self.sha256(file.path) == file.sha256


def listed(content: Mapping[str, Any]) -> tuple[File, ...]:
    """Every file that a manifest names.

    Raises:
        KeyError, TypeError, ValueError: If it was not written by this project.
    """
    groups = (content["files"], content["source"]["files"], content["model"]["files"], content["evidence"])
    return tuple(File(**{name: one[name] for name in File.model_fields}) for group in groups for one in group)


def require_intact(store: Store, files: Iterable[File], whose: str, remedy: str) -> None:
    """Read every file, and compare it with its digest.

    Args:
        store: Where they are.
        files: As they were listed.
        whose: Files they are, in the error.
        remedy: In the error.

    Raises:
        StoreError: If one is gone or has changed.
    """
    for file in files:
        found = store.sha256(file.path)
        if found != file.sha256:
            raise StoreError(
                f"a file of {whose} is missing or damaged",
                expected=f"sha256 {file.sha256}",
                found=found or "nothing",
                where=store.uri(file.path),
                remedy=remedy,
            )


def file_findings(ledger: Ledger, dataset: str, number: int, files: Sequence[File]) -> list[Finding]:
    """What is missing, changed, or outside the data set's folder."""
    findings = []
    for file in files:
        if not file.path.startswith(f"{dataset}/") or ".." in file.path.split("/"):
            problem = "the manifest names a file outside the data set's folder"
            findings.append(Finding(number, file.path, "foreign", problem))
        elif ledger.sha256(file.path) is None:
            findings.append(Finding(number, file.path, "missing", "the file is missing", file.sha256))
        elif not ledger.intact(file):
            problem = "the file is not the one that was published"
            findings.append(Finding(number, file.path, "changed", problem, file.sha256, ledger.sha256(file.path)))
    return findings


def additions(store: Store, number: int, files: Sequence[File], known: frozenset[str]) -> list[Finding]:
    """What lies where readers take it for a part of the version.

    Folders of data, snapshots and models hold nothing but what was published. Evidence of other runs may lie beside
    that of this version, in folders of its own.

    Args:
        store: The publishing root.
        number: Of the version.
        files: Its files.
        known: Paths of the files of all versions.
    """
    whole, direct = set(), set()
    for file in files:
        match = re.match(r"[^/]+/(data|snapshots|models)/[^/]+/", file.path)
        if match:
            whole.add(match.group(0))
        else:
            direct.add(file.path.rsplit("/", 1)[0])
    found = {path for folder in whole for path in present(store, folder.rstrip("/"))}
    attempts = {re.sub(r"^([^/]+/evidence/[^/]+).*", r"\1", folder) for folder in direct}
    found |= {path for one in attempts for path in present(store, one) if path.rsplit("/", 1)[0] in direct}
    return [
        Finding(number, path, "added", "the file was added after publication: no manifest names it")
        for path in sorted(found - known)
    ]
