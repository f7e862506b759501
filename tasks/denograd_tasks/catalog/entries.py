"""A version in figures: what tables and charts show of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from denograd_tasks.records import Gate
from denograd_tasks.versions import Manifest


@dataclass(frozen=True)
class Entry:
    """A version.

    Attributes:
        number: Of it.
        created: When it was published.
        rows: Of its data.
        moved: Share of the rows of which any cell changed.
        removed: Share of the noise that was removed, in the mean over columns, estimated without clean data; None for
            rules that estimate none.
        residual: Root mean squared residual before and after, standardised; None without any.
        skill: Held-out R2 of the target that is predicted worst; None if none was measured.
        gates: Every gate.
        trigger: What started the run, and the event that it answers.
        released: Whether a person published it against its verdict.
    """

    number: int
    created: datetime
    rows: int
    moved: float
    removed: float | None
    residual: tuple[float, float] | None
    skill: float | None
    gates: tuple[Gate, ...]
    trigger: str
    released: bool

    @property
    def passed(self) -> int:
        """Gates that passed."""
        return sum(gate.passed for gate in self.gates)

    @property
    def verdict(self) -> str:
        """passed, warned or failed."""
        failed = {gate.severity for gate in self.gates if not gate.passed}
        return "failed" if "error" in failed else "warned" if failed else "passed"


def entry_of(manifest: Manifest) -> Entry:
    """The figures of a published version."""
    content = manifest.content
    refinement, run = content["refinement"], content["run"]
    before, after = refinement["residual_before"], refinement["residual_after"]
    return Entry(
        number=manifest.number,
        created=datetime.fromisoformat(content["created"]),
        rows=refinement["rows"],
        moved=refinement["moved"] / max(1, refinement["rows"]),
        removed=noise_removed(content),
        residual=None if before is None or after is None else (before, after),
        skill=min(content["model"]["skill"].values(), default=None),
        gates=tuple(Gate(**one) for one in content["gates"]),
        trigger=run["trigger"] + (f", event {run['event'][:8]}" if run.get("event") else ""),
        released=bool(content.get("released")),
    )


def noise_removed(content: Mapping[str, Any]) -> float | None:
    """Share of the noise that a posterior model removes, in the mean over its columns; None for other models."""
    columns = content["model"].get("columns") or {}
    return 1 - sum(one["gain"] for one in columns.values()) / len(columns) if columns else None
