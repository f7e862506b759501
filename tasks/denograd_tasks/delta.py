"""Published tables as Delta tables: each export a version of the table, which says which of ours it is.

A Delta table has no order of rows: whoever needs it sorts by time or key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.exporting import in_place_of, taken
from denograd_tasks.versions import Manifest

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

DESCRIPTION = "Exported by denograd"
"""Of a Delta table that is ours."""


def write_delta(
    output: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], manifest: Manifest, force: bool
) -> int:
    """Write a new Delta table, or a new version of one that holds the same data set; earlier ones stay readable.

    Args:
        output: Its folder.
        schema: Of the rows.
        batches: To be written.
        manifest: What the commit names: `denograd.version`, and its digest as `denograd.manifest`.
        force: Whether to add a version to a table that is not ours.

    Returns:
        The version of the Delta table.

    Raises:
        ConfigError: If deltalake is not installed, or something else is in this place.
        StoreError: If the table cannot be written.
    """
    try:
        from deltalake import DeltaTable
    except ImportError:
        raise ConfigError(
            "--to delta needs a package that is not installed", remedy="pip install 'prefect-denograd[delta]'"
        ) from None
    if output.is_dir() and any(output.iterdir()):
        _write(_table(output, manifest.dataset, force), schema, batches, manifest)
    elif output.exists() and not output.is_dir():
        raise taken(output, "a file")
    else:
        with in_place_of(output) as partial:
            _write(partial, schema, batches, manifest)
    return DeltaTable(output).version()


def _write(to: Path | DeltaTable, schema: pa.Schema, batches: Iterator[pa.RecordBatch], manifest: Manifest) -> None:
    import pyarrow as pa
    from deltalake import CommitProperties, write_deltalake
    from deltalake.exceptions import DeltaError

    ours: list[BaseException] = []

    def noted() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:  # deltalake would put it into the text of its own
            ours.append(error)
            raise

    named = {"denograd.version": f"{manifest.dataset}@{manifest.number}", "denograd.manifest": manifest.digest}
    try:
        write_deltalake(
            to,
            pa.RecordBatchReader.from_batches(schema, noted()),
            mode="overwrite",
            schema_mode="overwrite",
            name=manifest.dataset,
            description=DESCRIPTION,
            commit_properties=CommitProperties(custom_metadata=named),
        )
    except DeltaError as error:
        if ours:
            raise ours[0] from None
        raise StoreError(
            "the Delta table cannot be written", found=str(error).partition("\n")[0][:300], remedy="run again"
        ) from None


def _table(output: Path, dataset: str, force: bool) -> DeltaTable:
    from deltalake import DeltaTable

    if not DeltaTable.is_deltatable(str(output)):
        raise taken(output, "a folder that is no Delta table")
    table = DeltaTable(output)
    found = table.metadata()
    if (found.description, found.name) != (DESCRIPTION, dataset) and not force:
        raise taken(output, "another Delta table, to which --force would add a version")
    return table
