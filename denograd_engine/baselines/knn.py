"""Averages over similar rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
from sklearn.neighbors import NearestNeighbors

from denograd_engine.baselines import Baseline
from denograd_engine.baselines.cells import kept
from denograd_engine.baselines.filling import Filling
from denograd_engine.baselines.patches import Patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS = (1, 2, 3, 5, 8, 12, 20, 30, 50)
"""Numbers of neighbours that are tried."""
MOST_ITEMS = 20_000
"""Rows or windows that neighbours are looked for among."""
MOST_JUDGED = 2_000
"""Rows or windows that the number of neighbours is chosen by."""
BLOCK = 1024
"""Rows or windows that are averaged at once."""


@final
class NearestRows(Baseline):
    """A row (in a series: a window, as in non-local means) becomes the weighted mean of itself and its neighbours.

    A row at distance d weighs exp(-(d / d_k)^2), d_k the distance of the farthest neighbour, so that the row itself
    weighs 1 (compare Buades, Coll and Morel 2005). The number of neighbours is chosen by leave-one-out prediction of
    the row; where the noise of every column is known, by Mallows' Cp (1973), which counts leaving rows alone among the
    choices. Neither sees that noise has a say in who is whose neighbour.
    """

    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        self.noise = noise
        self.filling = Filling.fit(cells, runs)
        patches = Patches.of(len(cells), runs)
        items = patches.cut(self.filling.fill(cells, runs))
        present = patches.cut(np.where(np.isnan(cells) | (noise == 0), 0.0, 1.0)).reshape(len(items), -1) > 0
        flat = items.reshape(len(items), -1)
        generator = np.random.default_rng(self.seed)
        chosen = np.sort(generator.permutation(len(flat))[:MOST_ITEMS])
        self.items = flat[chosen]
        self.search = NearestNeighbors().fit(self.items)
        self.neighbours = 0
        judged = np.sort(generator.permutation(len(chosen))[:MOST_JUDGED])
        choices = [count for count in NEIGHBOURS if count < len(chosen)]
        if not choices or not present.any():
            return
        variance = np.repeat(np.square(noise), items.shape[2])
        errors = self._errors(self.items[judged], present[chosen][judged], variance, choices)
        self.neighbours = min(errors, key=errors.__getitem__)

    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        patches = Patches.of(len(cells), runs)
        items = patches.cut(self.filling.fill(cells, runs))
        if not self.neighbours or not len(items):
            return cells.copy()
        flat = items.reshape(len(items), -1)
        blocks = [self._averaged(flat[at : at + BLOCK], self.neighbours) for at in range(0, len(flat), BLOCK)]
        averaged = np.concatenate([block for block, _ in blocks])
        return kept(cells, self.noise, patches.fold(averaged.reshape(items.shape)))

    def _errors(
        self,
        items: NDArray[np.float64],
        present: NDArray[np.bool_],
        variance: NDArray[np.float64],
        choices: list[int],
    ) -> dict[int, float]:
        """Expected squared error of each choice where the noise is known; elsewhere that plus the noise variance."""
        known = not np.isnan(variance).any()
        errors = {0: float(np.broadcast_to(variance, items.shape)[present].mean())} if known else {}
        for count in choices:
            terms = []
            for at in range(0, len(items), BLOCK):
                block = items[at : at + BLOCK]
                averaged, own = self._averaged(block, count)
                residual = block - averaged
                term = np.square(residual) + variance * (2 * own - 1) if known else np.square(residual / (1 - own))
                terms.append(term[present[at : at + BLOCK]])
            errors[count] = float(np.concatenate(terms).mean())
        return errors

    def _averaged(self, flat: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The weighted means, shape (items, D), and the weight of each item in its own, shape (items, 1)."""
        distances, which = self.search.kneighbors(flat, count + 1)
        # an item that the neighbours were learnt from finds itself first: it is no neighbour of its own
        found_itself = (self.items[which[:, 0]] == flat).all(axis=1)
        others = np.ones(distances.shape, dtype=bool)
        others[np.arange(len(flat)), np.where(found_itself, 0, count)] = False
        distances, which = distances[others].reshape(-1, count), which[others].reshape(-1, count)
        farthest = np.maximum(distances[:, -1:], np.finfo(np.float64).tiny)
        weights = np.exp(-np.square(distances / farthest))
        own = 1 / (1 + weights.sum(axis=1, keepdims=True))
        weights *= (1 - own) / weights.sum(axis=1, keepdims=True)
        return own * flat + np.einsum("ik,ikd->id", weights, self.items[which]), own
