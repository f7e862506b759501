"""What things are called in lineage: one convention for OpenLineage's data sets and Prefect's assets.

    a source          its address
    what is published <root>/<dataset>, whose versions are its numbers
    what is refused   <root>/<dataset>/quarantine, whose versions are attempts
    a model           <root>/<dataset>/models, which only Prefect shows as an asset

An address is split as OpenLineage's naming specification says: on local disk into `file` and the absolute path, in an
object store into `s3://bucket` and the key. An asset's key is both together, `file:///data/readings.csv`. A run is
named after the Prefect flow run that it is a child of, and how often that was tried.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from denograd_tasks.settings import without_credentials

RUNS = UUID("0f9a4c1e-2f1b-4f6e-8c55-6c696e656167")
LOCAL = "file"
LONGEST = 500
"""Signs of an asset's key; Prefect allows 512."""


@dataclass(frozen=True)
class Place:
    """A data set by its OpenLineage name.

    Attributes:
        namespace: The file system or bucket.
        name: The path or key in it.
    """

    namespace: str
    name: str

    @property
    def asset(self) -> str:
        """The key of the Prefect asset; signs that Prefect does not allow are replaced, and a digest tells which."""
        key = f"{LOCAL}://{self.name}" if self.namespace == LOCAL else f"{self.namespace}/{self.name}"
        plain = re.sub(r"[^\w./:@=+,~()!$*;-]", "_", key)
        if plain == key and len(key) <= LONGEST:
            return key
        return f"{plain[: LONGEST - 13]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def place_of(address: str) -> Place:
    """The name of what is at an address, a path or a URL.

    >>> place_of("s3://bucket/published/readings")
    Place(namespace='s3://bucket', name='published/readings')
    >>> place_of("/data/readings.csv")
    Place(namespace='file', name='/data/readings.csv')
    """
    scheme, separator, rest = without_credentials(address).partition("://")
    if not separator or scheme == LOCAL:
        return Place(LOCAL, str(Path(rest or address).absolute()))
    authority, _, path = rest.partition("/")
    return Place(f"{scheme}://{authority}", path.strip("/") or "/")


def published_place(root: str, dataset: str) -> Place:
    """The name of a published data set."""
    return place_of(f"{root}/{dataset}")


def refused_place(root: str, dataset: str) -> Place:
    """The name of what gates refused of it."""
    return place_of(f"{root}/{dataset}/quarantine")


def models_place(root: str, dataset: str) -> Place:
    """The name of its models."""
    return place_of(f"{root}/{dataset}/models")


def run_id(flow_run: str, tried: int) -> str:
    """The id of the run within a Prefect flow run.

    Args:
        flow_run: Its id.
        tried: How often it was started, this time included.
    """
    return str(uuid5(RUNS, f"{flow_run} {tried}"))
