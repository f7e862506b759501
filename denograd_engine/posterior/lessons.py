"""What a network is shown while it is fitted: predictions by linear parts that have not seen the item, as in use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.folds import inner
from denograd_engine.posterior.gaussian import Blind, Gaussian, Shape
from denograd_engine.posterior.task import Task

INNER = 5
"""Parts of a training set whose linear predictions are each learnt on the others, as in use."""
MASKS = 4
"""Different sets of columns that are hidden, each with and without the targets."""


@dataclass(frozen=True)
class Lesson:
    """Items with what the linear part, fitted on others, says of them.

    Attributes:
        items: Which they are, shape (items,).
        blind: What it says.
        hidden: Which cells were hidden from it beside those that are missing, shape (items, P); None if none were.
    """

    items: Tensor
    blind: Blind
    hidden: Tensor | None

    def part(self, at: Tensor) -> tuple[Tensor, Blind, Tensor | None]:
        """Some of them, by their places."""
        patterns, pattern = torch.unique(self.blind.pattern[at], return_inverse=True)
        blind = Blind(
            self.blind.predicted[at], self.blind.cleaned[at], self.blind.missing[at], self.blind.gain[patterns], pattern
        )
        return self.items[at], blind, None if self.hidden is None else self.hidden[at]


def lessons_of(contexts: Contexts, items: Tensor, task: Task, shape: Shape, seed: int) -> tuple[Lesson, Lesson]:
    """The items as they are, and the same with more of them hidden."""
    generator = torch.Generator().manual_seed(seed)
    masks = _masks(contexts, task, generator)
    plain, masked, order, hidden = [], [], [], []
    for held_out, others in inner(contexts, items, INNER, seed):
        linear = Gaussian.fit(contexts, others, task.pseudocounts)
        chosen = torch.randint(len(masks), (len(held_out),), generator=generator).to(items.device)
        plain.append(linear.blind(contexts, held_out, shape))
        masked.append(linear.blind(contexts, held_out, shape, masks[chosen]))
        order.append(held_out)
        hidden.append(masks[chosen][:, shape.own])
    where = torch.cat(order)
    return Lesson(where, _joined(plain), None), Lesson(where, _joined(masked), torch.cat(hidden))


def _masks(contexts: Contexts, task: Task, generator: torch.Generator) -> Tensor:
    """What may be hidden of a context, shape (masks, D): all targets, or some columns, or both, at every lag."""
    cells = contexts.cells.shape[1]
    some = torch.rand(MASKS, 1, generator=generator) * 0.6
    columns = (torch.rand(MASKS, cells, generator=generator) < some).repeat(1, len(contexts.lags))
    random = torch.cat([columns, torch.zeros(MASKS, contexts.beside.shape[1], dtype=torch.bool)], dim=1)
    targets = task.of_targets(contexts)
    random = random.to(targets.device)
    return torch.cat([random, random | targets, targets.expand(2 * MASKS, -1)])


def _joined(parts: list[Blind]) -> Blind:
    starts = torch.tensor([0, *(len(part.gain) for part in parts)]).cumsum(0).tolist()
    return Blind(
        predicted=torch.cat([part.predicted for part in parts]),
        cleaned=torch.cat([part.cleaned for part in parts]),
        missing=torch.cat([part.missing for part in parts]),
        gain=torch.cat([part.gain for part in parts]),
        pattern=torch.cat([part.pattern + start for part, start in zip(parts, starts, strict=False)]),
    )
