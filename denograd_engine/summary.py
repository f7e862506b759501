"""What a refinement did, row by row and in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from denograd_engine.descent import Outcome, Status
from denograd_engine.problem import Problem, Series, require_enough

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Totals:
    """A refinement in a few numbers.

    Attributes:
        rows: Rows of the table.
        moved: Rows of which any cell changed.
        epochs: Epochs run.
        eta: The step length used, standardised.
        status: Number of rows that ended in each status.
        residual_before: Root mean squared residual, standardised, over the rows that have a finite one.
        residual_after: The same after refinement.
        interrupted: Whether the deadline or the caller stopped it.
    """

    rows: int
    moved: int
    epochs: int
    eta: float
    status: dict[str, int]
    residual_before: float
    residual_after: float
    interrupted: bool


class Summary:
    """Collects the outcomes of the parts of a table.

    Args:
        frame: As observed.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._index = frame.index
        self._status = np.full(len(frame), Status.SKIPPED, dtype=np.int8)
        self._iterations = np.zeros(len(frame), dtype=np.int64)
        self._residual = {name: np.full(len(frame), np.nan, dtype=np.float64) for name in ("before", "after")}
        self._correction = np.zeros(len(frame), dtype=np.float64)
        self._squares = {"before": [0.0, 0], "after": [0.0, 0]}
        self._items, self._epochs, self._interrupted = 0, 0, False

    def put(self, start: int, problem: Problem, outcome: Outcome, shift: NDArray[np.floating]) -> None:
        """Take in what became of the rows from `start` on.

        Args:
            start: Position of the first of them.
            problem: These rows.
            outcome: Of refining them.
            shift: Shape (rows, P), standardised, in the table's order.
        """
        at = outcome.items
        if isinstance(problem, Series):
            at = problem.windows.predicted(problem.windows.starts[at])
        row = start + problem.order[at.cpu().numpy()]
        self._status[row] = outcome.status.cpu().numpy()
        self._iterations[row] = outcome.iterations.cpu().numpy()
        for name, values in (("before", outcome.before), ("after", outcome.after)):
            self._residual[name][row] = _largest(values)
            finite = values[values.isfinite()].double()
            self._squares[name][0] += float(finite.square().sum())
            self._squares[name][1] += finite.numel()
        self._correction[start : start + len(shift)] = _lengths(shift)
        self._items += len(at)
        self._epochs = max(self._epochs, outcome.epochs)
        self._interrupted |= outcome.interrupted

    def require_items(self, things: str) -> None:
        """Refuse data without anything to refine.

        Raises:
            TooFewRowsError: If no part had a row or window with a known target.
        """
        require_enough(self._items, 1, things)

    def rows(self) -> pd.DataFrame:
        """One line a row: see `Refinement.rows`."""
        labels = pd.Index([one.label for one in Status])
        return pd.DataFrame(
            {
                "status": pd.Categorical.from_codes(self._status, categories=labels),
                "iterations": self._iterations,
                "residual_before": self._residual["before"],
                "residual_after": self._residual["after"],
                "correction": self._correction,
            },
            index=self._index,
        )

    def totals(self, eta: float) -> Totals:
        """The whole in a few numbers."""
        counts = np.bincount(self._status, minlength=len(Status))
        before, after = (
            float(np.sqrt(total / count)) if count else float("nan") for total, count in self._squares.values()
        )
        return Totals(
            rows=len(self._status),
            moved=int((self._correction > 0).sum()),
            epochs=self._epochs,
            eta=float(eta),
            status={one.label: int(counts[one]) for one in Status if counts[one]},
            residual_before=before,
            residual_after=after,
            interrupted=self._interrupted,
        )


def _lengths(shift: NDArray[np.floating]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = torch.linalg.vector_norm(torch.from_numpy(shift), dim=1, dtype=torch.float64).numpy()
    return lengths


def _largest(residual: Tensor) -> NDArray[np.floating]:
    """The residual with the largest size of each item."""
    at = residual.abs().argmax(dim=1, keepdim=True)
    largest: NDArray[np.floating] = residual.gather(1, at).squeeze(1).cpu().numpy()
    return largest
