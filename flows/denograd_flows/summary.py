"""The summary at the end of a run, for people."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from denograd_flows.outcome import Outcome
from denograd_tasks.champion import Contest
from denograd_tasks.growth import Appended
from denograd_tasks.noisy import faults_in_words, noise_left_in_words, step_in_words
from denograd_tasks.records import Gate
from denograd_tasks.strength import strength_in_words

if TYPE_CHECKING:
    from denograd_flows.doctor import Finding
    from denograd_flows.plan import Step
    from denograd_tasks.versions import Manifest


def print_outcome(outcome: Outcome, console: Console) -> None:
    """What came out, where it is, and what to try if it was refused."""
    title, style = _title(outcome)
    passed = sum(gate.passed for gate in outcome.gates)
    console.print(Text.assemble(("\n  " + title, f"bold {style}")), highlight=False)
    facts: dict[str, str] = {
        "rule": f"{outcome.rule}: {outcome.why}",
        **_appended(outcome.appended),
        "rows moved": f"{outcome.moved:,} of {outcome.rows:,} ({outcome.moved / max(1, outcome.rows):.0%})",
        **_strength(outcome.strength, outcome.strength_chosen),
        **(_of_posterior(outcome) if outcome.noise_left is not None else _of_steps(outcome)),
        **_champion(outcome.contest),
        **{name: f"{share:.1%}" for name, share in (outcome.noise_removed or {}).items()},
        "gates": f"{passed} of {len(outcome.gates)} passed",
    }
    _print_facts(facts, console)
    for gate in outcome.gates:
        if not gate.passed:
            console.print(_gate(gate), highlight=False)
    _print_facts({"data": short(outcome.path), "report": short(outcome.report)}, console)


def _appended(rows: Appended | None) -> dict[str, str]:
    return {} if rows is None else {"appended": rows.words()}


def _strength(strength: float, chosen: bool) -> dict[str, str]:
    words = strength_in_words(strength, chosen)
    return {"strength": words} if words else {}


def _champion(contest: Contest | None) -> dict[str, str]:
    return {} if contest is None else {"champion": contest.words()}


def _of_steps(outcome: Outcome) -> dict[str, str]:
    residual = {}
    if outcome.residual_before is not None and outcome.residual_after is not None:
        residual = {"residual": f"{outcome.residual_before:.3f} std before, {outcome.residual_after:.3f} after"}
    return residual | {"held-out R2": ", ".join(f"{name} {skill:.3f}" for name, skill in outcome.skill.items())}


def _of_posterior(outcome: Outcome) -> dict[str, str]:
    step = {"mean step": step_in_words(outcome.step)} if outcome.moved and outcome.step is not None else {}
    faults = {} if outcome.faults is None else {"faulty": faults_in_words(outcome.faults, outcome.rows)}
    return faults | step | {"noise left, estimated": noise_left_in_words(outcome.noise_left or {})}


def _print_facts(facts: Mapping[str, str], console: Console) -> None:
    """A line for each fact, never broken, so that paths can be copied."""
    for name, fact in facts.items():
        console.print(Text.assemble((f"  {name:<24}", "dim"), fact), highlight=False, soft_wrap=True)


def _title(outcome: Outcome) -> tuple[str, str]:
    if outcome.status == "refused":
        return f"{outcome.dataset}: refused, in quarantine", "red"
    if outcome.status == "released":
        return f"{outcome.dataset}: refused, and released as version {outcome.version}", "cyan"
    if outcome.status == "already_published":
        return f"{outcome.dataset}: already published as version {outcome.version}", "cyan"
    return f"{outcome.dataset}: published as version {outcome.version}", "green"


def _gate(gate: Gate) -> Text:
    value = "not measurable" if gate.value is None else f"{gate.value:.4g}"
    style = "red" if gate.severity == "error" else "yellow"
    return Text.assemble(
        (f"  {gate.severity}: {gate.name} is {value}, bound: {gate.bound}\n", style),
        f"    {gate.meaning}\n    try: {gate.remedy}",
    )


def short(path: str) -> str:
    """A path relative to the working folder where that is shorter."""
    if "://" in path or not Path(path).is_absolute():
        return path
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path


def print_plan(dataset: str, steps: Sequence[Step], console: Console) -> None:
    """What a run would do."""
    console.print(f"[bold]{dataset}[/bold]: what a run would do", highlight=False)
    for step in steps:
        mark, style = ("↻ reuse", "cyan") if step.action == "reuse" else ("▸ run  ", "green")
        line = Text.assemble((f"  {mark} ", style), f"{step.stage:<16}", (step.detail, "dim"))
        console.print(line, highlight=False, soft_wrap=True)


def print_versions(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """What is published."""
    if not rows:
        console.print("Nothing is published yet. Begin with: denograd init DATA")
        return
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("version", "created", "rows", "moved", "gates", "model", "snapshot", ""):
        table.add_column(name, justify="right" if name in ("rows", "moved") else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row['dataset']}@{row['version']}",
            row["created"].replace("+00:00", "Z"),
            f"{row['rows']:,}",
            f"{row['moved'] / max(1, row['rows']):.0%}",
            f"{row['gates_passed']}/{row['gates']}",
            row["model"],
            row["snapshot"][:12],
            _remarks(row),
        )
    console.print(table)


def _remarks(row: Mapping[str, Any]) -> str:
    """Tags of a version, and what else sets it apart."""
    back = [] if row["content_of"] == row["version"] else [f"back to @{row['content_of']}"]
    return ", ".join([*row["tags"], *back, *([] if row["data"] else ["data removed"])])


def print_manifest(manifest: Manifest, console: Console) -> None:
    """A version and where it comes from."""
    content = manifest.content
    model, refinement = content["model"], content["refinement"]
    facts = {
        "created": content["created"],
        "source": content["source"]["uri"],
        "snapshot": content["source"]["snapshot"],
        "model": f"{model['kind']}, {model['uri']}, weights {model['digest'][:12]}",
        **_rule(refinement),
        **_strength(refinement.get("strength", 1.0), refinement.get("strength_chosen", False)),
        **_left(model),
        **_champion(Contest(**model["contest"]) if model.get("contest") else None),
        **_appended(Appended(**content["appended"]) if content.get("appended") else None),
        "rows moved": f"{refinement['moved']:,} of {refinement['rows']:,}",
        **_released(content),
        **_rolled_back(content),
        "manifest": manifest.digest,
        "parent": content["parent"] or "none: the first version",
        "flow run": run_in_words(content["run"]["flow_run_name"], content["run"]["flow_run_id"]),
        "MLflow run": model["mlflow_run_id"],
    }
    console.print(f"[bold]{manifest.dataset}@{manifest.number}[/bold]", highlight=False)
    _print_facts(facts, console)
    gates = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("gate", "value", "bound", "severity", "passed"):
        gates.add_column(name, justify="right" if name == "value" else "left")
    for plain in content["gates"]:
        gate = Gate(**plain)
        value = "–" if gate.value is None else f"{gate.value:.4g}"
        gates.add_row(gate.name, value, gate.bound, gate.severity, "✓" if gate.passed else "✗")
    console.print(gates)


def _released(content: Mapping[str, Any]) -> dict[str, str]:
    released = content.get("released")
    return {"released": f"by {released['by']}, {released['at']}: {released['reason']}"} if released else {}


def _rolled_back(content: Mapping[str, Any]) -> dict[str, str]:
    back = content.get("rolled_back")
    return {"rolled back": f"to version {back['to']} by {back['by']}, {back['at']}: {back['reason']}"} if back else {}


def run_in_words(name: str, flow_run: str | None) -> str:
    """What published a version; a rollback is no flow run."""
    return name if flow_run is None else f"{name} ({flow_run})"


def _rule(refinement: Mapping[str, Any]) -> dict[str, str]:
    """Versions of earlier releases do not say it."""
    return {"rule": f"{refinement['rule']}: {refinement['why']}"} if "rule" in refinement else {}


def _left(model: Mapping[str, Any]) -> dict[str, str]:
    """What the model is worth: of a posterior model, the noise that it leaves."""
    columns = model.get("columns") or {}
    if columns:
        return {"noise left, estimated": noise_left_in_words({name: one["gain"] for name, one in columns.items()})}
    return {"held-out R2": ", ".join(f"{name} {skill:.3f}" for name, skill in model["skill"].items())}


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """What the doctor found."""
    for one in findings:
        sign, colour = ("✗", "red") if not one.ok else ("!", "yellow") if one.warning else ("✓", "green")
        line = Text.assemble(" ", (sign, colour), f" {one.what:<20}", (one.detail, "" if sign == "✓" else colour))
        console.print(line, highlight=False, soft_wrap=True)


def print_removed(outcomes: Sequence[Outcome], console: Console) -> None:
    """The rules side by side, where the truth is known."""
    shares = list(dict.fromkeys(name for outcome in outcomes for name in outcome.noise_removed or {}))
    if not shares:
        return
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("data set", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    for name in shares:
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        removed = outcome.noise_removed or {}
        table.add_row(outcome.dataset, outcome.rule, *(f"{removed[name]:.1%}" for name in shares))
    console.print()
    console.print(table)


def print_farewell(outcomes: Sequence[Outcome], console: Console) -> None:
    """After the demonstration: where to look next."""
    print_removed(outcomes, console)
    command = "denograd" if shutil.which("denograd") else short(sys.argv[0])
    console.print("\nLook at the reports in a browser:", highlight=False)
    for outcome in outcomes:
        console.print(f"  {short(outcome.report)}", highlight=False, soft_wrap=True)
    console.print(f"Then try your own data: {command} init DATA", highlight=False)
