"""What the backbone reads and must predict: rows of a table, or windows of a series, behind one face.

An *item* is a row or a window. Both views work on the same cells and context, so that training and refinement see the
same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

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
        target_at: Which of the P cell columns are targets; none where the target is a class.
        labels: Number of each row's class, shape (rows,); empty where the targets are numbers.
        outputs: Numbers that the backbone returns for an item.
        noise: Standard deviation of each cell column's noise, standardised, shape (P,).
    """

    cells: Tensor
    context: Tensor
    movable: Tensor
    known: Tensor
    order: NDArray[np.int64]
    target_at: tuple[int, ...]
    labels: Tensor
    outputs: int
    noise: Tensor

    def at(self, cells: Tensor) -> Self:
        """The same problem with its cells elsewhere."""
        return replace(self, cells=cells)

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input of the backbone."""

    @abstractmethod
    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these items, shapes (items, *input_shape) and (items, T); classes as (items, 1)."""

    @abstractmethod
    def scatter_(self, into: Tensor, items: Tensor, x: Tensor, y: Tensor | None) -> None:
        """Add contributions shaped like `gather`'s results to the cells that they stand for, in place.

        Args:
            into: Shape (rows, P).
            items: Distinct and ascending.
            x: Shape (items, *input_shape).
            y: Shape (items, T), or None.
        """

    @abstractmethod
    def weigh(self, items: Tensor, variances: Tensor) -> tuple[Tensor, Tensor | None]:
        """How readily each cell of these items moves: its column's variance, 0 where it may not move.

        Args:
            items: Which ones.
            variances: Of each cell column, shape (P,).

        Returns:
            Two tensors shaped like those of `gather`, the second None where no target may move.
        """

    def targets_move(self) -> bool:
        """Whether any target may move at all."""
        return bool(self.target_at) and bool(self.movable[:, list(self.target_at)].any())

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
        x = self.cells[:, :features].index_select(0, items)
        y = self.labels[items][:, None] if len(self.labels) else self.cells[:, features:].index_select(0, items)
        return torch.cat([x, self.context[items]], dim=1) if self.context.shape[1] else x, y

    def scatter_(self, into: Tensor, items: Tensor, x: Tensor, y: Tensor | None) -> None:
        features = self.cells.shape[1] - len(self.target_at)
        into[:, :features].index_add_(0, items, x[:, :features])
        if y is not None:
            into[:, features:].index_add_(0, items, y)

    def weigh(self, items: Tensor, variances: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.cells.shape[1] - len(self.target_at)
        weights = self.movable[items] * variances
        still = weights.new_zeros(len(items), self.context.shape[1])
        x = torch.cat([weights[:, :features], still], dim=1)
        return x, weights[:, features:] if self.targets_move() else None

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """A random share of the rows is held out."""
        generator = torch.Generator().manual_seed(seed)
        shuffled = self.known[torch.randperm(len(self.known), generator=generator).to(self.known.device)]
        held_out = max(1, round(share * len(shuffled)))
        return shuffled[held_out:], shuffled[:held_out]


@dataclass(frozen=True)
class Series(Problem):
    """The windows of a series: x is cell and context columns over W steps, y the targets at the predicted steps.

    Rows are in layout order, one unbroken run after another.

    Attributes:
        windows: All of them.
        clock: Time of each row, shape (rows,).
        inputs: Cell columns that a window shows, the first of the P: all of them, or the features alone.
        flatten: Whether the backbone reads a window as one row of numbers.
    """

    windows: Windows
    clock: Tensor
    inputs: int
    flatten: bool

    @property
    def input_shape(self) -> tuple[int, ...]:
        columns = self.inputs + self.context.shape[1]
        return (self.windows.width * columns,) if self.flatten else (self.windows.width, columns)

    def gather(self, items: Tensor) -> tuple[Tensor, Tensor]:
        return self._seen(self.windows.starts[items], self.steps), self.targets(items)

    @property
    def steps(self) -> Tensor:
        """What windows show of every step, shape (rows, inputs + Q)."""
        return self._shown(self.cells, self.context)

    def targets(self, items: Tensor) -> Tensor:
        """What these windows predict, shape (windows, T); classes as (windows, 1)."""
        starts = self.windows.starts[items]
        if len(self.labels):
            return self.labels[self.windows.predicted(starts)][:, None]
        return self.cells[self.windows.ahead(starts)][:, :, list(self.target_at)].flatten(1)

    def scatter_(self, into: Tensor, items: Tensor, x: Tensor, y: Tensor | None) -> None:
        starts = self.windows.starts[items]
        width = self.inputs + self.context.shape[1]
        by_step = x.reshape(len(items), self.windows.width, width)[:, :, : self.inputs]
        self.windows.fold_(into[:, : self.inputs], starts, by_step)
        if y is not None:
            self.scatter_targets_(into, items, y)

    def scatter_targets_(self, into: Tensor, items: Tensor, y: Tensor) -> None:
        """The same for what these windows predict, shape (windows, T)."""
        starts = self.windows.starts[items]
        by_horizon = y.reshape(len(items), len(self.windows.reaches), len(self.target_at))
        first, last = self.target_at[0], self.target_at[-1] + 1
        for at, reach in enumerate(self.windows.reaches):
            into[:, first:last].index_add_(0, starts + reach, by_horizon[:, at])

    def visits(self, items: Tensor) -> Tensor:
        """How many of these windows cover or, for targets, predict each cell, shape (rows, P)."""
        covering, predicting = self.windows.visits(self.windows.starts[items])
        visits = covering[:, None].repeat(1, self.cells.shape[1])
        visits[:, self.inputs :] = 0
        visits[:, list(self.target_at)] += predicting[:, None]
        return visits

    def weigh(self, items: Tensor, variances: Tensor) -> tuple[Tensor, Tensor | None]:
        starts = self.windows.starts[items]
        weights = self.movable * variances
        x = self._seen(starts, self._shown(weights, weights.new_zeros(self.context.shape)))
        if not self.targets_move():
            return x, None
        return x, weights[self.windows.ahead(starts)][:, :, list(self.target_at)].flatten(1)

    def _shown(self, cells: Tensor, context: Tensor) -> Tensor:
        steps = cells[:, : self.inputs]
        return torch.cat([steps, context], dim=1) if context.shape[1] else steps

    def _seen(self, starts: Tensor, steps: Tensor) -> Tensor:
        """What the windows cover of an array over the steps, shape (windows, *input_shape)."""
        return self.windows.gather(steps, starts).reshape(len(starts), *self.input_shape)

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """The windows that predict the last share of the time are held out."""
        predicted_at = self.clock[self.windows.ahead(self.windows.starts[self.known])]
        nearest, furthest = predicted_at[:, 0], predicted_at[:, -1]
        ranked = nearest.sort().values
        cut = ranked[min(len(ranked) - 1, int((1 - share) * len(ranked)))]
        return self.known[furthest < cut], self.known[nearest >= cut]


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
        fewest: Rows or windows with a known target that are needed: `FEWEST_ITEMS` to train.

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
    labels = placed(encoded.labels) if encoder.classes else torch.empty(0, dtype=torch.int64, device=device)
    labelled = labels >= 0 if encoder.classes else present[:, list(target_at)].all(dim=1)
    noise = torch.from_numpy(encoder.noise()).to(cells)
    if layout is None or schema.series is None:
        known = labelled.nonzero().squeeze(1)
        require_enough(len(known), fewest, "rows")
        return Rows(cells, context, movable, known, order, target_at, labels, encoder.outputs, noise)
    windows = _windows(layout, encoder, device)
    known = labelled[windows.ahead(windows.starts)].all(dim=1).nonzero().squeeze(1)
    require_enough(len(known), fewest, "windows")
    clock = torch.from_numpy(layout.clock).to(device)
    inputs = len(schema.cells) if schema.series.targets_as_inputs else len(schema.features)
    return Series(
        cells=cells,
        context=context,
        movable=movable,
        known=known,
        order=order,
        target_at=target_at,
        labels=labels,
        outputs=encoder.outputs,
        noise=noise,
        windows=windows,
        clock=clock,
        inputs=inputs,
        flatten=schema.series.flatten,
    )


def _windows(layout: Layout, encoder: Encoder, device: torch.device) -> Windows:
    assert encoder.schema.series is not None
    windows = Windows.of(layout, encoder.schema.series)
    return Windows(windows.starts.to(device), windows.steps, windows.width, windows.reaches)


def require_enough(found: int, fewest: int, things: str) -> None:
    """Refuse data with fewer rows or windows that have a known target.

    Raises:
        TooFewRowsError: Says how many there are.
    """
    which = "with a known target" if things == "rows" else "that predict a known target"
    if found < fewest:
        raise TooFewRowsError(
            f"there are too few {things} to {'train a model on' if fewest > 1 else 'refine'}",
            expected=f"at least {fewest} {things} {which}",
            found=f"{found:,}",
            remedy="collect more data" if things == "rows" else "collect more data, or choose a shorter series.window",
        )
