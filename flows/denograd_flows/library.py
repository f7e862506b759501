"""Looking at what is published, for the commands that do."""

from __future__ import annotations

from typing import Any

from denograd_tasks.home import default_root
from denograd_tasks.store import Store, open_store
from denograd_tasks.versions import Manifest, datasets, history, resolve


def version_rows(root: str | None, name: str | None) -> list[dict[str, Any]]:
    """A line for each version, oldest first.

    Raises:
        StoreError: If the named data set does not exist.
    """
    store = _store(root)
    names = datasets(store) if name is None else [resolve(store, name).dataset]
    return [
        {
            "dataset": manifest.dataset,
            "version": manifest.number,
            "created": manifest.content["created"],
            "rows": manifest.content["files"][0]["rows"],
            "moved": manifest.content["refinement"]["moved"],
            "gates_passed": sum(gate["passed"] for gate in manifest.content["gates"]),
            "gates": len(manifest.content["gates"]),
            "model": manifest.content["model"]["uri"],
            "snapshot": manifest.content["source"]["snapshot"],
        }
        for dataset in names
        for manifest in history(store, dataset)
    ]


def find(root: str | None, name: str) -> Manifest:
    """The version called NAME or NAME@N."""
    return resolve(_store(root), name)


def data_path(root: str | None, name: str) -> str:
    """The folder of a version's Parquet files."""
    store = _store(root)
    file = resolve(store, name).content["files"][0]["path"]
    return store.uri(file.rsplit("/", 1)[0])


def report_path(root: str | None, name: str) -> str:
    """The report of a version."""
    store = _store(root)
    return store.uri(resolve(store, name).content["report"])


def _store(root: str | None) -> Store:
    return open_store(root or default_root())
