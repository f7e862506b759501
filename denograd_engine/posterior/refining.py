"""Refinement by posterior means: each cell once, from its observed context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from denograd_engine.descent import Status
from denograd_engine.devices import resolve_device
from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.faults import stuck
from denograd_engine.posterior.folds import folds_of
from denograd_engine.posterior.model import Posterior
from denograd_engine.restoration import Restoration
from denograd_engine.summary import Totals

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 32_768
"""Rows of a table that are encoded and refined together."""
TOGETHER = 2048
"""Items in one pass through a network."""
PROBABLE = 0.5
"""Probability above which a cell counts as faulty."""
SAYS_NOTHING = 1e6
"""Standardised error variance of a cell that is certainly wrong."""


@dataclass(frozen=True)
class Cleaned:
    """The result.

    Attributes:
        frame: The refined table, in the user's units; index, order, dtypes and missing cells as observed.
        faults: Which cells are probably faulty, columns named as in the frame; None if none were looked for.
        std: Posterior standard deviation of each refined cell, in the column's unit, columns named as in the frame;
            missing where the cell is.
        rows: One line a row, same index: `status`, `iterations`, and standardised `residual_before` and
            `residual_after` (what the context says of the target less the target, the largest; missing where it is or
            does not move) and `correction` (Euclidean length over the row's cells).
        columns: One line a refined column: the std of its errors, `noise`, the posterior `std` (root mean square) and
            the `correction` (root mean square), all in its unit; `expected`, the correction that the posterior and the
            errors imply, with all noise that was declared; and `faults`, the number of its cells that are probably
            faulty.
        totals: The whole in a few numbers; `eta` is the mean length of the step towards what the context says.
    """

    frame: pd.DataFrame
    faults: pd.DataFrame | None
    std: pd.DataFrame
    rows: pd.DataFrame
    columns: pd.DataFrame
    totals: Totals


def clean(
    frame: pd.DataFrame,
    model: Posterior,
    device: str = "auto",
    draw: int | None = None,
    on_progress: Callable[[float], None] | None = None,
    strength: float = 1.0,
) -> Cleaned:
    """Replace each noisy cell by its posterior mean.

    Args:
        frame: The observed data, in the user's units, with the columns that the model was fitted on. Rows that it was
            fitted on are refined by the member that did not see them. Targets may be missing.
        model: Fitted.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        draw: Seed. Each cell becomes a draw from its posterior instead: the right spread of a column without the
            shrinkage of means, but cells are drawn one by one, not jointly.
        on_progress: Told the share of the rows that are done.
        strength: Share of that way that each cell goes. The std is that of the whole posterior all the same.

    Raises:
        SchemaError, TimeAxisError: If the data do not fit the model's schema.
    """
    on = resolve_device(device)
    schema = model.encoder.schema
    restoration = Restoration(frame, schema, model.encoder.spreads)
    generator = None if draw is None else torch.Generator(on).manual_seed(draw)
    rows = max(1, len(frame)) if schema.series is not None else CHUNK
    parts = []
    for start in range(0, len(frame), rows):
        contexts = model.contexts(frame.iloc[start : start + rows], on)
        part = _refined(contexts, model, generator)
        part = replace(part, shift=np.float32(strength) * part.shift)
        restoration.put(start, part.shift)
        parts.append(part.slim(model))
        if on_progress is not None:
            on_progress(min(1.0, (start + rows) / len(frame)))
    whole = _Slim(
        *(np.concatenate(list(of_parts)) for of_parts in zip(*(part.arrays() for part in parts), strict=True))
    )
    names = list(model.refined)
    return Cleaned(
        frame=restoration.frame(),
        faults=None if model.faults is None else pd.DataFrame(whole.faulty, columns=names, index=frame.index),
        std=pd.DataFrame(whole.std * _units(model), columns=names, index=frame.index),
        rows=whole.rows(frame.index),
        columns=_by_column(model, whole, strength),
        totals=whole.totals(model, strength),
    )


@dataclass(frozen=True)
class _Part:
    """Some rows, in the table's order, standardised: shift, posterior standard deviation and suspicion of each of the P
    cells, and what the context says of the targets less what was observed; missing where nothing moves.
    """

    shift: NDArray[np.float32]
    std: NDArray[np.float32]
    suspicion: NDArray[np.float32]
    before: NDArray[np.float32]

    def slim(self, model: Posterior) -> _Slim:
        names = model.encoder.schema.cells
        at = [names.index(name) for name in model.refined]
        features = len(model.encoder.schema.features)
        after = self.before - self.shift[:, features:]
        length = np.sqrt(np.square(self.shift, dtype=np.float64).sum(axis=1))
        faulty = self.suspicion[:, at] > PROBABLE
        return _Slim(self.shift[:, at], self.std[:, at], faulty, _largest(self.before), _largest(after), length)


@dataclass(frozen=True)
class _Slim:
    """What is kept of the rows: refined columns alone, and the target with the largest residual."""

    shift: NDArray[np.float32]
    std: NDArray[np.float32]
    faulty: NDArray[np.bool_]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    length: NDArray[np.float64]

    def arrays(self) -> tuple[NDArray[Any], ...]:
        return self.shift, self.std, self.faulty, self.before, self.after, self.length

    @property
    def touched(self) -> NDArray[np.bool_]:
        """Cells that were refined."""
        return ~np.isnan(self.std)

    def rows(self, index: pd.Index) -> pd.DataFrame:
        reached = self.touched.any(axis=1)
        status = np.where(reached, Status.REFINED, Status.SKIPPED).astype(np.int8)
        return pd.DataFrame(
            {
                "status": pd.Categorical.from_codes(status, categories=pd.Index([one.label for one in Status])),
                "iterations": reached.astype(np.int64),
                "residual_before": self.before.astype(np.float64),
                "residual_after": self.after.astype(np.float64),
                "correction": self.length,
            },
            index=index,
        )

    def totals(self, model: Posterior, strength: float) -> Totals:
        reached = int(self.touched.any(axis=1).sum())
        rows = len(self.length)
        kept = np.square(self.std * _units(model) / model.errors)[self.touched]
        counts = {Status.REFINED.label: reached, Status.SKIPPED.label: rows - reached}
        return Totals(
            rows=rows,
            moved=int((self.length > 0).sum()),
            epochs=1,
            eta=strength * float(1 - kept.mean()) if len(kept) else 0.0,
            status={label: count for label, count in counts.items() if count},
            residual_before=_root_mean_square(self.before),
            residual_after=_root_mean_square(self.after),
            interrupted=False,
        )


def _refined(contexts: Contexts, model: Posterior, generator: torch.Generator | None) -> _Part:
    device = contexts.cells.device
    task = model.task(device)
    shape = task.shape(contexts, model.fit)
    noise, names = task.noise[task.columns], model.encoder.schema.cells
    shift = torch.zeros_like(contexts.cells)
    std, away, suspicion = (torch.full_like(shift, torch.nan) for _ in range(3))
    doubted = torch.zeros_like(contexts.present) if model.faults is None else stuck(contexts)
    evidence = contexts.without(doubted)
    helped = torch.tensor([names[at] in model.refined for at in task.columns.tolist()], device=device)
    low, high = (torch.from_numpy(limit).to(shift)[task.columns] for limit in model.encoder.limits())
    fold = folds_of(contexts, model.fit.folds)
    for number, member in enumerate(model.members):
        assert model.trust is not None
        for part in torch.split((fold == number).nonzero().squeeze(1), TOGETHER):
            mixture, errors = model.trust.believed(member.mixture(evidence, part, shape, task), noise)
            observed, present = contexts.cells[part][:, task.columns], contexts.present[part][:, task.columns]
            touched = present & helped
            into = (part[:, None], task.columns)
            expected = mixture.expected()
            if model.faults is not None:
                wrong = doubted[into]
                suspicion[into] = torch.where(wrong, 1.0, model.faults.suspicion(mixture, observed, noise))
                mixture, errors = model.faults.split(mixture, noise)
                errors = torch.where(wrong[:, None], SAYS_NOTHING, errors)
            mean, variance = mixture.posterior(observed, errors)
            if generator is not None:
                mean = mixture.draw(observed, errors, generator)
            shift[into] = torch.where(touched, mean.clamp(low, high) - observed, 0.0)
            std[into] = torch.where(touched, model.trust.variance(variance).sqrt(), torch.nan)
            away[into] = torch.where(touched, expected - observed, torch.nan)
    targets = away[:, len(model.encoder.schema.features) :]
    return _Part(*(_in_table_order(values, contexts) for values in (shift, std, suspicion, targets)))


def _in_table_order(values: Tensor, contexts: Contexts) -> NDArray[np.float32]:
    found = values.cpu().numpy()
    placed = np.empty_like(found)
    placed[contexts.order] = found
    return placed


def _largest(residual: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each row the one with the largest size, missing where all are."""
    if not residual.shape[1]:
        return np.full(len(residual), np.nan, dtype=np.float32)
    at = np.where(np.isnan(residual), -1.0, np.abs(residual)).argmax(axis=1)
    largest: NDArray[np.float32] = residual[np.arange(len(residual)), at]
    return largest


def _root_mean_square(values: NDArray[np.float32]) -> float:
    there = values[~np.isnan(values)].astype(np.float64)
    return float(np.sqrt(np.square(there).mean())) if len(there) else float("nan")


def _units(model: Posterior) -> NDArray[np.float64]:
    """One standardised unit of each refined column, in its own unit."""
    names = model.encoder.schema.cells
    return model.encoder.spreads[[names.index(name) for name in model.refined]]


def _by_column(model: Posterior, whole: _Slim, strength: float) -> pd.DataFrame:
    names, units = list(model.refined), _units(model)
    count = np.maximum(whole.touched.sum(axis=0), 1)
    claimed = np.sqrt(np.nansum(np.square(whole.std, dtype=np.float64), axis=0) / count) * units
    correction = np.sqrt(np.square(whole.shift, dtype=np.float64).sum(axis=0) / count) * units
    told = [model.encoder.schema[name].noise or 0.0 for name in names]
    cut_off = [
        max(0.0, std**2 - (model.columns[name].noise or 0.0) ** 2) for name, std in zip(names, told, strict=True)
    ]
    expected = strength * np.sqrt(np.maximum(model.errors**2 + cut_off - claimed**2, 0.0))
    faults = whole.faulty.sum(axis=0)
    found = {"noise": model.errors, "std": claimed, "correction": correction, "expected": expected, "faults": faults}
    return pd.DataFrame(found, index=pd.Index(names, name="column"))
