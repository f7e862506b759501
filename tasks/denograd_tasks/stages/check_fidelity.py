"""Did the correction distort the data? Measured on the stored files, asserted by Great Expectations."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from denograd_engine.errors import StoreError
from denograd_tasks.gates import Measured, judge
from denograd_tasks.keys import digest_of, stage
from denograd_tasks.models import SCALING
from denograd_tasks.records import Refined, Snapshot, TrainedBackbone, Verdict
from denograd_tasks.settings import Bound, Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_bytes, read_table, to_frame

if TYPE_CHECKING:
    from denograd_engine.fidelity import Fidelity

SOFTER = "raise refine.tau, or lower refine.max_epochs, so that less is moved"
LESS_NOISE = "check columns.noise: the larger the declared noise, the more is moved"


@stage(
    lambda given: {
        "snapshot": given["snapshot"].digest,
        "backbone": given["backbone"].digest,
        "attempt": given["refined"].attempt,
        "gates": given["settings"].gates.model_dump(mode="json"),
        "dataset": given["settings"].dataset,
        "root": given["settings"].publish.root,
    }
)
def check_fidelity(snapshot: Snapshot, backbone: TrainedBackbone, refined: Refined, settings: Settings) -> Verdict:
    """Measure the refined data against the observed, judge every gate, and keep the evidence.

    Raises:
        StoreError: If the files to compare are gone.
    """
    from prefect.artifacts import create_table_artifact

    from denograd_engine.fidelity import measure_fidelity
    from denograd_engine.frames import Encoder

    store = open_store(settings.publish.root)
    observed = to_frame(read_table(store, snapshot.files[0].path))
    staged = refined.located()
    if staged is None:
        raise StoreError("the refined data are gone", where=store.uri(refined.data.path), remedy="run again")
    proposed = to_frame(read_table(store, staged.path).select(list(observed.columns)))  # without columns of stds
    encoder = Encoder.from_dict(json.loads(store.read(backbone.file(SCALING).path)))
    fidelity = measure_fidelity(observed, proposed, encoder)
    measured = [*_of_model(backbone, refined, settings), *_measured(fidelity, backbone, settings)]
    suffix = digest_of([settings.gates.model_dump(mode="json"), backbone.digest])[:12]
    folder = f"{settings.dataset}/evidence/{refined.attempt}/{suffix}"
    gates, docs = judge("fidelity", measured, store, folder)
    passed = all(gate.passed for gate in gates if gate.severity == "error")
    plain = {"passed": passed, "gates": [gate.model_dump() for gate in gates], "fidelity": asdict(fidelity)}
    verdict = put_bytes(store, json.dumps(plain, indent=1, sort_keys=True).encode(), f"{folder}/verdict.json")
    create_table_artifact(
        key="gates",
        description=f"Quality gates of {settings.dataset}",
        table=[
            {
                "gate": gate.name,
                "value": gate.value,
                "bound": gate.bound,
                "severity": gate.severity,
                "passed": gate.passed,
            }
            for gate in gates
        ],
    )
    return Verdict(
        root=settings.publish.root,
        files=(verdict, *docs),
        passed=passed,
        gates=tuple(gates),
        docs=docs[0].path,
        fidelity=asdict(fidelity),
    )


def _of_model(backbone: TrainedBackbone, refined: Refined, settings: Settings) -> list[Measured]:
    """Can the model be trusted?

    What a posterior model cannot predict it hardly moves: low skill makes its posteriors wide, and its steps short. So
    skill is no gate there, but whether the cells moved as far as noise and posteriors imply.
    """
    if not backbone.posterior:
        return [
            _gate(
                "skill",
                backbone.mean_skill,
                settings.gates.skill,
                "held-out R2 of the model: one that predicts no better than the mean cannot tell noise from signal",
                "choose a target that the other columns explain, add columns, or train longer",
            )
        ]
    worst, ratio = refined.furthest_from_expected()
    return [
        _gate(
            "correction",
            ratio,
            settings.gates.correction,
            "root mean squared correction over what noise and posterior imply, the column furthest from 1"
            + (f" ({worst})" if worst else ""),
            "look at that column in the report: the model is too sure of it, or its noise is not as declared",
        )
    ]


def _gate(name: str, value: float, bound: Bound, meaning: str, remedy: str) -> Measured:
    return Measured(name, value, bound.min, bound.max, bound.severity, meaning, remedy)


def _measured(fidelity: Fidelity, backbone: TrainedBackbone, settings: Settings) -> list[Measured]:
    bounds, softer = settings.gates, LESS_NOISE if backbone.posterior else SOFTER
    other = softer if backbone.posterior else "raise refine.tau"
    worst_rho = min(fidelity.rho, key=lambda name: fidelity.rho[name])
    worst_drift = max(fidelity.mean_drift, key=lambda name: fidelity.mean_drift[name])
    worst_ratio = max(fidelity.std_ratio, key=lambda name: abs(fidelity.std_ratio[name] - 1))

    return [
        _gate(
            "swd",
            fidelity.swd,
            bounds.swd,
            "sliced Wasserstein distance between observed and refined rows, in std",
            softer,
        ),
        _gate("rho", fidelity.mean_rho, bounds.rho, "mean correlation of a column with itself before", softer),
        _gate(
            "mean_drift",
            fidelity.mean_drift[worst_drift],
            bounds.mean_drift,
            f"largest change of a column's mean, in std ({worst_drift})",
            softer,
        ),
        _gate(
            "std_ratio",
            fidelity.std_ratio[worst_ratio],
            bounds.std_ratio,
            f"spread of a column after over before, the furthest from 1 ({worst_ratio})",
            softer,
        ),
        _gate(
            "correlation_change",
            fidelity.correlation_change,
            bounds.correlation_change,
            "mean absolute change of the correlations between columns",
            softer,
        ),
        _gate(
            "column_rho",
            fidelity.rho[worst_rho],
            bounds.column_rho,
            f"smallest correlation of a column with itself before ({worst_rho})",
            f"freeze column {worst_rho!r}, or {other}",
        ),
        _gate(
            "largest_correction",
            fidelity.largest_correction,
            bounds.largest_correction,
            "largest correction of a single cell, in std",
            "look at the most corrected rows in the report: they may be gross errors",
        ),
        Measured(
            "untouched_identical",
            float(fidelity.untouched_identical),
            minimum=1,
            meaning="frozen and ignored columns are bit-identical (1) or not (0)",
            remedy="this is a defect: please report it",
        ),
        Measured(
            "rows_kept",
            float(fidelity.rows_kept),
            minimum=1,
            meaning="number and order of the rows are the same (1) or not (0)",
            remedy="this is a defect: please report it",
        ),
    ]
