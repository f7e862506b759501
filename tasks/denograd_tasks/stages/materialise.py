"""Show model and version among Prefect's assets, with what they were made from; keys are as in `lineage_events`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from denograd_tasks.lineage_events.naming import models_place, place_of, published_place
from denograd_tasks.records import Snapshot, TrainedBackbone, Verdict, Version
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store

if TYPE_CHECKING:
    from prefect.assets import Asset

BY = "denograd"


def materialise(
    snapshot: Snapshot,
    backbone: TrainedBackbone,
    verdict: Verdict,
    version: Version,
    settings: Settings,
    trained: bool,
) -> None:
    """Tell Prefect of a version, and of the model if it was trained for it; nothing of one that was there before."""
    from prefect.assets import Asset, AssetProperties

    if version.already:
        return
    root = open_store(settings.publish.root).root
    source = Asset(key=place_of(settings.source).asset)
    model = Asset(
        key=models_place(root, settings.dataset).asset,
        properties=AssetProperties(name=f"models of {settings.dataset}"),
    )
    made = Asset(key=published_place(root, settings.dataset).asset, properties=AssetProperties(name=settings.dataset))
    if trained:
        about = {"uri": backbone.model_uri, "digest": backbone.digest, "kind": backbone.kind, "skill": backbone.skill}
        _tell(model, [source], about)
    facts = {
        "version": version.number,
        "manifest": version.digest,
        "snapshot": snapshot.digest,
        "rows": snapshot.rows,
        "gates": {gate.name: {"value": gate.value, "passed": gate.passed} for gate in verdict.gates},
    }
    _tell(made, [source, model], facts)


def _tell(asset: Asset, made_from: list[Asset], facts: dict[str, Any]) -> None:
    from prefect.assets import materialize

    @materialize(asset, by=BY, asset_deps=list(made_from), name="materialise", persist_result=False)
    def materialise() -> None:
        asset.add_metadata(facts)

    materialise()
