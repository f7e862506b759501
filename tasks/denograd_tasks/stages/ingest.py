"""Copy the source, once, into content-addressed Parquet."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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
    }
)
def ingest(settings: Settings) -> Snapshot:
    """Read the source and keep a copy of it under its content's digest.

    Raises:
        DataError: If the source is absent, unreadable, or repeats column names.
        StoreError: If the earlier copy of the same data is damaged.
    """
    dataset = open_source(settings.source)
    store = open_store(settings.publish.root)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        local = Path(folder) / "snapshot.parquet"
        try:
            rows, digest = write_parquet(read_batches(settings.source, dataset), dataset.schema, local)
        except pa.ArrowException as error:
            raise unreadable(settings.source, error) from None
        schema = pq.read_schema(local)
        file = put_file(store, local, f"{settings.dataset}/snapshots/{digest}/part-00000.parquet", digest)
    return Snapshot(
        root=settings.publish.root,
        files=(file,),
        digest=digest,
        source=settings.source,
        rows=rows,
        columns=tuple((field.name, str(field.type)) for field in schema),
    )
