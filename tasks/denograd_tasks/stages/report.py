"""Draw the report of a run: one page of HTML, kept with the evidence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denograd_engine import __version__
from denograd_tasks.appending import STD_FILE
from denograd_tasks.keys import digest_of, stage
from denograd_tasks.models import SCALING
from denograd_tasks.records import Refined, Report, Snapshot, TrainedBackbone, Verdict
from denograd_tasks.roles import std_name
from denograd_tasks.rule import chosen_rule
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store, open_store
from denograd_tasks.strength import strength_in_words
from denograd_tasks.tables import put_bytes, read_table, to_frame

if TYPE_CHECKING:
    import pandas as pd

    from denograd_tasks.report_page import ReportData, Uncertainty


def _determinants(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "verdict": given["verdict"].files[0].sha256,
        "attempt": given["refined"].attempt,
        "snapshot": given["snapshot"].model_dump(mode="json"),
        "backbone": given["backbone"].model_dump(mode="json"),
        "settings": given["settings"].of_result(),
        "truth": given.get("truth"),
    }


@stage(_determinants)
def report(
    snapshot: Snapshot,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
    settings: Settings,
    truth: dict[str, float] | None = None,
) -> Report:
    """Write the page and link it in Prefect.

    Args:
        snapshot: The observed data.
        backbone: The model.
        refined: The refined data.
        verdict: The gates.
        settings: The configuration.
        truth: Shares of a known noise that were removed, where the clean data are known.
    """
    from prefect.artifacts import create_link_artifact

    from denograd_tasks.report_page import render_report

    store = open_store(settings.publish.root)
    html = render_report(_data(snapshot, backbone, refined, verdict, settings, truth))
    key = digest_of(
        _determinants(
            {
                "snapshot": snapshot,
                "backbone": backbone,
                "refined": refined,
                "verdict": verdict,
                "settings": settings,
                "truth": truth,
            }
        )
    )
    page = put_bytes(store, html.encode(), f"{settings.dataset}/evidence/{refined.attempt}/{key[:12]}/report.html")
    uri = store.uri(page.path)
    link = Path(uri).as_uri() if store.local else uri
    create_link_artifact(key="report", link=link, link_text="Report of the run")
    return Report(root=settings.publish.root, files=(page,))


def _data(
    snapshot: Snapshot,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
    settings: Settings,
    truth: dict[str, float] | None,
) -> ReportData:
    from denograd_engine.frames import Encoder
    from denograd_tasks.report_page import GateRow, ReportData

    store = open_store(settings.publish.root)
    staged = refined.located()
    assert staged is not None
    encoder = Encoder.from_dict(json.loads(store.read(backbone.file(SCALING).path)))
    schema = encoder.schema
    observed, proposed = (to_frame(read_table(store, path)) for path in (snapshot.files[0].path, staged.path))
    spreads = dict(zip(schema.cells, encoder.spreads.tolist(), strict=True))
    return ReportData(
        dataset=settings.dataset,
        kind="table" if settings.series is None else "series",
        verdict="passed" if verdict.passed else "refused",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        observed=observed,
        refined=proposed[list(observed.columns)],
        features=schema.features,
        targets=[name for name in schema.targets if schema[name].refined],
        scales={name: spreads[name] for name in schema.refined},
        time=settings.series.time if settings.series else None,
        entity=list(settings.series.entity) if settings.series else [],
        rows=to_frame(read_table(store, refined.rows.path)),
        history=[{"epoch": e, "train_loss": t, "holdout_loss": h} for e, t, h in backbone.history],
        skill=backbone.skill,
        gates=[
            GateRow(gate.name, gate.value, gate.bound, gate.severity, gate.passed, gate.meaning)
            for gate in verdict.gates
        ],
        lineage=_lineage(settings, snapshot, backbone, refined),
        settings_yaml=_yaml(settings),
        truth=truth,
        uncertainty=_uncertainty(store, backbone, refined, proposed, settings) if backbone.posterior else None,
    )


def _uncertainty(
    store: Store, backbone: TrainedBackbone, refined: Refined, proposed: pd.DataFrame, settings: Settings
) -> Uncertainty:
    from denograd_tasks.report_page import ColumnUncertainty, Uncertainty

    names = list(refined.columns)
    if not names:
        return Uncertainty([], proposed[[]], backbone.noise_left, settings.refine.draw)
    if settings.refine.uncertainty:
        std = proposed[list(map(std_name, names))].set_axis(names, axis="columns")
    else:
        std = to_frame(read_table(store, refined.file(STD_FILE).path))
    columns = [
        ColumnUncertainty(
            name, declared=backbone.columns[name].declared, left=backbone.columns[name].gain, **refined.columns[name]
        )
        for name in names
    ]
    return Uncertainty(columns, std, backbone.noise_left, settings.refine.draw)


def _lineage(
    settings: Settings, snapshot: Snapshot, backbone: TrainedBackbone, refined: Refined
) -> dict[str, dict[str, str]]:
    from prefect.runtime import flow_run

    steps = {"step length": f"{refined.totals['eta']:.4g}", "epochs": str(refined.totals["epochs"])}
    if backbone.posterior:
        steps = {"mean step": f"{refined.totals['eta']:.1%} of the way to what a cell's context says"}
    strength = strength_in_words(refined.strength, refined.strength_chosen)
    if strength:
        steps["strength"] = strength
    return {
        "Source": {
            "location": snapshot.source,
            "snapshot": snapshot.digest,
            "size": f"{snapshot.rows:,} rows, {len(snapshot.columns)} columns",
        },
        "Model": {
            "architecture": backbone.kind,
            "registered as": backbone.model_uri,
            "MLflow run": backbone.run_id,
            "weights": backbone.digest,
        },
        "Refinement": {
            "attempt": refined.attempt,
            "content": refined.digest,
            "rule": str(chosen_rule(settings)),
            **steps,
        },
        "Run": {
            "Prefect flow run": f"{snapshot.run_name(settings.dataset)} ({flow_run.get_id()})",
            "prefect-denograd": __version__,
        },
    }


def _yaml(settings: Settings) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(settings.public(), stream)
    return stream.getvalue()
