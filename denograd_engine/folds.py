"""Who may move which rows, and who may judge them: parts of a table by content, of a series by blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from denograd_engine.columns import Role
from denograd_engine.descent import Outcome
from denograd_engine.errors import TooFewRowsError
from denograd_engine.problem import Problem, Series
from denograd_engine.windows import lay_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_engine.schema import Schema

BLOCKS = 4
"""Contiguous blocks of a series in each fold, at most."""
SPANS = 4
"""Windows one after another that a block has room for: else there are fewer blocks."""
HALF_BLOCKS = 20
"""Contiguous blocks of a series that belong to one half and to the other in turn."""
FEWEST_OF_HALF = 2


def fold_of(frame: pd.DataFrame, schema: Schema, folds: int) -> NDArray[np.int64]:
    """The fold of each row, shape (rows,).

    Rows of a table by a hash of what a backbone reads of them, so that equal rows share a fold wherever they stand;
    steps of a series in contiguous blocks.

    Raises:
        TimeAxisError: If the rows do not form series as the schema says.
    """
    if schema.series is None:
        return (_hashes(frame, schema) % np.uint64(folds)).astype(np.int64)
    most = len(frame) // (folds * SPANS * schema.series.span)
    return _in_blocks(frame, schema, folds, folds * max(1, min(BLOCKS, most)))


def first_half(frame: pd.DataFrame, schema: Schema) -> NDArray[np.bool_]:
    """Which rows belong to the first of two halves, shape (rows,): split like folds, but not along them.

    Raises:
        TimeAxisError: If the rows do not form series as the schema says.
        TooFewRowsError: If one half has next to no rows.
    """
    first: NDArray[np.bool_]
    if schema.series is None:
        first = _hashes(frame, schema) < np.uint64(2**63)
    else:
        first = _in_blocks(frame, schema, 2, HALF_BLOCKS) == 0
    count = int(first.sum())
    if min(count, len(first) - count) < FEWEST_OF_HALF:
        raise TooFewRowsError(
            "the rows cannot be halved",
            expected="enough different rows for one half to choose on and one to judge by",
            found=f"{count:,} and {len(first) - count:,} rows",
            remedy="collect more data, or set refine.strength to a number",
        )
    return first


def touching(problem: Problem, inside: Tensor) -> Tensor:
    """Which items show or predict any of these rows.

    Args:
        problem: A table or series.
        inside: Boolean, shape (rows,), in the problem's order.

    Returns:
        Boolean, shape (items,).
    """
    return problem.windows.touched(inside) if isinstance(problem, Series) else inside


def predicting(problem: Problem, inside: Tensor) -> Tensor:
    """Which items predict nothing but these rows: see `touching`."""
    if not isinstance(problem, Series):
        return inside
    return inside[problem.windows.ahead(problem.windows.starts)].all(dim=1)


def shares(problem: Problem, fold: NDArray[np.int64], folds: int) -> list[Problem]:
    """The same problem for the model of each fold, with the items that touch its fold alone.

    Args:
        problem: A table or series.
        fold: Of each row of the table, shape (rows,).
        folds: How many there are.
    """
    of_fold = placed(problem, fold)
    about = (touching(problem, of_fold == number)[problem.known] for number in range(folds))
    return [replace(problem, known=problem.known[which]) for which in about]


def put_together(problem: Problem, fold: NDArray[np.int64], outcomes: Sequence[tuple[int, Outcome]]) -> Outcome:
    """One outcome from those of the folds: each row goes where the model of its fold sends it.

    Where items of a series show rows of other folds as well, those move along in the model's own copy, so that a step
    next to another fold is shared out as it is anywhere; but that copy is not kept.

    Args:
        problem: The whole table or series.
        fold: Of each row of the table, shape (rows,).
        outcomes: Each with the number of its fold; at least one.
    """
    of_fold = placed(problem, fold)
    own = [of_fold[stands_for(problem, outcome.items)] == number for number, outcome in outcomes]
    joined = {
        name: torch.cat([getattr(outcome, name)[kept] for (_, outcome), kept in zip(outcomes, own, strict=True)])
        for name in ("items", "status", "iterations", "before", "after")
    }
    shift = torch.zeros_like(problem.cells)
    for number, outcome in outcomes:
        shift += torch.where(of_fold[:, None] == number, outcome.shift, 0.0)
    epochs = max(outcome.epochs for _, outcome in outcomes)
    interrupted = any(outcome.interrupted for _, outcome in outcomes)
    return Outcome(shift=shift, epochs=epochs, interrupted=interrupted, **joined)


def placed(problem: Problem, values: NDArray[Any]) -> Tensor:
    """Values of the rows of a table, shape (rows,), in the problem's order."""
    return torch.from_numpy(values[problem.order]).to(problem.cells.device)


def stands_for(problem: Problem, items: Tensor) -> Tensor:
    """The row of each item: of a window, the nearest that it predicts."""
    return problem.windows.predicted(problem.windows.starts[items]) if isinstance(problem, Series) else items


def _hashes(frame: pd.DataFrame, schema: Schema) -> NDArray[np.uint64]:
    """A number for each row that depends on its cells, its context and its class alone."""
    read = [*schema.cells, *schema.names(Role.FROZEN), *([] if schema.label is None else [schema.label])]
    return np.asarray(pd.util.hash_pandas_object(frame[read], index=False), dtype=np.uint64)


def _in_blocks(frame: pd.DataFrame, schema: Schema, parts: int, blocks: int) -> NDArray[np.int64]:
    assert schema.series is not None
    order = lay_out(frame, schema.series).order
    count = min(len(order), blocks)
    part = np.empty(len(order), dtype=np.int64)
    part[order] = np.arange(len(order)) * count // max(1, len(order)) % parts
    return part
