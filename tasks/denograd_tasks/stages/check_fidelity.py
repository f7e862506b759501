"""Did the correction distort the data? Measured on the stored files, asserted by Great Expectations."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from denograd_engine.errors import StoreError
from denograd_tasks.appending import refined_last
from denograd_tasks.fidelity_gates import bounded, of_fidelity
from denograd_tasks.gates import Measured, judge
from denograd_tasks.keys import digest_of, stage
from denograd_tasks.models import SCALING
from denograd_tasks.records import Refined, Snapshot, TrainedBackbone, Verdict
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_bytes, read_table, to_frame

if TYPE_CHECKING:
    from denograd_engine.harm import Harm


@stage(
    lambda given: {
        "snapshot": given["snapshot"].digest,
        "backbone": given["backbone"].digest,
        "attempt": given["refined"].attempt,
        "half": given["refined"].strength_chosen,
        "gates": given["settings"].gates.model_dump(mode="json"),
        "dataset": given["settings"].dataset,
        "root": given["settings"].publish.root,
    }
)
def check_fidelity(snapshot: Snapshot, backbone: TrainedBackbone, refined: Refined, settings: Settings) -> Verdict:
    """Measure the refined data against the observed, judge every gate, and keep the evidence.

    Where the strength of the refinement was chosen on one half of the rows, the other half alone is measured; of an
    appended version, the rows that were refined for it, unless they are fewer than 50.

    Raises:
        StoreError: If the files to compare are gone.
    """
    from prefect.artifacts import create_table_artifact

    from denograd_engine.fidelity import measure_fidelity
    from denograd_engine.folds import first_half
    from denograd_engine.frames import Encoder
    from denograd_engine.harm import harm

    store = open_store(settings.publish.root)
    observed = to_frame(read_table(store, snapshot.files[0].path))
    staged = refined.located()
    if staged is None:
        raise StoreError("the refined data are gone", where=store.uri(refined.data.path), remedy="run again")
    proposed = to_frame(read_table(store, staged.path).select(list(observed.columns)))  # without columns of stds
    encoder = Encoder.from_dict(json.loads(store.read(backbone.file(SCALING).path)))
    half = refined.strength_chosen
    rows = ~first_half(observed, encoder.schema) if half else refined_last(read_table(store, refined.rows.path))
    fidelity = measure_fidelity(observed, proposed, encoder, rows)
    measured = [*_of_model(backbone, refined, settings), *of_fidelity(fidelity, settings)]
    if not backbone.posterior and encoder.schema.series is None:
        measured += _of_training(harm(observed, proposed, encoder), settings)
    judged_by = [settings.gates.model_dump(mode="json"), backbone.digest, *(["half"] if half else [])]
    suffix = digest_of(judged_by)[:12]
    folder = f"{settings.dataset}/evidence/{refined.attempt}/{suffix}"
    gates, docs = judge("fidelity", measured, store, folder)
    passed = all(gate.passed for gate in gates if gate.severity == "error")
    plain = {
        "passed": passed,
        "half": half,
        "gates": [gate.model_dump() for gate in gates],
        "fidelity": asdict(fidelity),
    }
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
        half=half,
    )


def _of_training(found: Harm | None, settings: Settings) -> list[Measured]:
    """Is what is trained on the result worse for it? Nothing where there are too few rows to tell."""
    if found is None:
        return []
    return [
        bounded(
            "harm",
            found.ratio,
            settings.gates.harm,
            "error of a small model trained on the refined rows over that of one trained on the observed, on rows left "
            f"out of both, with 99% confidence at least; the model that suffers most ({found.model})",
            "declare columns.noise, so that rule posterior can be used, or raise refine.tau, so that less is moved",
        )
    ]


def _of_model(backbone: TrainedBackbone, refined: Refined, settings: Settings) -> list[Measured]:
    """Can the model be trusted?

    What a posterior model cannot predict it hardly moves: low skill makes its posteriors wide, and its steps short. So
    skill is no gate there, but whether the cells moved as far as noise and posteriors imply.
    """
    if not backbone.posterior:
        return [
            bounded(
                "skill",
                backbone.mean_skill,
                settings.gates.skill,
                "held-out R2 of the model: one that predicts no better than the mean cannot tell noise from signal",
                "choose a target that the other columns explain, add columns, or train longer",
            )
        ]
    worst, ratio = refined.furthest_from_expected()
    return [
        bounded(
            "correction",
            ratio,
            settings.gates.correction,
            "root mean squared correction over what noise and posterior imply, the column furthest from 1"
            + (f" ({worst})" if worst else ""),
            "look at that column in the report: the model is too sure of it, or its noise is not as declared: there is "
            "less of it, or, in a series, it hangs together over neighbouring steps (columns.noise_correlation)",
        )
    ]
