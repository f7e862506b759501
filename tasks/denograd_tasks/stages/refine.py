"""Refine the snapshot with the frozen model, and stage the result."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from denograd_tasks.content import content_digest
from denograd_tasks.keys import stage
from denograd_tasks.models import load_backbone
from denograd_tasks.posteriors import load_posterior
from denograd_tasks.progress import listener
from denograd_tasks.records import Refined, Snapshot, TrainedBackbone
from denograd_tasks.roles import refining_of, std_name
from denograd_tasks.rule import OF_POSTERIORS, chosen_rule
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_table, read_table, to_frame, with_columns, with_refined

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.descent import Progress
    from denograd_engine.summary import Totals

NAMESPACE = UUID("5f2f6f0e-5a0c-4f3e-9d0a-0d6e6f677261")
ROWS_FILE = "rows.parquet"
STD_FILE = "std.parquet"


def _determinants(given: dict[str, Any]) -> dict[str, Any]:
    settings: Settings = given["settings"]
    chosen = chosen_rule(settings)
    refine = settings.refine.model_dump(mode="json", exclude=None if chosen.posterior else set(OF_POSTERIORS))
    if chosen.posterior:  # the model holds the rest
        refine = {name: refine[name] for name in OF_POSTERIORS}
    return {
        "snapshot": given["snapshot"].digest,
        "backbone": given["backbone"].digest,
        **settings.model_dump(mode="json", include={"dataset", "device"}),
        "refine": refine | {"rule": chosen.rule},
        "root": settings.publish.root,
    }


@dataclass(frozen=True)
class _Result:
    """What a rule made of the table; of a posterior model, also the std of each cell and a few facts by column."""

    frame: pd.DataFrame
    refined: list[str]
    rows: pd.DataFrame
    totals: Totals
    std: pd.DataFrame | None = None
    columns: dict[str, dict[str, float]] = field(default_factory=dict)


@stage(_determinants)
def refine(snapshot: Snapshot, backbone: TrainedBackbone, settings: Settings) -> Refined:
    """Move the rows towards what the model has understood; the outcome is staged, not published.

    Raises:
        StoreError: If snapshot or model are gone or damaged.
    """
    store = open_store(settings.publish.root)
    table = read_table(store, snapshot.files[0].path)
    work = _by_posterior if backbone.posterior else _by_steps
    result = work(to_frame(table), backbone, settings)
    refined = with_refined(table, result.frame, result.refined)
    rows = pa.Table.from_pandas(result.rows.reset_index(drop=True), preserve_index=False)
    beside = {ROWS_FILE: rows}
    if result.std is not None:
        if settings.refine.uncertainty:
            refined = with_columns(refined, {std_name(str(name)): result.std[name] for name in result.std})
        else:
            std = result.std.astype("float32").reset_index(drop=True)
            beside[STD_FILE] = pa.Table.from_pandas(std, preserve_index=False)
    digest = content_digest(refined)
    named = " ".join([snapshot.digest, backbone.digest, digest, *map(content_digest, beside.values())])
    attempt = str(uuid.uuid5(NAMESPACE, named))
    return Refined(
        root=settings.publish.root,
        files=(
            put_table(store, refined, f"{settings.dataset}/data/{attempt}/part-00000.parquet"),
            *(put_table(store, one, f"{settings.dataset}/evidence/{attempt}/{name}") for name, one in beside.items()),
        ),
        attempt=attempt,
        digest=digest,
        totals=asdict(result.totals),
        columns=result.columns,
    )


def _by_steps(frame: pd.DataFrame, backbone: TrainedBackbone, settings: Settings) -> _Result:
    from denograd_engine.refinement import refine as refine_frame

    fitted = load_backbone(backbone, settings.device)
    with _Progress() as progress:

        def tell(now: Progress) -> None:
            progress(now.share, f"{now.active:,} of {now.items:,} outside the gate")

        result = refine_frame(frame, fitted, refining_of(settings), on_progress=tell)
    return _Result(result.frame, fitted.encoder.schema.refined, result.rows, result.totals)


def _by_posterior(frame: pd.DataFrame, backbone: TrainedBackbone, settings: Settings) -> _Result:
    from denograd_engine.posterior.refining import clean

    model = load_posterior(backbone, settings.device)
    seed = model.fit.seed if settings.refine.draw else None
    with _Progress() as progress:
        result = clean(
            frame, model, settings.device, seed, lambda share: progress(share, f"{share:.0%} of the rows refined")
        )
    columns = result.columns
    if settings.refine.draw:  # a draw is as far from the observed as noise is, in the mean
        columns = columns.assign(expected=columns["noise"])
    by_column = {
        str(name): {str(what): float(value) for what, value in one.items()} for name, one in columns.iterrows()
    }
    std = result.std if by_column else None
    return _Result(result.frame, list(model.refined), result.rows, result.totals, std, by_column)


class _Progress:
    """Passes progress on to whoever watches, and to a Prefect progress artifact at most once a second."""

    def __init__(self) -> None:
        self.artifact: Any = None
        self.told = 0.0

    def __enter__(self) -> _Progress:
        from prefect.artifacts import create_progress_artifact

        self.artifact = create_progress_artifact(progress=0.0, key="refinement", description="Share of the work done")
        return self

    def __call__(self, share: float, text: str) -> None:
        listener().advanced("refine", share, text)
        if time.monotonic() - self.told > 1.0:
            self._update(share)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._update(1.0)

    def _update(self, share: float) -> None:
        from prefect.artifacts import update_progress_artifact

        update_progress_artifact(self.artifact, progress=100 * share)
        self.told = time.monotonic()
