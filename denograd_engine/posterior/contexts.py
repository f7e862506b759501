"""What a cell is predicted from: the other cells of its row, or of the steps around it in every column.

An *item* is a row of a table or a step of a series, and its *context* a vector of D standardised numbers of which any
may be missing. In a series it holds every cell column at each lag, one lag after another, and then the frozen columns
of the step itself; beyond the ends of a run everything is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from denograd_engine.posterior.levels import Levels
from denograd_engine.windows import lay_out

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.frames import Encoder

ALONE = (0,)
"""The lags of a table."""


@dataclass(frozen=True)
class Contexts:
    """The items of a table or series.

    Attributes:
        cells: Shape (items, P), standardised, zero where missing; a series in layout order.
        present: Shape (items, P).
        beside: What is frozen, and the class where the target is one, shape (items, Q).
        known: Which of that is known, shape (items, Q).
        runs: Length of each unbroken run of a series; None for a table.
        lags: Steps of the context, counted from the item; 0 is among them.
        order: Shape (items,): row in the table that each item comes from.
        classes: How many numbers at the end of `beside` hold the class.
        levels: Which of the levels of the frozen columns each item has, counted through, shape (items, G).
        level_count: L.
    """

    cells: Tensor
    present: Tensor
    beside: Tensor
    known: Tensor
    runs: tuple[int, ...] | None
    lags: tuple[int, ...]
    order: NDArray[np.int64]
    classes: int = 0
    levels: Tensor | None = None
    level_count: int = 0

    @classmethod
    def of(cls, frame: pd.DataFrame, encoder: Encoder, device: torch.device, lags: tuple[int, ...] = ALONE) -> Contexts:
        """Encode a table or series.

        Raises:
            SchemaError, TimeAxisError: If the data do not fit the encoder's schema.
        """
        encoded = encoder.encode(frame)
        series = encoder.schema.series
        layout = None if series is None else lay_out(frame, series)
        order = np.arange(len(frame)) if layout is None else layout.order
        classes = np.eye(len(encoder.classes), dtype=np.float32)[encoded.labels] if encoder.classes else None
        beside, known = encoded.context, np.ones(encoded.context.shape, dtype=bool)
        if classes is not None:
            beside = np.concatenate([beside, classes], axis=1)
            labelled = np.repeat(encoded.labels[:, None] >= 0, classes.shape[1], axis=1)
            known = np.concatenate([known, labelled], axis=1)

        def placed(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array[order])).to(device)

        present, known_too = placed(encoded.present), placed(known)
        return cls(
            cells=torch.where(present, placed(encoded.cells), 0.0),
            present=present,
            beside=torch.where(known_too, placed(beside), 0.0),
            known=known_too,
            runs=None if layout is None else layout.runs,
            lags=lags,
            order=order,
            classes=0 if classes is None else classes.shape[1],
        )

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def width(self) -> int:
        """D."""
        return len(self.lags) * self.cells.shape[1] + self.beside.shape[1]

    @property
    def lag(self) -> Tensor:
        """The lag of each number of a context, shape (D,)."""
        of_cells = torch.tensor(self.lags).repeat_interleave(self.cells.shape[1])
        return torch.cat([of_cells, torch.zeros(self.beside.shape[1], dtype=torch.int64)])

    @property
    def own(self) -> Tensor:
        """Where the item's own cells are in its context, shape (P,)."""
        columns = self.cells.shape[1]
        return self.lags.index(0) * columns + torch.arange(columns)

    @property
    def frozen(self) -> Tensor:
        """What is frozen, without the class, shape (items, Q - classes)."""
        return self.beside[:, : self.beside.shape[1] - self.classes]

    def with_levels(self, levels: Levels) -> Contexts:
        """The same with the levels of its frozen columns."""
        return replace(self, levels=levels.of(self.frozen), level_count=levels.count) if levels.count else self

    def without(self, cells: Tensor) -> Contexts:
        """The same with these cells missing, shape (items, P)."""
        return replace(self, cells=torch.where(cells, 0.0, self.cells), present=self.present & ~cells)

    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """The contexts of these items, zero where missing, and what is present of them, each of shape (items, D)."""
        if self.runs is None:
            cells, present = self.cells[items], self.present[items]
        else:
            at = items[:, None] + torch.tensor(self.lags, device=items.device)
            inside = (at >= self._first[items, None]) & (at < self._end[items, None])
            at = at.clamp(0, len(self.cells) - 1)
            present = (self.present[at] & inside[:, :, None]).flatten(1)
            cells = torch.where(present, self.cells[at].flatten(1), 0.0)
        return torch.cat([cells, self.beside[items]], dim=1), torch.cat([present, self.known[items]], dim=1)

    @property
    def _first(self) -> Tensor:
        ends = torch.tensor(self.runs).cumsum(0)
        return (ends - torch.tensor(self.runs)).repeat_interleave(torch.tensor(self.runs)).to(self.cells.device)

    @property
    def _end(self) -> Tensor:
        lengths = torch.tensor(self.runs)
        return lengths.cumsum(0).repeat_interleave(lengths).to(self.cells.device)
