"""What a run would do, and what it would reuse: the cache keys of the stages, without running any."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from denograd_tasks.append import parent_of
from denograd_tasks.keys import lookup
from denograd_tasks.rule import chosen_rule
from denograd_tasks.settings import Settings
from denograd_tasks.stages.check_fidelity import check_fidelity
from denograd_tasks.stages.check_input import check_input
from denograd_tasks.stages.ingest import ingest
from denograd_tasks.stages.refine import refine
from denograd_tasks.stages.report import report
from denograd_tasks.stages.train_backbone import train_backbone

AFTER = ("check_input", "train_backbone", "refine", "check_fidelity", "report", "publish")


class Step(BaseModel):
    """One stage of a planned run."""

    stage: str
    action: Literal["reuse", "run"]
    detail: str


def plan(settings: Settings) -> list[Step]:
    """The stages of a run in order. From the first that must run, the later ones run as well.

    Raises:
        DataError: If the source is absent.
    """
    steps: list[Step] = []
    known: dict[str, Any] = {"settings": settings, "parent": parent_of(settings)}
    for name, stage, keep in (
        ("ingest", ingest, "snapshot"),
        ("check_input", check_input, "checked"),
        ("train_backbone", train_backbone, "backbone"),
        ("refine", refine, "refined"),
        ("check_fidelity", check_fidelity, "verdict"),
        ("report", report, "report"),
    ):
        _, record = lookup(stage, known)
        if record is None:
            steps.append(Step(stage=name, action="run", detail=_why(name, settings)))
            rest = AFTER[AFTER.index(name) + 1 :] if name in AFTER else AFTER
            later = f"after {name}"
            steps += [Step(stage=one, action="run", detail=later) for one in rest]
            return _with_rule(steps, settings)
        steps.append(Step(stage=name, action="reuse", detail=record.describe()))
        known[keep] = record
    steps.append((_publishing if known["verdict"].passed else _refusing)(settings, known))
    return _with_rule(steps, settings)


def _with_rule(steps: list[Step], settings: Settings) -> list[Step]:
    """The stage that refines says by which rule."""
    rule = f"rule {chosen_rule(settings)}"
    return [
        step.model_copy(update={"detail": f"{step.detail}; {rule}"}) if step.stage == "refine" else step
        for step in steps
    ]


def _why(stage: str, settings: Settings) -> str:
    source = settings.source.rsplit("/", 1)[-1]
    return (
        f"{source} has not been read as it is now" if stage == "ingest" else "no result with these inputs and settings"
    )


def _publishing(settings: Settings, known: dict[str, Any]) -> Step:
    from denograd_tasks.stages.publish import identity
    from denograd_tasks.store import open_store
    from denograd_tasks.versions import newest

    parent = newest(open_store(settings.publish.root), settings.dataset)
    if parent and parent.identity == identity(known["refined"], known["backbone"], settings):
        return Step(stage="publish", action="reuse", detail=f"already published as version {parent.number}")
    return Step(stage="publish", action="run", detail=f"as version {parent.number + 1 if parent else 1}")


def _refusing(settings: Settings, known: dict[str, Any]) -> Step:
    from denograd_tasks.stages.publish import released_version

    released, detail = released_version(known["refined"], known["backbone"], settings), "the gates refused this result"
    if released is not None:
        return Step(
            stage="publish", action="reuse", detail=f"{detail}, and it was released as version {released.number}"
        )
    return Step(stage="quarantine", action="reuse", detail=f"{detail} before")
