"""The way of a version from its source, as a row of stations for the eye, and as labelled facts for reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from denograd_tasks.report_page.formats import count, number, percent, ratio, shorten

if TYPE_CHECKING:
    from denograd_tasks.audit.lineage import Lineage, Model, Origin, Refinement, Run
    from denograd_tasks.records import Gate

SHORT, LIMIT = 12, 30
"""Characters of a digest that tell it apart, and of any other text that fits a station."""


@dataclass(frozen=True)
class Station:
    """One station.

    Attributes:
        title: What happened there.
        lines: The facts that matter most, each in a few words.
        failed: Whether a check failed there.
    """

    title: str
    lines: tuple[str, ...]
    failed: bool = False


@dataclass(frozen=True)
class Way:
    """All that a way is made of.

    Attributes:
        origin: Where the data came from.
        model: What drove the correction.
        refinement: What was done with it.
        gates: What the result had to satisfy.
        run: What made it.
        end: What the way leads to, such as a version.
        after: The version before, in words.
        facts: Of the end, by their labels.
        steps: Of the refinement, more of them.
    """

    origin: Origin
    model: Model
    refinement: Refinement
    gates: Sequence[Gate]
    run: Run
    end: str
    after: str
    facts: Mapping[str, str]
    steps: Mapping[str, str] = field(default_factory=dict)


def way_of(found: Lineage) -> Way:
    """The way of a published version."""
    after = "the first version"
    facts = {"manifest": found.digest, "content": found.content, "parent": "none: the first version"}
    if found.parent is not None:
        after = f"after {found.dataset}@{found.parent.number}"
        when = f"published {found.parent.created}" if found.parent.created else "its manifest is gone"
        facts["parent"] = f"{found.dataset}@{found.parent.number}, {when}"
        facts["parent's manifest"] = found.parent.digest
    if found.released is not None:
        by = found.released.by or "nobody knows whom"
        facts["released"] = f"by {by}, {found.released.at}: {found.released.reason}"
    if found.rolled_back is not None:
        back = found.rolled_back
        facts["rolled back"] = (
            f"to {found.dataset}@{back.to} by {back.by or 'nobody knows whom'}, {back.at}: {back.reason}"
        )
    end = f"{found.dataset}@{found.number}"
    return Way(found.origin, found.model, found.refinement, found.gates, found.run, end, after, facts)


def stations(way: Way) -> list[Station]:
    """The way as a figure shows it."""
    failed = [gate for gate in way.gates if gate.severity == "error" and not gate.passed]
    warned = sum(not gate.passed for gate in way.gates) - len(failed)
    passed = sum(gate.passed for gate in way.gates)
    unfit = sum(not check.passed for check in way.origin.checks)
    judged = f"failed: {_few([gate.name for gate in failed])}" if failed else _warnings(warned)
    return [
        Station(
            "Source",
            (
                _place(way.origin.uri),
                f"{count(way.origin.rows)} rows x {way.origin.columns}",
                f"snapshot {way.origin.snapshot[:SHORT]}",
            ),
        ),
        Station("Input checks", (f"{len(way.origin.checks) - unfit} of {len(way.origin.checks)} passed",)),
        Station(
            "Model",
            (
                shorten(way.model.kind, LIMIT),
                shorten(way.model.uri, LIMIT),
                _learnt(way),
                *([f"skill {_skill(way.model)}"] if way.model.skill else []),
            ),
        ),
        Station(
            "Refinement",
            (way.refinement.rule or "rule unknown", f"{_share(way.refinement)} of the rows moved"),
        ),
        Station("Gates", (f"{passed} of {len(way.gates)} passed", *([judged] if judged else [])), bool(failed)),
        Station(shorten(way.end, LIMIT), (_trigger(way.run), way.after)),
    ]


def sections(way: Way) -> dict[str, dict[str, str]]:
    """The way in full: headings, and below each its facts by their labels."""
    origin, model, refinement, run = way.origin, way.model, way.refinement, way.run
    known = {
        "Source": {
            "location": origin.uri,
            "snapshot": origin.snapshot,
            "size": f"{count(origin.rows)} rows, {origin.columns} columns",
        },
        "Input checks": {check.name: _judged(check) for check in origin.checks},
        "Model": {
            "architecture": model.kind,
            "registered as": model.uri + (", taken as it is" if model.adopted else ""),
            "digest": model.digest,
            "MLflow run": f"{model.run} in {model.tracking_uri}",
            "trained on": _learnt(way) if model.trained_on is None else f"{model.trained_on} ({_learnt(way)})",
            "skill, held-out R2": _skill(model) if model.skill else "",
            "trained": "" if model.start is None else model.start.words(),
            "champion": "" if model.contest is None else model.contest.words(),
        },
        "Refinement": {
            "rule": f"{refinement.rule or 'unknown'}: {refinement.why or ''}",
            "rows moved": f"{count(refinement.moved)} of {count(refinement.rows)}",
            **way.steps,
        },
        "Gates": {gate.name: _judged(gate) for gate in way.gates},
        "Run": {
            "triggered by": _trigger(run, whole=True),
            "Prefect flow run": f"{run.name} ({run.flow_run})" if run.flow_run else run.name,
            "packages": ", ".join(f"{name} {version}" for name, version in run.packages.items() if version),
            "Python": f"{run.python} on {run.platform}",
            "code": run.revision or "an installed package",
        },
        "Version": dict(way.facts),
    }
    told = {heading: {label: value for label, value in facts.items() if value} for heading, facts in known.items()}
    return {heading: facts for heading, facts in told.items() if facts}


def _place(uri: str) -> str:
    """The end of an address, which tells most."""
    name = uri.rstrip("/").rsplit("/", 1)[-1] or uri
    return shorten(name, LIMIT)


def _learnt(way: Way) -> str:
    if way.model.trained_on is None:
        return "learnt data that no version here tells of"
    return "learnt the same data" if way.model.trained_on == way.origin.snapshot else "learnt other data"


def _skill(model: Model) -> str:
    worst = min(model.skill, key=lambda name: model.skill[name])
    if len(model.skill) == 1:
        return f"{ratio(model.skill[worst])} ({shorten(worst, LIMIT)})"
    mean = sum(model.skill.values()) / len(model.skill)
    return f"{ratio(mean)} in the mean, lowest {ratio(model.skill[worst])} ({shorten(worst, LIMIT)})"


def _share(refinement: Refinement) -> str:
    return percent(refinement.moved / refinement.rows if refinement.rows else None)


def _trigger(run: Run, whole: bool = False) -> str:
    event = f", event {run.event if whole else run.event[:SHORT]}" if run.event else ""
    return run.trigger + event + (f", {run.user}" if run.user else "")


def _judged(gate: Gate) -> str:
    value = "not measurable" if gate.value is None else number(gate.value)
    said = "" if gate.passed else ": failed" if gate.severity == "error" else ": warning"
    return f"{value}, {gate.bound}{said}"


def _few(names: Sequence[str]) -> str:
    return shorten(", ".join(names), LIMIT)


def _warnings(warned: int) -> str:
    return f"{warned} warning{'s' if warned > 1 else ''}" if warned else ""
