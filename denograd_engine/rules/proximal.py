"""One objective for everything: fit the backbone, but do not go further from the observed data than noise explains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denograd_engine.descent import Outcome, Progress, Settings, Status, Stop, residuals_of
from denograd_engine.devices import in_parts
from denograd_engine.errors import ConfigError
from denograd_engine.local import Cells, Local
from denograd_engine.problem import Problem, Series
from denograd_engine.rules import Rule
from denograd_engine.scan import SCANNED, Scan

USUAL_RATE = 0.1
SETTLED = 1e-3
"""Root mean squared step, in units of noise, below which the objective has reached its minimum."""


class Proximal(Rule):
    """Minimise sum of losses / s2 + (z - z0)' S^-1 (z - z0), over a table row by row, over a series as a whole.

    S is the diagonal noise covariance. In a series windows are views of the same cells, so the chain rule does the
    consensus. Items within the gate at the start exert no pull: cells that no other item contains stay as observed.
    Minimised by Adam (Kingma & Ba 2015), whose steps are element by element, so that rows of a table do not influence
    one another. With s2 and S to match, this is release 2.0.0's global objective.

    Args:
        eta: Adam's learning rate, in units of noise. By default 0.1.
        s2: Variance of a clean target given what the backbone sees, standardised. By default the backbone's held-out
            mean squared residual.
    """

    def __init__(self, eta: float | None = None, s2: float | None = None) -> None:
        self.eta, self.s2 = USUAL_RATE if eta is None else eta, s2
        if s2 is not None and not s2 > 0:
            raise ConfigError("s2 must be positive", found=str(s2), where="refine.arguments.s2")

    def prepare(self, module: nn.Module, problem: Problem, settings: Settings, scale: float) -> float:
        if self.s2 is None:
            self.s2 = scale**2 if 0 < scale < float("inf") else 1.0
        return self.eta

    def run(self, module: nn.Module, problem: Problem, settings: Settings, stop: Stop) -> Outcome:
        """An interrupted epoch changes nothing."""
        assert self.s2 is not None
        items, sigma = problem.known, problem.noise * problem.movable
        before = residuals_of(module, problem, items, settings) if len(items) else problem.cells.new_zeros(0, 1)
        pulling = items[~(before.abs().amax(dim=1) <= settings.tau)]
        way = torch.zeros_like(problem.cells, requires_grad=True)
        adam = torch.optim.Adam([way], lr=self.eta)
        epochs, interrupted, settled = 0, False, not len(pulling)
        while epochs < settings.max_epochs and not settled:
            pull = _pull(module, problem.at(problem.cells + sigma * way.detach()), pulling, settings, stop)
            if pull is None:
                interrupted = True
                break
            previous = way.detach().clone()
            way.grad = sigma * pull / self.s2 + 2 * way.detach()
            way.grad[~(way.grad.isfinite() & problem.movable)] = 0.0
            adam.step()
            _hold(way.detach(), problem, sigma, settings)
            epochs += 1
            settled = float((way.detach() - previous).square().mean().sqrt()) < SETTLED * self.eta
            stop.report(Progress(1.0 if settled else epochs / settings.max_epochs, len(pulling), len(items)))
        shift = sigma * way.detach()
        after = residuals_of(module, problem.at(problem.cells + shift), items, settings) if len(items) else before
        return _outcome(problem, shift, before, after, epochs, interrupted, settled, settings.tau)


def _pull(module: nn.Module, live: Problem, items: Tensor, settings: Settings, stop: Stop) -> Tensor | None:
    """Gradient of the summed losses in the cells, shape (rows, P); None if told to stop."""
    into = torch.zeros_like(live.cells)
    shares = isinstance(live, Series) and not live.flatten and hasattr(module, "scan") and settings.smoother is None
    for batch in torch.split(items, SCANNED if shares else settings.batch_size):
        if stop.now():
            return None
        if isinstance(live, Series) and shares:
            _ask_shared(module, live, batch, into, settings)
        else:
            _ask(module, live, batch, into, settings)
    return into


def _ask(module: nn.Module, live: Problem, batch: Tensor, into: Tensor, settings: Settings) -> None:
    def one(part: slice) -> None:
        x, y = live.gather(batch[part])
        weight_y = torch.ones_like(y) if live.target_at else None
        local = Local(module, settings.criterion, Cells(x, y, None, weight_y), -1.0, settings.smoother)
        live.scatter_(into, batch[part], *local.gradient())

    in_parts(one, len(batch), len(batch))


def _ask_shared(module: nn.Module, live: Series, batch: Tensor, into: Tensor, settings: Settings) -> None:
    scan = Scan(module, live, batch)
    pull, pull_y = settings.criterion.pull(scan.predicted, live.targets(batch))
    scan.scatter_(into, pull)
    if pull_y is not None:
        live.scatter_targets_(into, batch, pull_y)


def _hold(way: Tensor, problem: Problem, sigma: Tensor, settings: Settings) -> None:
    """Keep the cells within their bounds, in place."""
    if settings.limits is not None:
        low, high = (
            (limit - problem.cells) / sigma.clamp_min(torch.finfo(sigma.dtype).tiny) for limit in settings.limits
        )
        way.copy_(torch.where(problem.movable, way.clamp(low, high), way))


def _outcome(
    problem: Problem,
    shift: Tensor,
    before: Tensor,
    after: Tensor,
    epochs: int,
    interrupted: bool,
    settled: bool,
    tau: float,
) -> Outcome:
    items = problem.known
    pulled = ~(before.abs().amax(dim=1) <= tau)
    ended = Status.INTERRUPTED if interrupted else Status.CONVERGED if settled else Status.MAX_EPOCHS
    status = torch.where(pulled, int(ended), int(Status.WITHIN_GATE)).to(torch.int64)
    status[pulled & ~after.isfinite().all(dim=1)] = Status.STALLED
    return Outcome(shift, items, status, pulled * epochs, before, after, epochs, interrupted)
