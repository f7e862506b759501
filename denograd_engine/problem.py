"""What the backbone reads and must predict: rows of a table, or windows of a series, behind one face.

An *item* is a row or a window. Both views work on the same cells and context, so that training and refinement see the
same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from denograd_engine.errors import TooFewRowsError
from denograd_engine.windows import Layout, Windows, lay_out

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.frames import Encoder

FEWEST_ITEMS = 50
"""Rows or windows with a known target below which no backbone is trained."""


@dataclass(frozen=True)
class Problem(ABC):
    """Cells and context in item order.

    Attributes:
        cells: Shape (rows, P), standardised.
        context: Shape (rows, Q).
        movable: Boolean, shape (rows, P): present cells of refined columns.
        known: Items whose targets are all present, ascending.
        order: Shape (rows,): row in the table that each row of `cells` comes from.
        target_at: Which of the P cell columns are targets.
    """

    cells: Tensor
    context: Tensor
    movable: Tensor
    known: Tensor
    order: NDArray[np.int64]
    target_at: tuple[int, ...]

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input of the backbone."""

    @abstractmethod
    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these items, shapes (items, *input_shape) and (items, T)."""

    @abstractmethod
    def moves(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Which cells of these items' inputs and targets may move: 1 or 0, shaped like `gather`'s results."""

    @abstractmethod
    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """Items to train on and items held out."""


@dataclass(frozen=True)
class Rows(Problem):
    """The rows of a table: x is features and context, y the targets."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.cells.shape[1] - len(self.target_at) + self.context.shape[1],)

    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        features = self.cells.shape[1] - len(self.target_at)
        cells = self.cells[items]
        return torch.cat([cells[:, :features], self.context[items]], dim=1), cells[:, features:]

    def moves(self, items: Tensor) -> tuple[Tensor, Tensor]:
        features = self.cells.shape[1] - len(self.target_at)
        movable = self.movable[items].to(self.cells.dtype)
        still = movable.new_zeros(len(items), self.context.shape[1])
        return torch.cat([movable[:, :features], still], dim=1), movable[:, features:]

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """A random share of the rows is held out."""
        generator = torch.Generator().manual_seed(seed)
        shuffled = self.known[torch.randperm(len(self.known), generator=generator).to(self.known.device)]
        held_out = max(1, round(share * len(shuffled)))
        return shuffled[held_out:], shuffled[:held_out]


@dataclass(frozen=True)
class Series(Problem):
    """The windows of a series: x is every cell and context column over W steps, y the targets at the predicted step.

    Rows are in layout order, one unbroken run after another.
    """

    windows: Windows
    clock: Tensor

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.windows.width, self.cells.shape[1] + self.context.shape[1])

    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        starts = self.windows.starts[items]
        covered = self.windows.covered(starts)
        x = torch.cat([self.cells[covered], self.context[covered]], dim=2)
        return x, self.cells[self.windows.predicted(starts)][:, list(self.target_at)]

    def moves(self, items: Tensor) -> tuple[Tensor, Tensor]:
        starts = self.windows.starts[items]
        movable = self.movable[self.windows.covered(starts)].to(self.cells.dtype)
        still = movable.new_zeros(*movable.shape[:2], self.context.shape[1])
        targets = self.movable[self.windows.predicted(starts)][:, list(self.target_at)]
        return torch.cat([movable, still], dim=2), targets.to(self.cells.dtype)

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """The windows that predict the last share of the time are held out."""
        predicted_at = self.clock[self.windows.predicted(self.windows.starts[self.known])]
        ranked = predicted_at.sort().values
        cut = ranked[min(len(ranked) - 1, int((1 - share) * len(ranked)))]
        return self.known[predicted_at < cut], self.known[predicted_at >= cut]


def pose(
    frame: pd.DataFrame,
    encoder: Encoder,
    device: torch.device,
    dtype: torch.dtype,
    fewest: int = FEWEST_ITEMS,
) -> Problem:
    """Encode a table or series for a backbone.

    Args:
        frame: The data, in the user's units.
        encoder: The scaling.
        device: Where the tensors go.
        dtype: Of the tensors.
        fewest: Rows or windows with a known target that are needed: `FEWEST_ITEMS` to train, 1 to refine.

    Raises:
        TimeAxisError: If the rows do not form series as the schema says.
        TooFewRowsError: If fewer rows or windows than that have a known target.
    """
    schema = encoder.schema
    encoded = encoder.encode(frame, dtype=str(dtype).removeprefix("torch."))
    refined = np.array([schema[name].refined for name in schema.cells])
    target_at = tuple(range(len(schema.features), len(schema.cells)))
    layout = None if schema.series is None else lay_out(frame, schema.series)
    order = np.arange(len(frame)) if layout is None else layout.order
    sorted_already = bool((np.diff(order) == 1).all())

    def placed(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array if sorted_already else array[order]).to(device)

    cells, context = placed(encoded.cells), placed(encoded.context)
    present = placed(encoded.present)
    movable = present & torch.from_numpy(refined).to(device)
    labelled = present[:, list(target_at)].all(dim=1)
    if layout is None:
        known = labelled.nonzero().squeeze(1)
        _require_enough(len(known), fewest, "rows", "with a known target")
        return Rows(cells, context, movable, known, order, target_at)
    windows = _windows(layout, encoder, device)
    known = labelled[windows.predicted(windows.starts)].nonzero().squeeze(1)
    _require_enough(len(known), fewest, "windows", "that predict a known target")
    clock = torch.from_numpy(layout.clock).to(device)
    return Series(cells, context, movable, known, order, target_at, windows, clock)


def _windows(layout: Layout, encoder: Encoder, device: torch.device) -> Windows:
    assert encoder.schema.series is not None
    windows = Windows.of(layout, encoder.schema.series)
    return Windows(windows.starts.to(device), windows.steps, windows.width, windows.reach)


def _require_enough(found: int, fewest: int, things: str, which: str) -> None:
    if found < fewest:
        raise TooFewRowsError(
            f"there are too few {things} to {'train a model on' if fewest > 1 else 'refine'}",
            expected=f"at least {fewest} {things} {which}",
            found=f"{found:,}",
            remedy="collect more data" if things == "rows" else "collect more data, or choose a shorter series.window",
        )
