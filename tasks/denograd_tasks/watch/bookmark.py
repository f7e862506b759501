"""What a watch remembers from one look to the next, and what it says. A small file, replaced as a whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from denograd_engine.errors import StoreError

if TYPE_CHECKING:
    from denograd_engine.drift.verdict import Verdict
    from denograd_tasks.store import Store

TOGETHER = "all columns together"
"""What people call the joint test."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRead(_Plain):
    """A file of the source when it was read.

    Attributes:
        bytes: Its size.
        modified: When it was last written, in nanoseconds.
        rows: In it; 0 for a series, whose rows are told by their time.
        digest: Of their content, likewise empty.
    """

    bytes: int
    modified: int
    rows: int = 0
    digest: str = ""


class Read(_Plain):
    """What has been read of a source.

    Attributes:
        files: By their path.
        ends: Of a series, the last time that was read of each entity.
    """

    files: dict[str, FileRead] = Field(default_factory=dict)
    ends: dict[str, float] = Field(default_factory=dict)


class Changed(_Plain):
    """A column that differs from the reference, in one way.

    Attributes:
        column: Its name, "residual of" one, or all columns together.
        kind: Location, scale, shape, missing, categories, joint, or relation.
        measure: What the effect is.
        effect: How far it has changed.
        p: Probability that chance brings as much in any of the tests.
        rows: That were looked at.
        evidence: Of the column: chance alone brings as much once in so many looks at most.
    """

    column: str
    kind: str
    measure: str
    effect: float
    p: float
    rows: int
    evidence: float


class Alarm(_Plain):
    """A drift that no version has been published since.

    Attributes:
        at: When it was found.
        evidence: Chance alone brings as much once in so many looks at most.
        changed: What had changed then.
    """

    at: datetime
    evidence: float
    changed: tuple[Changed, ...]

    @property
    def columns(self) -> list[str]:
        """The strongest first."""
        return list(dict.fromkeys(one.column for one in self.changed))

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(one.kind for one in self.changed))


class Watched(_Plain):
    """What one look found.

    Attributes:
        dataset: Its name.
        version: The version that is the reference.
        report: Where that version's report is.
        arrived: Rows that came since the last look.
        rows: Since this version was published, as far as it was watched.
        checks: Looks since then.
        severity: none, warning or drift, in these rows.
        evidence: Chance alone brings as much once in so many looks at most.
        changed: What differs; empty if nothing is amiss.
        alarm: The drift that holds, if there is one.
    """

    dataset: str
    version: int
    report: str
    arrived: int
    rows: int
    checks: int
    severity: str
    evidence: float
    changed: tuple[Changed, ...]
    alarm: Alarm | None

    @property
    def title(self) -> str:
        """In one sentence."""
        found = "no drift" if self.severity == "none" else self.severity
        if self.alarm is not None:
            found = f"drift since {self.alarm.at:%Y-%m-%d %H:%M} UTC"
        seen = f"{self.rows:,} rows, {self.arrived:,} of them new (check {self.checks:,})"
        return f"{self.dataset}@{self.version}: {found}; {seen}"

    @property
    def told(self) -> tuple[Changed, ...]:
        """What differs; where that has passed, what the alarm was about."""
        return self.changed or (self.alarm.changed if self.alarm is not None else ())


class Bookmark(_Plain):
    """What a watch remembers.

    Attributes:
        version: Digest of the manifest that is the reference.
        read: What has been read.
        state: Of `denograd_engine.drift.watch.Watch`.
        alarm: The drift that was told of.
    """

    version: str
    read: Read
    state: dict[str, Any]
    alarm: Alarm | None = None


def bookmark_path(dataset: str) -> str:
    """Where it is, relative to the root."""
    return f"{dataset}/watch/bookmark.json"


def read_bookmark(store: Store, dataset: str, version: str) -> Bookmark | None:
    """The bookmark of a watch on this version; None if nobody has looked since it was published.

    Raises:
        StoreError: If it is damaged.
    """
    path = bookmark_path(dataset)
    if store.size(path) is None:
        return None
    try:
        found = Bookmark.model_validate_json(store.read(path))
    except ValidationError:
        raise StoreError(
            "what the watch remembers is damaged", where=store.uri(path), remedy="remove it, and the watch begins anew"
        ) from None
    return found if found.version == version else None


def write_bookmark(store: Store, dataset: str, bookmark: Bookmark) -> None:
    """Put it in the place of the last one."""
    store.replace(bookmark_path(dataset), bookmark.model_dump_json().encode())


def changed_in(verdict: Verdict) -> tuple[Changed, ...]:
    """What a verdict tells of."""
    return tuple(
        Changed(
            column=TOGETHER if one.column is None else one.column,
            kind=one.kind.value,
            measure=one.measure,
            effect=one.effect,
            p=one.p,
            rows=one.rows,
            evidence=verdict.columns[one.column],
        )
        for one in verdict.notable
    )


def alarm_of(verdict: Verdict) -> Alarm:
    """A drift, found now."""
    return Alarm(at=datetime.now(UTC), evidence=verdict.evidence, changed=changed_in(verdict))
