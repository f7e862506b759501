"""What the frozen columns of a table say of its cells by themselves: an effect for each of their levels.

Frozen columns carry no noise, so their values can be told apart, where a smooth function would blur them: a postcode
says where a house is, an age and a sex may say which patient it was. Effects add up, and are drawn towards zero the
more, the fewer rows speak for them (random effects; Robinson, That BLUP is a good thing, 1991). Where two columns
act together, a machine and a shift, each combination has an effect as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

PSEUDOCOUNTS = (None, 1.0, 10.0, 100.0)
"""Rows without effect that are added to each level, of which each cell column has the number with the least held-out
error; None leaves no effects."""
SCREENED_WITH = 10.0
"""Pseudocount in the search for pairs."""
DISTINCT = 128
"""Distinct values up to which each value of a number is a level."""
QUANTILES = 8
"""Levels of a number with more of them, equally frequent."""
MOST_LEVELS = 1024
"""Of all columns and pairs together."""
PAIRS = 4
"""Pairs of columns that act together, at most."""
EVIDENT = 0.1
"""Share of what the single effects leave of a cell column that a pair must explain, rows left out one by one."""
SCREENED = 4096
"""Rows that pairs are looked for in."""
LEARNT_FROM = 32_768
"""Rows that effects are learnt from at most, evenly spaced."""
TOGETHER = 4096
"""Rows whose levels are spread out at once."""


@dataclass(frozen=True)
class Levels:
    """The levels of the frozen columns.

    Attributes:
        widths: How many numbers of a context each frozen column takes: one, or one for each of its categories.
        edges: Between the levels of each column that is one number; empty for categories.
        pairs: Columns that act together.
    """

    widths: tuple[int, ...] = ()
    edges: tuple[Tensor, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def fit(cls, frozen: Tensor, widths: Sequence[int], cells: Tensor) -> Levels:
        """Find levels, and pairs of columns that act together.

        Args:
            frozen: Shape (items, Q), standardised numbers and indicators.
            widths: How many of the Q belong to each column; those beyond their sum have no levels.
            cells: Shape (items, P), standardised, zero where missing.
        """
        distinct = DISTINCT
        found = cls(tuple(widths), _edges(frozen, widths, distinct))
        while found.count > MOST_LEVELS and distinct > QUANTILES:
            distinct //= 2
            found = cls(tuple(widths), _edges(frozen, widths, distinct))
        if found.count > MOST_LEVELS:
            return cls()
        step = max(1, len(frozen) // SCREENED)
        some, of_cells = frozen[::step], cells[::step]
        of_cells = of_cells - of_cells.mean(dim=0)
        while found.widths and len(found.pairs) < PAIRS:
            pair = found._strongest(some, of_cells)
            if pair is None:
                break
            found = cls(found.widths, found.edges, (*found.pairs, pair))
        return found

    @property
    def sizes(self) -> tuple[int, ...]:
        """Levels of each column, then of each pair."""
        single = [
            len(edges) + 1 if width == 1 else width + 1 for width, edges in zip(self.widths, self.edges, strict=True)
        ]
        return (*single, *(single[a] * single[b] for a, b in self.pairs))

    @property
    def count(self) -> int:
        """L, the number of levels altogether."""
        return sum(self.sizes)

    def of(self, frozen: Tensor) -> Tensor:
        """The levels of each item, one for each column and pair, counted through: shape (items, columns and pairs)."""
        levels, start = [], 0
        for width, edges in zip(self.widths, self.edges, strict=True):
            numbers = frozen[:, start : start + width].contiguous()
            if width == 1:
                levels.append(torch.bucketize(numbers[:, 0], edges.to(frozen), right=True))
            else:
                levels.append(torch.where(numbers.any(dim=1), numbers.argmax(dim=1), width))
            start += width
        sizes = self.sizes
        levels += [levels[a] * sizes[b] + levels[b] for a, b in self.pairs]
        if not levels:
            return torch.empty(len(frozen), 0, dtype=torch.int64, device=frozen.device)
        first = torch.tensor([0, *sizes[:-1]], device=frozen.device).cumsum(0)
        return torch.stack(levels, dim=1) + first

    def _strongest(self, frozen: Tensor, cells: Tensor) -> tuple[int, int] | None:
        """The pair of columns that explains most of what the effects so far leave of some cell column, if evident."""
        levels, sizes = self.of(frozen), self.sizes
        everything = torch.arange(len(cells), device=cells.device)
        [effects] = effects_of(levels, self.count, everything, cells.double(), [SCREENED_WITH])
        left = cells.double() - shifts(levels, effects)
        scale = left.square().sum(dim=0).clamp_min(torch.finfo(left.dtype).tiny)
        best, evidence = None, EVIDENT
        for a, b in combinations(range(len(self.widths)), 2):
            count = sizes[a] * sizes[b]
            if (a, b) in self.pairs or self.count + count > MOST_LEVELS:
                continue
            both = levels[:, a] * sizes[b] + levels[:, b]
            both = both - both.min()
            size = int(both.max()) + 1
            rows = torch.bincount(both, minlength=size)[:, None]
            total, squares = (left.new_zeros(size, cells.shape[1]).index_add_(0, both, x) for x in (left, left**2))
            explained = ((total.square() - squares) / (rows - 1 + SCREENED_WITH)).sum(dim=0) / scale
            if float(explained.max()) > evidence:
                best, evidence = (a, b), float(explained.max())
        return best


def _edges(frozen: Tensor, widths: Sequence[int], distinct: int) -> tuple[Tensor, ...]:
    """Between the levels of each column that is one number."""
    found, start = [], 0
    for width in widths:
        edges = frozen.new_empty(0)
        if width == 1:
            values = torch.unique(frozen[:, start])
            edges = (values[1:] + values[:-1]) / 2
            if len(values) > distinct:
                ordered = frozen[:, start].sort().values
                edges = torch.unique(ordered[[len(ordered) * at // QUANTILES for at in range(1, QUANTILES)]])
        found.append(edges)
        start += width
    return tuple(found)


def effects_of(
    levels: Tensor, count: int, items: Tensor, cells: Tensor, pseudocounts: Sequence[float | None]
) -> list[Tensor]:
    """The effect of each level on each cell column, for each pseudocount, each of shape (L, P).

    Args:
        levels: Of all items, counted through, shape (items, columns and pairs).
        count: L.
        items: Which to learn from.
        cells: Of those, centred, zero where missing, shape (len(items), P).
        pseudocounts: One or more.
    """
    if not count or all(one is None for one in pseudocounts):
        return [cells.new_zeros(count, cells.shape[1]) for _ in pseudocounts]
    step = -(-len(items) // LEARNT_FROM)
    items, cells = items[::step], cells[::step]
    together = torch.zeros(count, count, device=cells.device)
    sums = cells.new_zeros(count, cells.shape[1])
    for part, of_part in zip(torch.split(items, TOGETHER), torch.split(cells, TOGETHER), strict=True):
        spread = torch.zeros(len(part), count, device=cells.device).scatter_(1, levels[part], 1.0)
        together += spread.T @ spread
        sums += spread.T.to(cells) @ of_part
    found = []
    for one in pseudocounts:
        if one is None:
            found.append(torch.zeros_like(sums))
            continue
        added = torch.diag(cells.new_full((count,), one / step))
        found.append(torch.cholesky_solve(sums, torch.linalg.cholesky(together.to(cells) + added)))
    return found


def shifts(levels: Tensor, effects: Tensor) -> Tensor:
    """What the levels of each item add to each of its cells, shape (items, P)."""
    return torch.nn.functional.embedding_bag(levels, effects, mode="sum")
