"""Copy the source, once, into content-addressed Parquet; to append, together with what was there before."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from denograd_tasks.append import joined, key_of
from denograd_tasks.growth import Parent
from denograd_tasks.home import scratch
from denograd_tasks.keys import stage
from denograd_tasks.records import Snapshot
from denograd_tasks.settings import Settings
from denograd_tasks.sources import fingerprint, open_source, read_batches, unreadable
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_file, write_parquet


@stage(
    lambda given: {
        "files": fingerprint(given["settings"].source),
        "source": given["settings"].source,
        "dataset": given["settings"].dataset,
        "root": given["settings"].publish.root,
        **({"parent": given["parent"].digest, "key": key_of(given["settings"])} if given.get("parent") else {}),
    }
)
def ingest(settings: Settings, parent: Parent | None = None) -> Snapshot:
    """Read the source and keep a copy of it under its content's digest.

    Args:
        settings: The configuration.
        parent: The version that is appended to: the copy then holds what that was made from as well.

    Raises:
        DataError: If the source is absent, unreadable, or repeats column names, or does not go with the parent.
        StoreError: If the earlier copy of the same data is damaged.
    """
    dataset = open_source(settings.source)
    store = open_store(settings.publish.root)
    batches, schema = read_batches(settings.source, dataset), dataset.schema
    if parent is not None:
        union = joined(settings, parent, pa.Table.from_batches(batches, schema))
        batches, schema = iter(union.to_batches()), union.schema
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        local = Path(folder) / "snapshot.parquet"
        try:
            rows, digest = write_parquet(batches, schema, local)
        except pa.ArrowException as error:
            raise unreadable(settings.source, error) from None
        stored = pq.read_schema(local)
        file = put_file(store, local, f"{settings.dataset}/snapshots/{digest}/part-00000.parquet", digest)
    return Snapshot(
        root=settings.publish.root,
        files=(file,),
        digest=digest,
        source=settings.source,
        rows=rows,
        columns=tuple((field.name, str(field.type)) for field in stored),
        parent=parent,
    )
