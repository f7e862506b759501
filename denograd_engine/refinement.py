"""Refinement: freeze the backbone and send the gradient into the data, gated so that good rows stay untouched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from denograd_engine import rules
from denograd_engine.descent import Outcome, Progress, Settings, Status, Stop, linearise
from denograd_engine.devices import dtype_of, frozen, resolve_device
from denograd_engine.errors import ConfigError
from denograd_engine.problem import Problem, Rows, Series, pose
from denograd_engine.rows_loop import refine_rows
from denograd_engine.windows_loop import refine_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_engine.training import Backbone

PROBED_ITEMS = 2048
"""Items whose gradients decide the automatic step length."""


@dataclass(frozen=True)
class Refining:
    """How the data are refined. Thresholds are in standardised units.

    Attributes:
        rule: A name of `rules.REGISTRY`.
        tau: The gate: a row moves only while its residual exceeds this.
        eta: The step length. "auto" takes tau divided by the median gradient norm of the residual, half of the length
            at which the median row starts to jump across the gate.
        max_epochs: Steps of a row, at most.
        refine_targets: Whether targets move as well.
        batch_size: Items in one pass through the backbone; None chooses by the width of an item.
        deadline: Seconds after which refinement stops where it is; None never.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    rule: str = "denograd"
    tau: float = 0.1
    eta: float | Literal["auto"] = "auto"
    max_epochs: int = 100
    refine_targets: bool = True
    batch_size: int | None = None
    deadline: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise ConfigError(
                "refine.max_epochs must be at least 1", found=str(self.max_epochs), where="refine.max_epochs"
            )
        if not self.tau > 0:
            raise ConfigError("refine.tau must be positive", found=str(self.tau), where="refine.tau")
        if self.eta != "auto" and not (isinstance(self.eta, int | float) and self.eta > 0):
            raise ConfigError("refine.eta must be positive or 'auto'", found=str(self.eta), where="refine.eta")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(
                "refine.batch_size must be at least 1", found=str(self.batch_size), where="refine.batch_size"
            )


@dataclass(frozen=True)
class Totals:
    """A refinement in a few numbers.

    Attributes:
        rows: Rows of the table.
        moved: Rows of which any cell changed.
        epochs: Epochs run.
        eta: The step length used, standardised.
        status: Number of rows that ended in each status.
        residual_before: Root mean squared residual, standardised, over the rows that have a finite one.
        residual_after: The same after refinement.
        interrupted: Whether the deadline or the caller stopped it.
    """

    rows: int
    moved: int
    epochs: int
    eta: float
    status: dict[str, int]
    residual_before: float
    residual_after: float
    interrupted: bool


@dataclass(frozen=True)
class Refinement:
    """The result.

    Attributes:
        frame: The refined table, in the user's units; index, order, dtypes and missing cells as observed.
        rows: One line a row, same index: `status`, `iterations`, `residual_before`, `residual_after` (the target with
            the largest, standardised) and `correction` (Euclidean length over the row's cells, standardised).
        totals: The whole in a few numbers.
    """

    frame: pd.DataFrame
    rows: pd.DataFrame
    totals: Totals


