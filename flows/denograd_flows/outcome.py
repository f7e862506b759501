"""What a cleaning run comes to: the same facts for people, for scripts and for calling code."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from denograd_engine.errors import GateRefused
from denograd_tasks.champion import Contest
from denograd_tasks.growth import Appended
from denograd_tasks.records import Gate, Refined, Report, Snapshot, TrainedBackbone, Verdict, Version
from denograd_tasks.rule import chosen_rule
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store

Status = Literal["published", "already_published", "refused", "released"]


class Outcome(BaseModel):
    """The summary of a run.

    Attributes:
        status: Published now, published by an earlier run with the same result, refused by a gate, or refused and then
            released by a person.
        dataset: Its name.
        version: The version's number; None if refused.
        path: The refined data, for `pandas.read_parquet`: published, or in quarantine.
        report: The HTML report.
        rows: Rows of the data.
        moved: Rows of which any cell changed.
        rule: The rule that refined them.
        why: Why that one.
        skill: Held-out R2 of each target; with rule `posterior`, of each column with noise.
        noise_left: With rule `posterior`, the share of each column's noise that is left, estimated without clean data.
        faults: With rule `posterior`, the number of faulty cells in each column; None if none were looked for.
        step: With rule `posterior`, how far cells went towards what their context says, in the mean: 1 is all the way.
        strength: Share of the way that cells went.
        strength_chosen: Whether it was chosen on one half of the rows, and the gates judged the other.
        appended: Which rows were refined, where the version was appended to the last one.
        residual_before: Root mean squared residual, standardised; None without any.
        residual_after: After refinement.
        gates: Every gate with its value and bound.
        snapshot: Digest of the input.
        model: Registry URI of the backbone.
        contest: How it compared with the champion of before, if this run trained it and there was one.
        manifest: Digest of the version's manifest; None if refused.
        reused: Stages whose earlier results were used again.
        noise_removed: Share of a known noise that was removed, for features and targets; None outside demonstrations.
    """

    model_config = ConfigDict(frozen=True)

    status: Status
    dataset: str
    version: int | None
    path: str
    report: str
    rows: int
    moved: int
    rule: str
    why: str
    skill: dict[str, float]
    noise_left: dict[str, float] | None = None
    faults: dict[str, float] | None = None
    step: float | None = None
    strength: float = 1.0
    strength_chosen: bool = False
    appended: Appended | None = None
    residual_before: float | None
    residual_after: float | None
    gates: tuple[Gate, ...]
    snapshot: str
    model: str
    contest: Contest | None = None
    manifest: str | None
    reused: tuple[str, ...] = ()
    noise_removed: dict[str, float] | None = None

    @property
    def refusals(self) -> list[Gate]:
        """The gates that refused the result."""
        return [gate for gate in self.gates if gate.severity == "error" and not gate.passed]


class Refused(GateRefused):
    """A gate refused the result; `outcome` has the facts."""

    def __init__(self, outcome: Outcome) -> None:
        failed = outcome.refusals
        super().__init__(
            f"{outcome.dataset} was not published: refused by {', '.join(gate.name for gate in failed)}",
            expected="; ".join(f"{gate.name} {gate.bound}" for gate in failed),
            found="; ".join(f"{gate.name} {_number(gate.value)}" for gate in failed),
            where=outcome.path,
            remedy="; ".join(dict.fromkeys(gate.remedy for gate in failed)),
        )
        self.outcome = outcome

    def __reduce__(self) -> tuple[type[Refused], tuple[Outcome]]:
        return type(self), (self.outcome,)


def outcome_of(
    settings: Settings,
    snapshot: Snapshot,
    backbone: TrainedBackbone,
    refined: Refined,
    verdict: Verdict,
    report: Report,
    version: Version | None,
    reused: tuple[str, ...],
    truth: dict[str, float] | None,
) -> Outcome:
    """Gather the facts of a run; without a version it was refused."""
    store, chosen = open_store(settings.publish.root), chosen_rule(settings)
    data = refined.quarantined if version is None else refined.data
    status: Status = "refused"
    if version is not None:
        status = "released" if not verdict.passed else "already_published" if version.already else "published"
    return Outcome(
        status=status,
        dataset=settings.dataset,
        version=None if version is None else version.number,
        path=store.uri(data.path.rsplit("/", 1)[0]),
        report=store.uri(report.page.path),
        rows=refined.totals["rows"],
        moved=refined.totals["moved"],
        rule=chosen.rule,
        why=chosen.why,
        skill=backbone.skill,
        noise_left=backbone.noise_left if chosen.posterior else None,
        faults={name: one["faults"] for name, one in refined.columns.items()} if settings.refine.faults else None,
        step=refined.totals["eta"] if chosen.posterior else None,
        strength=refined.strength,
        strength_chosen=refined.strength_chosen,
        appended=refined.appended,
        residual_before=refined.totals["residual_before"],
        residual_after=refined.totals["residual_after"],
        gates=verdict.gates,
        snapshot=snapshot.digest,
        model=backbone.model_uri,
        contest=None if "train_backbone" in reused else backbone.contest,
        manifest=None if version is None else version.digest,
        reused=reused,
        noise_removed=truth,
    )


def _number(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.4g}"
