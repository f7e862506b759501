"""Draw the report of a run: one page of HTML, kept with the evidence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denograd_tasks.appending import STD_FILE
from denograd_tasks.audit.lineage import Model, Origin, Refinement, Run, learnt_snapshot
from denograd_tasks.environment import environment
from denograd_tasks.keys import digest_of, stage
from denograd_tasks.models import SCALING
from denograd_tasks.provenance import run_facts
from denograd_tasks.records import InputCheck, Refined, Report, Snapshot, TrainedBackbone, Verdict
from denograd_tasks.roles import std_name
from denograd_tasks.rule import chosen_rule
from denograd_tasks.settings import Settings, without_credentials
from denograd_tasks.store import Store, open_store
from denograd_tasks.strength import strength_in_words
from denograd_tasks.tables import put_bytes, read_table, to_frame
from denograd_tasks.versions import numbers

if TYPE_CHECKING:
    import pandas as pd

    from denograd_tasks.report_page import ReportData, Uncertainty
    from denograd_tasks.report_page.way import Way


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
    checked: InputCheck,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
    settings: Settings,
    truth: dict[str, float] | None = None,
) -> Report:
    """Write the page and link it in Prefect.

    Args:
        snapshot: The observed data.
        checked: What they had to satisfy.
        backbone: The model.
        refined: The refined data.
        verdict: The gates.
        settings: The configuration.
        truth: Shares of a known noise that were removed, where the clean data are known.
    """
    from prefect.artifacts import create_link_artifact

    from denograd_tasks.report_page import render_report

    store = open_store(settings.publish.root)
    html = render_report(_data(snapshot, checked, backbone, refined, verdict, settings, truth))
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
    checked: InputCheck,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
    settings: Settings,
    truth: dict[str, float] | None,
) -> ReportData:
    from denograd_engine.frames import Encoder
    from denograd_tasks.report_page import GateRow, ReportData
    from denograd_tasks.report_page.way import sections, stations

    store = open_store(settings.publish.root)
    staged = refined.located()
    assert staged is not None
    encoder = Encoder.from_dict(json.loads(store.read(backbone.file(SCALING).path)))
    schema = encoder.schema
    observed, proposed = (to_frame(read_table(store, path)) for path in (snapshot.files[0].path, staged.path))
    way = _way(store, settings, snapshot, checked, backbone, refined, verdict)
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
        way=stations(way),
        lineage=sections(way),
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
        return Uncertainty([], proposed[[]], backbone.noise_left, settings.refine.draw, backbone.bounds)
    if settings.refine.uncertainty:
        std = proposed[list(map(std_name, names))].set_axis(names, axis="columns")
    else:
        std = to_frame(read_table(store, refined.file(STD_FILE).path))
    columns = [
        ColumnUncertainty(
            name, declared=known.declared, left=known.gain, departure=known.departure, **refined.columns[name]
        )
        for name, known in ((name, backbone.columns[name]) for name in names)
    ]
    return Uncertainty(columns, std, backbone.noise_left, settings.refine.draw, backbone.bounds)


def _way(
    store: Store,
    settings: Settings,
    snapshot: Snapshot,
    checked: InputCheck,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
) -> Way:
    """The way to a result that is no version yet: the last one so far is taken for its parent."""
    from denograd_tasks.report_page.way import Way

    totals, chosen = refined.totals, chosen_rule(settings)
    run, where = run_facts(settings, snapshot), environment(settings.device)
    known = numbers(store, settings.dataset)
    before = f"{settings.dataset}@{known[-1]}" if known else None
    learnt = learnt_snapshot(store, backbone.model_uri) if backbone.adopted else snapshot.digest
    return Way(
        origin=Origin(
            without_credentials(snapshot.source), snapshot.digest, snapshot.rows, len(snapshot.columns), checked.gates
        ),
        model=Model(
            kind=backbone.kind,
            uri=backbone.model_uri,
            digest=backbone.digest,
            run=backbone.run_id,
            tracking_uri=without_credentials(backbone.tracking_uri),
            adopted=backbone.adopted,
            trained_on=learnt,
            skill=backbone.skill,
            noise=backbone.columns,
            start=backbone.start,
            contest=backbone.contest,
        ),
        refinement=Refinement(
            rule=chosen.rule,
            why=chosen.why,
            settings=settings.public()["refine"],
            rows=totals["rows"],
            moved=totals["moved"],
            residual_before=totals["residual_before"],
            residual_after=totals["residual_after"],
        ),
        gates=verdict.gates,
        run=Run(
            flow_run=run["flow_run_id"],
            name=run["flow_run_name"],
            trigger=run["trigger"],
            event=run["event"],
            user=run["user"],
            python=where["python"],
            platform=where["platform"],
            packages=where["packages"],
            revision=where["git_revision"],
        ),
        end=settings.dataset,
        after=f"after {before}" if before else "the first version",
        facts={
            "content": refined.digest,
            "attempt": refined.attempt,
            "parent": f"{before}, the newest when this was drawn" if before else "none: the first version",
        },
        steps=_steps(backbone, refined),
    )


def _steps(backbone: TrainedBackbone, refined: Refined) -> dict[str, str]:
    steps = {"step length": f"{refined.totals['eta']:.4g}", "epochs": str(refined.totals["epochs"])}
    if backbone.posterior:
        steps = {"mean step": f"{refined.totals['eta']:.1%} of the way to what a cell's context says"}
    return steps | {"strength": strength_in_words(refined.strength, refined.strength_chosen) or ""}


def _yaml(settings: Settings) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(settings.public(), stream)
    return stream.getvalue()
