"""Refine the snapshot with the frozen backbone, and stage the result."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from denograd_tasks.content import content_digest
from denograd_tasks.keys import stage
from denograd_tasks.models import load_backbone
from denograd_tasks.progress import listener
from denograd_tasks.records import Refined, Snapshot, TrainedBackbone
from denograd_tasks.roles import refining_of
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_table, read_table, to_frame, with_refined

if TYPE_CHECKING:
    from denograd_engine.descent import Progress

NAMESPACE = UUID("5f2f6f0e-5a0c-4f3e-9d0a-0d6e6f677261")
ROWS_FILE = "rows.parquet"


@stage(
    lambda given: {
        "snapshot": given["snapshot"].digest,
        "backbone": given["backbone"].digest,
        **given["settings"].model_dump(mode="json", include={"dataset", "refine", "device"}),
        "root": given["settings"].publish.root,
    }
)
def refine(snapshot: Snapshot, backbone: TrainedBackbone, settings: Settings) -> Refined:
    """Move the rows towards what the backbone has understood; the outcome is staged, not published.

    Raises:
        StoreError: If snapshot or backbone are gone.
    """
    from denograd_engine.refinement import refine as refine_frame

    store = open_store(settings.publish.root)
    table = read_table(store, snapshot.files[0].path)
    frame = to_frame(table)
    fitted = load_backbone(backbone, settings.device)
    with _Progress() as progress:
        result = refine_frame(frame, fitted, refining_of(settings), on_progress=progress)
    refined = with_refined(table, result.frame, fitted.encoder.schema.refined)
    rows = pa.Table.from_pandas(result.rows.reset_index(drop=True), preserve_index=False)
    digest = content_digest(refined)
    attempt = str(uuid.uuid5(NAMESPACE, f"{snapshot.digest} {backbone.digest} {digest} {content_digest(rows)}"))
    files = (
        put_table(store, refined, f"{settings.dataset}/data/{attempt}/part-00000.parquet"),
        put_table(store, rows, f"{settings.dataset}/evidence/{attempt}/{ROWS_FILE}"),
    )
    return Refined(
        root=settings.publish.root,
        files=files,
        attempt=attempt,
        digest=digest,
        totals=asdict(result.totals),
    )


class _Progress:
    """Passes progress on to whoever watches, and to a Prefect progress artifact at most once a second."""

    def __init__(self) -> None:
        self.artifact: Any = None
        self.told = 0.0

    def __enter__(self) -> _Progress:
        from prefect.artifacts import create_progress_artifact

        self.artifact = create_progress_artifact(progress=0.0, key="refinement", description="Share of the work done")
        return self

    def __call__(self, progress: Progress) -> None:
        text = f"{progress.active:,} of {progress.items:,} outside the gate"
        listener().advanced("refine", progress.share, text)
        if time.monotonic() - self.told > 1.0:
            self._update(progress.share)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._update(1.0)

    def _update(self, share: float) -> None:
        from prefect.artifacts import update_progress_artifact

        update_progress_artifact(self.artifact, progress=100 * share)
        self.told = time.monotonic()
