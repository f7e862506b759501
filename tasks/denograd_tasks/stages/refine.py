"""Refine the snapshot with the frozen model, or what is new in it, and stage the result."""

from __future__ import annotations

import time
import uuid
from typing import Any
from uuid import UUID

from denograd_tasks.content import content_digest
from denograd_tasks.keys import stage
from denograd_tasks.progress import listener
from denograd_tasks.records import Refined, Snapshot, TrainedBackbone
from denograd_tasks.refining import compute
from denograd_tasks.rule import AUTO, OF_POSTERIORS, chosen_rule
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_table

NAMESPACE = UUID("5f2f6f0e-5a0c-4f3e-9d0a-0d6e6f677261")


def _determinants(given: dict[str, Any]) -> dict[str, Any]:
    settings: Settings = given["settings"]
    chosen = chosen_rule(settings)
    refine = settings.refine.model_dump(mode="json", exclude=None if chosen.posterior else set(OF_POSTERIORS))
    if chosen.posterior:  # the model holds the rest
        refine = {name: refine[name] for name in (*OF_POSTERIORS, "strength")}
    if settings.refine.strength == AUTO:
        refine["gates"] = settings.gates.model_dump(mode="json")
    return {
        "snapshot": given["snapshot"].digest,
        **({} if given["snapshot"].parent is None else {"parent": given["snapshot"].parent.digest}),
        "backbone": given["backbone"].digest,
        **settings.model_dump(mode="json", include={"dataset", "device"}),
        "refine": refine | {"rule": chosen.rule},
        "root": settings.publish.root,
    }


@stage(_determinants)
def refine(snapshot: Snapshot, backbone: TrainedBackbone, settings: Settings) -> Refined:
    """Move the rows towards what the model has understood; the outcome is staged, not published.

    Raises:
        StoreError: If snapshot or model are gone or damaged.
    """
    with _Progress() as progress:
        computed = compute(snapshot, backbone, settings, settings.refine.strength, progress)
    made, store = computed.made, open_store(settings.publish.root)
    digest, beside = content_digest(made.data), made.beside.items()
    named = " ".join([snapshot.digest, backbone.digest, digest, *(content_digest(one) for _, one in beside)])
    attempt = str(uuid.uuid5(NAMESPACE, named))
    return Refined(
        root=settings.publish.root,
        files=(
            put_table(store, made.data, f"{settings.dataset}/data/{attempt}/part-00000.parquet"),
            *(put_table(store, one, f"{settings.dataset}/evidence/{attempt}/{name}") for name, one in beside),
        ),
        attempt=attempt,
        digest=digest,
        totals=made.totals,
        columns=made.columns,
        strength=made.strength,
        strength_chosen=settings.refine.strength == AUTO and computed.appended is None,
        appended=computed.appended,
        unsettled=computed.unsettled,
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
