"""Whether the rows as a whole are distributed as in the reference, where no single column has moved.

The sliced Wasserstein distance (Bonneel et al. 2015) between as many later rows as rows of the reference, all as normal
scores, against its own permutation null: which of them are the later ones is drawn anew, in blocks where rows depend on
their neighbours. Permuting ends at the tenth draw that is as far apart (Besag and Clifford 1991), so that it is cheap
where nothing has changed; the p-value is exact either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.drift.bins import BINS
from denograd_engine.drift.scores import normal_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_engine.drift.bins import Bins
    from denograd_engine.drift.counting import Counted

ROWS = 512
"""Later rows that are compared at once."""
KEPT = 2048
"""Rows of the reference that they are drawn from."""
SHARPNESS = 32
"""Steps of a stored score to one standard deviation."""
PART = 4
"""Rows of the reference for each later row at least: what is odd about the reference must not tell, test after test."""
FEWEST_BLOCKS = 8
"""Of each kind below which there are too few ways to permute."""
PROJECTIONS = 24
SEED = 42
MOST, ENOUGH, AT_ONCE = 999, 10, 25
"""Permutations in all; those as far apart at which it ends; and how many are drawn together."""


@dataclass(frozen=True)
class Joint:
    """How far apart two samples of rows are.

    Attributes:
        distance: Sliced Wasserstein distance (p = 2) of the normal scores.
        p: Probability that chance brings as much.
    """

    distance: float
    p: float


@dataclass(frozen=True)
class Whole:
    """What the test sees of a row: the first score of each column of numbers.

    Attributes:
        columns: Which they are.
        tables: Of the scores, in steps of 1/32 std, 0 for missing cells, shape (columns, P, BINS).
    """

    columns: tuple[int, ...]
    tables: NDArray[np.int8]

    @classmethod
    def of(cls, columns: Sequence[Bins], counts: NDArray[np.int64]) -> Whole:
        """For a reference with these counts, shape (P, C, BINS)."""
        chosen = tuple(at for at, column in enumerate(columns) if column.ordered and not column.residual)
        tables = [normal_scores(counts[:, at])[0] for at in chosen]
        steps = np.rint(SHARPNESS * np.array(tables).reshape(len(chosen), len(counts), BINS))
        return cls(chosen, np.clip(steps, -127, 127).astype(np.int8))

    def scores(self, counted: Counted) -> NDArray[np.int8]:
        """Of every row, in the order of time, shape (rows, columns)."""
        places = counted.places[:, self.columns]
        found: NDArray[np.int8] = self.tables[np.arange(len(self.columns)), counted.phases[:, None], places]
        return found


def blocks_of(scores: NDArray[np.int8], block: int, seed: int) -> NDArray[np.int8]:
    """Blocks of neighbouring rows, drawn from all, 2,048 rows together at most; none if there are too few."""
    blocks = min(KEPT, len(scores)) // block
    if blocks < PART * FEWEST_BLOCKS or scores.shape[1] < 2:
        return scores[:0]
    drawn = np.sort(np.random.default_rng(seed).choice(len(scores) // block, blocks, replace=False))
    return scores[_rows_of(drawn, block)]


def _rows_of(blocks: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = (blocks[:, None] * block + np.arange(block)).ravel()
    return rows


def rows_compared(sample: NDArray[np.int8], block: int) -> int:
    """Later rows that a test takes: whole blocks, no more than a quarter of the sample; 0 if it cannot be made."""
    blocks = min(ROWS, len(sample) // PART) // block
    return blocks * block if blocks >= FEWEST_BLOCKS else 0


def compare_jointly(sample: NDArray[np.int8], rows: NDArray[np.int8], block: int, seed: int) -> Joint:
    """Compare rows with as many of the sample.

    Args:
        sample: Of the reference, shape (at least rows, columns).
        rows: Whole blocks, in the order of time, shape (rows, columns).
        block: Rows that stay together.
        seed: Of the rows of the sample and of the permutations.
    """
    generator = np.random.default_rng(seed)
    blocks = len(rows) // block
    chosen = generator.choice(len(sample) // block, blocks, replace=False)
    both = np.concatenate([rows, sample[_rows_of(chosen, block)]]).astype(np.float64) / SHARPNESS
    directions = np.random.default_rng(SEED).standard_normal((both.shape[1], PROJECTIONS))
    slices = both @ (directions / np.linalg.norm(directions, axis=0))
    order = np.argsort(slices, axis=0)
    values = np.take_along_axis(slices, order, axis=0)
    of_block = order // block
    observed = _distances(values, of_block, (np.arange(2 * blocks) < blocks)[None])[0]
    exceeded = drawn_so_far = 0
    while drawn_so_far < MOST:
        draws = generator.random((min(AT_ONCE, MOST - drawn_so_far), 2 * blocks))
        later = np.argsort(np.argsort(draws, axis=1), axis=1) < blocks
        far = np.cumsum(_distances(values, of_block, later) >= observed * (1 - 1e-12))
        if exceeded + far[-1] >= ENOUGH:
            ended = drawn_so_far + 1 + int(np.flatnonzero(exceeded + far == ENOUGH)[0])
            return Joint(float(np.sqrt(observed)), ENOUGH / ended)
        exceeded, drawn_so_far = exceeded + int(far[-1]), drawn_so_far + len(far)
    return Joint(float(np.sqrt(observed)), (exceeded + 1) / (MOST + 1))


def _distances(
    values: NDArray[np.float64], of_block: NDArray[np.intp], later: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Squared distances, one for each row of `later`, which says of every block whether it is a later one."""
    size = len(values) // 2
    total = np.zeros(len(later))
    for at in range(values.shape[1]):
        those = later[:, of_block[:, at]]
        every = np.broadcast_to(values[:, at], those.shape)
        one, other = every[those].reshape(-1, size), every[~those].reshape(-1, size)
        total += np.square(one - other).mean(axis=1)
    mean: NDArray[np.float64] = total / values.shape[1]
    return mean