def refine(
    frame: pd.DataFrame,
    backbone: Backbone,
    refining: Refining | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Refinement:
    """Move the rows towards what the backbone has understood.

    Args:
        frame: The observed data, in the user's units, with the columns that the backbone was fitted on. Not changed.
        backbone: Fitted; its weights, buffers, modes and gradient flags are afterwards as before.
        refining: How to refine.
        on_progress: Called after every epoch.
        cancelled: Asked between batches; True stops, and the result holds what was reached.

    Raises:
        ConfigError: If the rule or the device is unknown.
        SchemaError, TimeAxisError, TooFewRowsError: If the data do not fit the backbone's schema.
    """
    refining = refining or Refining()
    device = resolve_device(refining.device)
    encoder = backbone.encoder
    problem = pose(frame, encoder, device, dtype_of(backbone.module), fewest=1)
    if not refining.refine_targets:
        problem.movable[:, list(problem.target_at)] = False
    stop = Stop(refining.deadline, cancelled, on_progress)
    with frozen(backbone.module, device) as module:
        batch_size = refining.batch_size or _batch_size(problem)
        eta = refining.eta if refining.eta != "auto" else _eta(module, problem, refining.tau)
        limits = _limits(encoder.limits(), problem)
        settings = Settings(rules.rule(refining.rule, eta), refining.tau, refining.max_epochs, batch_size, limits)
        if isinstance(problem, Series):
            outcome = refine_windows(module, problem, settings, stop)
        else:
            assert isinstance(problem, Rows)
            outcome = refine_rows(module, problem, settings, stop)
    shift = _in_table_order(outcome.shift, problem)
    refined = encoder.restore(frame, shift)
    rows = _summary(frame, problem, outcome, shift)
    return Refinement(refined, rows, _totals(rows, outcome, eta))


def _batch_size(problem: Problem) -> int:
    """Items that keep a pass's activations within the cache of one core."""
    width = int(np.prod(problem.input_shape))
    return int(np.clip(2**16 // max(1, width), 256, 8192))


def _eta(module: nn.Module, problem: Problem, tau: float) -> float:
    """Tau over the median norm of the residual's gradient, on evenly spaced items."""
    known = problem.known
    probe = known[:: max(1, len(known) // PROBED_ITEMS)]
    norms = []
    for items in torch.split(probe, 512):
        x, y = problem.gather(items)
        model, _ = linearise(module, x, y, 0.0, *problem.moves(items))
        finite = model.residual.isfinite().all(dim=1)
        norms.append((model.square / model.residual.square().sum(dim=1).clamp_min(1e-30)).sqrt()[finite])
    usable = torch.cat(norms)
    return tau / max(1.0, float(usable.median()) if len(usable) else 1.0)


def _limits(limits: tuple[NDArray[np.float64], NDArray[np.float64]], problem: Problem) -> tuple[Tensor, Tensor] | None:
    low, high = limits
    if not np.isfinite(low).any() and not np.isfinite(high).any():
        return None
    cells = problem.cells
    return torch.from_numpy(low).to(cells), torch.from_numpy(high).to(cells)


def _in_table_order(shift: Tensor, problem: Problem) -> NDArray[np.floating]:
    moved = shift.cpu().numpy()
    placed = np.empty_like(moved)
    placed[problem.order] = moved
    return placed


def _summary(frame: pd.DataFrame, problem: Problem, outcome: Outcome, shift: NDArray[np.floating]) -> pd.DataFrame:
    at = outcome.items
    if isinstance(problem, Series):
        at = problem.windows.predicted(problem.windows.starts[at])
    row = problem.order[at.cpu().numpy()]
    status = np.full(len(frame), Status.SKIPPED, dtype=np.int64)
    status[row] = outcome.status.cpu().numpy()
    iterations = np.zeros(len(frame), dtype=np.int64)
    iterations[row] = outcome.iterations.cpu().numpy()
    residual = {}
    for name, values in (("residual_before", outcome.before), ("residual_after", outcome.after)):
        residual[name] = np.full(len(frame), np.nan)
        largest = values.gather(1, values.abs().argmax(dim=1, keepdim=True)).squeeze(1)
        residual[name][row] = largest.cpu().numpy()
    labels = [one.label for one in Status]
    return pd.DataFrame(
        {
            "status": pd.Categorical.from_codes(status, categories=pd.Index(labels)),
            "iterations": iterations,
            **residual,
            "correction": np.sqrt(np.square(shift.astype(np.float64)).sum(axis=1)),
        },
        index=frame.index,
    )


def _totals(rows: pd.DataFrame, outcome: Outcome, eta: float) -> Totals:
    return Totals(
        rows=len(rows),
        moved=int((rows["correction"] > 0).sum()),
        epochs=outcome.epochs,
        eta=float(eta),
        status={str(name): int(n) for name, n in rows["status"].value_counts(sort=False).items() if n},
        residual_before=_root_mean_square(outcome.before),
        residual_after=_root_mean_square(outcome.after),
        interrupted=outcome.interrupted,
    )


def _root_mean_square(residual: Tensor) -> float:
    return float(residual[residual.isfinite()].square().mean().sqrt())
