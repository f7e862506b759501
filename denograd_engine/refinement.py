"""Refinement: freeze the backbone and send the gradient into the data, gated so that good rows stay untouched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from denograd_engine import rules
from denograd_engine.descent import Outcome, Progress, Settings, Stop
from denograd_engine.devices import batch_size_for, dtype_of, frozen, resolve_device
from denograd_engine.errors import ConfigError
from denograd_engine.folds import fold_of, put_together, shares
from denograd_engine.problem import Problem, Rows, pose
from denograd_engine.restoration import Restoration
from denograd_engine.smoothing import Smoothing
from denograd_engine.summary import Summary, Totals
from denograd_engine.workers import MOST_WORKERS, workers_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denograd_engine.training import Backbone

CHUNK = 32_768
"""Rows of a table that are encoded and refined together, so that memory does not grow with the table."""
PROBED_ROWS = 4096
"""Rows of a table, evenly spaced, on which step lengths and the like are chosen."""


@dataclass(frozen=True)
class Refining:
    """How the data are refined. Thresholds are in standardised units.

    Attributes:
        rule: A name of `rules.REGISTRY`.
        tau: The gate: a row moves only while its residual exceeds this.
        arguments: Of the rule: see its class.
        eta: The step length, in the rule's own sense; "auto" leaves it to the rule.
        max_epochs: Steps of a row, at most.
        refine_targets: Whether targets move as well.
        batch_size: Items in one pass through the backbone; None chooses by the width of an item.
        deadline: Seconds after which refinement stops where it is; None never.
        smoothing: Averages gradients over perturbed copies; None does not.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    rule: str = "denograd"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tau: float = 0.1
    eta: float | Literal["auto"] = "auto"
    max_epochs: int = 100
    refine_targets: bool = True
    batch_size: int | None = None
    deadline: float | None = None
    smoothing: Smoothing | None = None
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
        backbone: Fitted; its weights, buffers, modes and gradient flags are afterwards as before. Where it is
            cross-fitted, each row moves by the network that never saw it.
        refining: How to refine.
        on_progress: Called now and then: as rows finish, or after an epoch of a series.
        cancelled: Asked between batches; True stops, and the result holds what was reached.

    Raises:
        ConfigError: If the rule or the device is unknown.
        SchemaError, TimeAxisError, TooFewRowsError: If the data do not fit the backbone's schema.
    """
    refining = refining or Refining()
    device = resolve_device(refining.device)
    stop = Stop(refining.deadline, cancelled, on_progress)
    encoder, summary = backbone.encoder, Summary(frame)
    eta, in_series = None if refining.eta == "auto" else refining.eta, encoder.schema.series is not None
    chosen = [rules.rule(refining.rule, eta, refining.arguments) for _ in backbone.networks]
    with (
        frozen(backbone.module, device) as module,
        workers_for(module, device, MOST_WORKERS if refining.smoothing is None else 1) as workers,
    ):

        def posed(part: pd.DataFrame, fewest: int = 0) -> Problem:
            problem = pose(part, encoder, device, dtype_of(module), fewest)
            if not refining.refine_targets:
                problem.movable[:, list(problem.target_at)] = False
            return problem

        whole = posed(frame, fewest=1) if in_series or len(frame) <= CHUNK else None
        probe = whole or posed(frame.iloc[:: len(frame) // PROBED_ROWS])
        ready = []
        for network, rule in zip(backbone.networks, chosen, strict=True):
            settings = replace(_settings(network, probe, backbone, refining), workers=workers)
            step = rule.prepare(network, probe, settings, backbone.residual_scale)
            ready.append(_Ready(network, rule, settings, step))
        restoration = Restoration(frame, encoder.schema, encoder.spreads)
        rows = max(1, len(frame)) if whole else max(CHUNK, 4 * ready[0].settings.batch_size)
        for start in range(0, len(frame), rows):
            part = frame.iloc[start : start + rows]
            problem = whole or posed(part)
            outcome = _run(part, problem, backbone, ready, stop, start, len(frame))
            shift = _in_table_order(outcome.shift, problem)
            restoration.put(start, shift)
            summary.put(start, problem, outcome, shift)
    summary.require_items("windows" if in_series else "rows")
    return Refinement(restoration.frame(), summary.rows(), summary.totals(float(np.mean([one.eta for one in ready]))))


@dataclass(frozen=True)
class _Ready:
    """A frozen network, and how it refines."""

    network: nn.Module
    rule: rules.Rule
    settings: Settings
    eta: float


def _run(
    part: pd.DataFrame, problem: Problem, backbone: Backbone, ready: list[_Ready], stop: Stop, start: int, rows: int
) -> Outcome:
    """Refine these rows, those of each fold by its own network."""
    if len(ready) == 1:
        stop.span(start, start + len(part), rows)
        return ready[0].rule.run(ready[0].network, problem, ready[0].settings, stop)
    fold = fold_of(part, backbone.encoder.schema, len(ready))
    outcomes = []
    for number, (one, share) in enumerate(zip(ready, shares(problem, fold, len(ready)), strict=True)):
        first, last = (start + len(part) * done // len(ready) for done in (number, number + 1))
        stop.span(first, last, rows)
        if len(share.known):
            outcomes.append((number, one.rule.run(one.network, share, one.settings, stop)))
    if not outcomes:
        return ready[0].rule.run(ready[0].network, problem, ready[0].settings, stop)
    return put_together(problem, fold, outcomes)


def _settings(module: nn.Module, probe: Problem, backbone: Backbone, refining: Refining) -> Settings:
    loss = backbone.loss
    settings = Settings(
        criterion=loss,
        tau=refining.tau,
        max_epochs=refining.max_epochs,
        batch_size=refining.batch_size or batch_size_for(module, probe.input_shape, probe.cells),
        limits=_limits(backbone.encoder.limits(), probe),
    )
    if refining.smoothing is None:
        return settings
    smoother = refining.smoothing.on(module, loss, probe)
    return replace(settings, smoother=smoother, batch_size=max(1, settings.batch_size // smoother.samples))


def _limits(limits: tuple[NDArray[np.float64], NDArray[np.float64]], problem: Problem) -> tuple[Tensor, Tensor] | None:
    low, high = limits
    if not np.isfinite(low).any() and not np.isfinite(high).any():
        return None
    cells = problem.cells
    return torch.from_numpy(low).to(cells), torch.from_numpy(high).to(cells)


def _in_table_order(shift: Tensor, problem: Problem) -> NDArray[np.floating]:
    moved: NDArray[np.floating] = shift.cpu().numpy()
    if isinstance(problem, Rows):
        return moved
    placed = np.empty_like(moved)
    placed[problem.order] = moved
    return placed
