"""What earlier looks found: the newest of them, and every one that began a drift. A small file, replaced as a whole.

It outlives the versions that were watched, unlike the bookmark, which begins anew with each. It is written before the
bookmark: a look that is killed between the two is made again, and takes the place of its first line.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from denograd_tasks.store import Store
    from denograd_tasks.watch.bookmark import Watched

KEPT = 1000
"""Looks, and as many of those that began a drift before them."""


class Past(BaseModel):
    """A look as it is remembered.

    Attributes:
        at: When it was.
        version: The version that was the reference.
        check: Which look it was since that version was published.
        arrived: Rows that came since the look before.
        severity: none, warning or drift, in the rows since that version was published.
        evidence: Chance alone brings as much once in so many looks at most.
        drift: Whether a drift held.
        began: Whether it began with this look.
        columns: What had changed when it began, the strongest first.
        kinds: In which ways, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    at: datetime
    version: int
    check: int
    arrived: int
    severity: str
    evidence: float
    drift: bool
    began: bool = False
    columns: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


class _History(BaseModel):
    looks: tuple[Past, ...] = ()


def history_path(dataset: str) -> str:
    """Where it is, relative to the root."""
    return f"{dataset}/watch/history.json"


def past_looks(store: Store, dataset: str) -> tuple[Past, ...]:
    """What is remembered, oldest first; nothing if it is damaged, since no look depends on it."""
    path = history_path(dataset)
    if store.size(path) is None:
        return ()
    try:
        return _History.model_validate_json(store.read(path)).looks
    except ValidationError:
        return ()


def remember(store: Store, watched: Watched, began: bool) -> None:
    """Add a look; only to be called by one process at a time.

    Args:
        store: The publishing root.
        watched: What was found.
        began: Whether a drift was found that nobody had been told of.
    """
    alarm = watched.alarm if began else None
    look = Past(
        at=datetime.now(UTC) if alarm is None else alarm.at,
        version=watched.version,
        check=watched.checks,
        arrived=watched.arrived,
        severity=watched.severity,
        evidence=watched.evidence,
        drift=watched.alarm is not None,
        began=began,
        columns=() if alarm is None else tuple(alarm.columns),
        kinds=() if alarm is None else tuple(alarm.kinds),
    )
    known = past_looks(store, watched.dataset)
    again = bool(known) and (known[-1].version, known[-1].check) == (look.version, look.check)
    looks = (*(known[:-1] if again else known), look)
    begun = [one for one in looks[:-KEPT] if one.began]
    kept = _History(looks=(*begun[-KEPT:], *looks[-KEPT:]))
    store.replace(history_path(watched.dataset), kept.model_dump_json().encode())
