"""What the auditor's commands print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from denograd_flows.summary import run_in_words

if TYPE_CHECKING:
    from denograd_tasks.audit.cell import Cell
    from denograd_tasks.audit.diff import Diff
    from denograd_tasks.audit.lineage import Lineage
    from denograd_tasks.audit.verify import Verified
    from denograd_tasks.records import Gate


def print_view(view: RenderableType, console: Console) -> None:
    """Print a view without breaking its lines, so that digests can be copied."""
    console.print(view, highlight=False, soft_wrap=True)


def lineage_tree(found: Lineage) -> RenderableType:
    """The whole way, root first."""
    tree = Tree(_fact(f"{found.dataset}@{found.number}", f"published {found.created}"))
    _add(tree, {"manifest": found.digest, "content": found.content})
    origin = tree.add(_fact("source", found.origin.uri))
    _add(
        origin,
        {"snapshot": found.origin.snapshot, "size": f"{found.origin.rows:,} rows x {found.origin.columns} columns"},
    )
    _gates(origin.add("input checks"), found.origin.checks)
    model = tree.add(_fact("model", found.model.uri + (", taken as it is" if found.model.adopted else "")))
    _add(
        model,
        {
            "architecture": found.model.kind,
            "digest": found.model.digest,
            "MLflow run": f"{found.model.run} in {found.model.tracking_uri}",
            "trained on": _snapshot(found),
            "held-out R2": ", ".join(f"{name} {skill:.3f}" for name, skill in found.model.skill.items()),
            "noise": ", ".join(f"{name} {one.noise:.4g}" for name, one in found.model.noise.items()),
            "trained": "" if found.model.start is None else found.model.start.words(),
            "champion": "" if found.model.contest is None else found.model.contest.words(),
        },
    )
    refinement = tree.add(_fact("refinement", f"{found.refinement.rule or 'unknown'}: {found.refinement.why or ''}"))
    _add(refinement, {"rows moved": f"{found.refinement.moved:,} of {found.refinement.rows:,}"})
    settings = {name: str(value) for name, value in found.refinement.settings.items() if name != "rule" and value != {}}
    _add(refinement.add("settings"), settings)
    _gates(tree.add("gates"), found.gates)
    if found.released is not None:
        by = found.released.by or "nobody knows whom"
        tree.add(_fact("released", f"by {by}, {found.released.at}: {found.released.reason}"))
    if found.rolled_back is not None:
        back = found.rolled_back
        why = f"to {found.dataset}@{back.to} by {back.by or 'nobody knows whom'}, {back.at}: {back.reason}"
        tree.add(_fact("rolled back", f"{why}, manifest {back.manifest}"))
    run = tree.add(_fact("run", run_in_words(found.run.name, found.run.flow_run)))
    packages = ", ".join(f"{name} {version}" for name, version in found.run.packages.items() if version)
    _add(
        run,
        {
            "triggered by": found.run.trigger + (f", {found.run.user}" if found.run.user else ""),
            "event": found.run.event or "",
            "packages": packages,
            "Python": f"{found.run.python} on {found.run.platform}",
            "code": found.run.revision or "an installed package",
        },
    )
    parent = "none: the first version"
    if found.parent is not None:
        when = f"published {found.parent.created}" if found.parent.created else "its manifest is gone"
        parent = f"{found.dataset}@{found.parent.number}, {when}, manifest {found.parent.digest}"
    tree.add(_fact("parent", parent))
    return tree


def findings(found: Verified) -> RenderableType:
    """What was verified, and what was found."""
    versions = ", ".join(map(str, found.versions)) or "none"
    lines = [
        _fact(found.dataset, f"version {versions}: {found.files:,} files, {found.bytes / 1e6:,.1f} MB", "bold"),
        _fact("  head", found.head or "none"),
    ]
    if found.signed is not None:
        lines.append(_fact("  signed", "every version" if found.signed else "not every version"))
    for one in found.given_up:
        what = f"version {one.version} gave up {one.tables} tables, {one.at}, by {one.by}; retention kept {one.kept}"
        lines.append(_fact("  retention", what))
    if found.intact:
        return Group(*lines, Text("  ✓ everything is as it was published", style="green"))
    for finding in found.findings:
        lines.append(Text(f"  ✗ {finding.kind}: {finding.path}", style="red"))
        lines.append(Text(f"      {finding.problem}"))
        digests = {"expected": finding.expected, "found": finding.found}
        lines += [Text(f"      {name} {value}", style="dim") for name, value in digests.items() if value]
    return Group(*lines)


def differences(found: Diff) -> RenderableType:
    """What differs, column by column, and the rows with the largest changes."""
    by = ", ".join(found.key) or "position"
    facts = {
        "rows": f"{found.matched:,} in both, {found.added:,} added, {found.removed:,} removed; matched by {by}",
        "changed": f"{found.cells_changed:,} cells of {found.rows_changed:,} rows",
        "columns added": ", ".join(found.columns_added),
        "columns removed": ", ".join(found.columns_removed),
        "types changed": ", ".join(
            f"{one.name} from {one.types[0]} to {one.types[1]}" for one in found.columns if one.types
        ),
    }
    parts: list[RenderableType] = [Text(f"{found.first} → {found.second}", style="bold")]
    parts += [_fact(f"  {name}", value) for name, value in facts.items() if value]
    changed = [one for one in found.columns if one.changed]
    if changed:
        table = _table(("column", "cells changed", "mean change", "largest change"))
        for one in changed:
            table.add_row(one.name, f"{one.changed:,}", _number(one.mean), _number(one.largest))
        parts += [Text(), table]
    if found.most_changed:
        table = _table((*(found.key or ("row",)), "cells", "size of the change, in std"))
        for row in found.most_changed:
            table.add_row(*map(str, row.key.values()), f"{row.cells:,}", _number(row.size))
        parts += [Text("\n  rows that changed most", style="dim"), table]
    return Group(*parts)


def cell_facts(found: Cell) -> RenderableType:
    """One cell, fact by fact."""
    key = ", ".join(f"{name}={value}" for name, value in found.key.items())
    facts = {
        "row": f"{found.row:,}" + (f" ({key})" if key else ""),
        "column": f"{found.column}, {found.role}",
        "observed": _plain(found.observed),
        "refined": _plain(found.refined),
        "correction": _correction(found),
        "posterior std": "" if found.std is None else _number(found.std),
        "status": "" if found.status is None else f"{found.status} after {found.iterations} iterations",
        "residual of the row": _residual(found),
        "rule": found.rule or "unknown",
        "model": f"{found.model}, {found.model_digest[:12]}",
    }
    parts: list[RenderableType] = [Text(found.version, style="bold")]
    parts += [_fact(f"  {name}", value) for name, value in facts.items() if value]
    if found.gone:
        versions = ", ".join(f"@{number}" for number in found.gone)
        parts.append(_fact("  not looked into", f"{versions}: retention removed their data"))
    if not found.elsewhere:
        return Group(*parts, _fact("  other versions", "the same wherever else it was published"))
    table = _table(("other versions", "published", "observed", "refined"))
    for one in found.elsewhere:
        values = (_plain(one.observed), _plain(one.refined))
        if one.rows != 1:
            values = ("–", "not there" if not one.rows else f"{one.rows:,} rows have this key")
        table.add_row(f"@{one.number}", one.created.replace("+00:00", "Z"), *values)
    return Group(*parts, table)


def _fact(name: str, value: str, style: str = "dim") -> Text:
    return Text.assemble((f"{name:<22} " if name.startswith("  ") else f"{name}: ", style), value)


def _add(tree: Tree, facts: Mapping[str, str]) -> None:
    for name, value in facts.items():
        if value:
            tree.add(_fact(name, value))


def _gates(tree: Tree, gates: Sequence[Gate]) -> None:
    for gate in gates:
        mark = ("✓", "green") if gate.passed else ("✗", "red" if gate.severity == "error" else "yellow")
        value = "not measurable" if gate.value is None else f"{gate.value:.4g}"
        tree.add(Text.assemble(mark, f" {gate.name} {value}", (f", {gate.bound}, {gate.severity}", "dim")))


def _snapshot(found: Lineage) -> str:
    if found.model.trained_on is None:
        return "data that no version here tells of"
    same = found.model.trained_on == found.origin.snapshot
    return f"{found.model.trained_on}, {'the same data' if same else 'other data'}"


def _table(names: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for at, name in enumerate(names):
        table.add_column(name, justify="right" if at else "left", no_wrap=True)
    return table


def _correction(found: Cell) -> str:
    if found.correction is None:
        return ""
    in_std = "" if found.correction_std is None else f", {found.correction_std:+.3f} std"
    return f"{found.correction:+.6g}{in_std}"


def _residual(found: Cell) -> str:
    before, after = found.residual_before, found.residual_after
    if before is None or after is None or math.isnan(before):
        return ""
    gate = "" if found.gate is None else f"; the gate is {found.gate:g}"
    return f"{before:.3f} std before, {after:.3f} after{gate}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _plain(value: Any) -> str:
    return "missing" if value is None else str(value)
