"""Which items a model must not have seen when it refines them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from denograd_engine.posterior.contexts import Contexts

BLOCKS = 4
"""Contiguous blocks of a series in each fold."""


def folds_of(contexts: Contexts, folds: int) -> Tensor:
    """The fold of each item, shape (items,).

    Rows of a table by what they hold, so that equal rows share a fold wherever they stand; steps of a series in
    contiguous blocks.
    """
    count, device = len(contexts), contexts.cells.device
    if contexts.runs is None:
        return torch.from_numpy(_hashes(contexts) % np.uint64(folds)).to(torch.int64).to(device)
    blocks = min(count, BLOCKS * folds)
    return (torch.arange(count, device=device) * blocks // max(1, count)) % folds


def fitted_on(contexts: Contexts, fold: Tensor, left_out: int, reach: int) -> Tensor:
    """Items of the other folds, ascending; in a series none whose steps within `reach` are of the one left out."""
    out = fold == left_out
    if contexts.runs is not None and reach:
        near = torch.nn.functional.max_pool1d(out[None, None].float(), 2 * reach + 1, stride=1, padding=reach)
        out = near[0, 0] > 0
    return (~out).nonzero().squeeze(1)


def inner(contexts: Contexts, items: Tensor, parts: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of these items, each with the others: at random in a table, in contiguous blocks in a series."""
    if contexts.runs is None:
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).to(items.device)
        part = torch.empty_like(items)
        part[order] = torch.arange(len(items), device=items.device) % parts
    else:
        part = (torch.arange(len(items), device=items.device) * 3 * parts // max(1, len(items))) % parts
    for number in range(parts):
        yield items[part == number], items[part != number]


def _hashes(contexts: Contexts) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """A number for each row that depends on its cells alone (FNV-1a over their bits)."""
    bits = contexts.cells.cpu().contiguous().numpy().view(np.uint32).astype(np.uint64)
    found = np.full(len(bits), 14695981039346656037, dtype=np.uint64)
    for column in bits.T:
        found = (found ^ column) * np.uint64(1099511628211)
    found ^= found >> np.uint64(32)
    return found
