"""The four to six figures that a reader sees first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from denograd_tasks.report_page.formats import count, percent, ratio, shorten, std
from denograd_tasks.report_page.movement import Movement

_LIMIT = 28


@dataclass(frozen=True)
class Card:
    """One big figure."""

    value: str
    label: str
    note: str
    unit: str = ""


def cards(
    movement: Movement,
    skill: Mapping[str, float],
    passed: Sequence[bool],
    truth: Mapping[str, float] | None,
    left: Mapping[str, float] | None = None,
) -> list[Card]:
    """Chooses the figures.

    Args:
        movement: What moved.
        skill: Held-out R2 per target; the lowest is shown, none where there is none.
        passed: Whether each gate passed.
        truth: Shares known from clean data; the first is shown.
        left: Share of each column's noise that is left, estimated; their mean takes the place of the skill.
    """
    largest = movement.largest
    found = [
        Card(
            percent(movement.moved_rows / movement.rows if movement.rows else None),
            "of rows moved",
            f"{count(movement.moved_rows)} of {count(movement.rows)}",
        ),
        Card(
            std(movement.typical),
            "typical correction",
            "median over the cells that moved" if largest else "no cell moved",
            "std" if largest else "",
        ),
        Card(
            std(largest.largest if largest else None),
            "largest correction",
            f"in {shorten(largest.name, _LIMIT)}" if largest else "no cell moved",
            "std" if largest else "",
        ),
    ]
    known = {name: value for name, value in skill.items() if math.isfinite(value)}
    if left:
        worst = max(left, key=lambda name: left[name])
        mean = sum(left.values()) / len(left)
        note = f"most: {percent(left[worst])} in {shorten(worst, _LIMIT)}"
        found.append(Card(percent(mean), "of the noise left, estimated", note))
    elif known:
        worst = min(known, key=lambda name: known[name])
        note = f"lowest of {len(known)}: {shorten(worst, _LIMIT)}" if len(known) > 1 else shorten(worst, _LIMIT)
        found.append(Card(ratio(known[worst]), "skill, held-out R²", note))
    if passed:
        failed = len(passed) - sum(passed)
        note = f"{failed} failed" if failed else "none failed"
        found.append(Card(f"{sum(passed)}/{len(passed)}", "gates passed", note))
    if truth:
        label, share = next(iter(truth.items()))
        found.append(Card(percent(share), label, "against the known clean data"))
    return found
