"""What became of each row: counts by status, in a fixed order and in plain words."""

from dataclasses import dataclass

import pandas as pd

_MEANINGS = {
    "refined": "Every noisy cell went to what noise and context make of it, once.",
    "converged": "Moved until they agreed with the model to within the gate.",
    "oscillating": "Moved, and ended stepping back and forth across the gate, about one step from agreement.",
    "max_epochs": "Moved, and had not reached the gate at the last allowed epoch.",
    "stalled": "Stopped short of the gate, where the model gave no direction to move in.",
    "interrupted": "Not finished: the time allowed for the run was over.",
    "within_gate": "Agreed with the model from the start, and were left exactly as observed.",
    "skipped": "Not refined, and left exactly as observed.",
}


@dataclass(frozen=True)
class Outcome:
    """One status: how many rows ended with it and what that means."""

    status: str
    title: str
    count: int
    share: float
    meaning: str


def outcomes(status: pd.Series) -> list[Outcome]:
    """Counts the rows by status; statuses that no row has are left out, unknown ones come last.

    Example:
        >>> [(found.title, found.count) for found in outcomes(pd.Series(["within_gate", "converged", "within_gate"]))]
        [('converged', 1), ('within gate', 2)]
    """
    counts = {str(name): int(rows) for name, rows in status.value_counts().items() if rows}
    known = [name for name in _MEANINGS if name in counts]
    return [
        Outcome(name, name.replace("_", " "), counts[name], counts[name] / len(status), _MEANINGS.get(name, ""))
        for name in known + sorted(counts.keys() - _MEANINGS.keys())
    ]
