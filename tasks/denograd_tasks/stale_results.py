"""Results that Prefect remembers on this machine, of which the files are gone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from denograd_engine.errors import DenogradError
from denograd_tasks.blocks import REFERENCE
from denograd_tasks.records import Record, Refined
from denograd_tasks.store import open_store

_OURS = re.compile(r"([a-z_]+-[0-9a-f]{64})(?:-(\d+))?")


def stale_results(folder: Path, root: str, gone: Collection[str] = ()) -> list[Path]:
    """Files of remembered results that nothing can be reused of.

    Results of one key are numbered, and looked up from the first on: so only those at the end are stale, after which no
    other is of use.

    Args:
        folder: Where Prefect keeps results.
        root: The publishing root that is meant; results in others are left alone.
        gone: Paths in it that count as deleted.
    """
    kept: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.glob("*-*"):
        match = _OURS.fullmatch(path.name)
        if match:
            kept.setdefault(match.group(1), []).append((int(match.group(2) or 0), path))
    stale = []
    for numbered in kept.values():
        for _, path in sorted(numbered, reverse=True):
            record = _record(path)
            if record is None or not _is_in(record, root) or _usable(record, gone):
                break
            stale.append(path)
    return sorted(stale)


def _is_in(record: Record, root: str) -> bool:
    """Whether its files are in this root; another one is not opened, which would make its folder."""
    if not record.root.startswith(REFERENCE):
        return record.root.rstrip("/") == root
    with suppress(DenogradError):
        return open_store(record.root).root == root
    return False


def _record(path: Path) -> Record | None:
    from prefect.serializers import JSONSerializer

    reading: JSONSerializer[Any] = JSONSerializer()
    try:
        record = reading.loads(json.loads(path.read_bytes())["result"].encode())
    except Exception:  # half written, or of another release
        return None
    return record if isinstance(record, Record) else None


def _usable(record: Record, gone: Collection[str]) -> bool:
    """Whether every file is there; of refined data, where they are published or in quarantine."""
    store = open_store(record.root)

    def there(path: str) -> bool:
        return path not in gone and store.size(path) is not None

    if isinstance(record, Refined):
        placed = there(record.data.path) or there(record.quarantined.path)
        return placed and all(there(file.path) for file in record.evidence)
    return all(there(file.path) for file in record.files)
