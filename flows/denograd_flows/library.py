"""Looking at what is published, for the commands that do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denograd_tasks.home import default_root
from denograd_tasks.removals import removal_of, require_tables
from denograd_tasks.retention import retention_of
from denograd_tasks.store import Store, open_store
from denograd_tasks.tags import tags_of
from denograd_tasks.versions import Manifest, datasets, history, resolve

CONFIGURATION = "denograd.yaml"


def version_rows(root: str | None, name: str | None) -> list[dict[str, Any]]:
    """A line for each version, oldest first.

    Raises:
        StoreError: If the named data set does not exist.
    """
    store = published(root)
    names = datasets(store) if name is None else [resolve(store, name).dataset]
    tags = {dataset: tags_of(store, dataset) for dataset in names}
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
            "tags": [tag.name for tag in tags[dataset] if tag.number == manifest.number],
            "content_of": manifest.origin,
            "data": removal_of(store, manifest) is None,
        }
        for dataset in names
        for manifest in history(store, dataset)
    ]


def find(root: str | None, name: str) -> Manifest:
    """The version called NAME or NAME@N."""
    return resolve(published(root), name)


def data_path(root: str | None, name: str) -> str:
    """The folder of a version's Parquet files.

    Raises:
        StoreError: If retention removed them.
    """
    store = published(root)
    manifest = resolve(store, name)
    require_tables(store, manifest)
    return store.uri(manifest.content["files"][0]["path"].rsplit("/", 1)[0])


def report_path(root: str | None, name: str) -> str:
    """The report of a version."""
    store = published(root)
    return store.uri(resolve(store, name).content["report"])


def kept_versions(store: Store, dataset: str) -> int | None:
    """How many versions keep their data: as `denograd.yaml` in this folder says of them, or the last run; None is all.

    Raises:
        ConfigError: If that configuration cannot be used.
    """
    if Path(CONFIGURATION).is_file():
        from denograd_tasks.settings import load_settings

        settings = load_settings(CONFIGURATION)
        if settings.dataset == dataset and open_store(settings.publish.root).root == store.root:
            return settings.publish.retention
    return retention_of(store, dataset)


def release_of(root: str | None, name: str) -> dict[str, Any] | None:
    """Who published a version against its verdict, when and why; None if every gate passed."""
    released: dict[str, Any] | None = find(root, name).content.get("released")
    return released


def published(root: str | None) -> Store:
    """The publishing root that is meant: the one given, that of `denograd.yaml` in this folder, or the default.

    Raises:
        ConfigError: If that configuration cannot be used.
    """
    if root is None and Path(CONFIGURATION).is_file():
        from denograd_tasks.settings import load_settings

        root = load_settings(CONFIGURATION).publish.root
    return open_store(root or default_root())
