"""One objective for everything: fit the backbone, but do not go further from the observed data than noise explains."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from denograd_engine.descent import Outcome, Progress, Settings, Status, Stop, residuals_of
from denograd_engine.devices import in_parts
from denograd_engine.errors import ConfigError
from denograd_engine.local import Cells, Local
from denograd_engine.problem import Problem, Series
from denograd_engine.rules import Rule
from denograd_engine.scan import SCANNED, Scan

SETTLED = 1e-3
"""Largest force on a cell, in units of its noise, at which the objective has reached its minimum."""
ADAM_RATE = 0.1
"""Its learning rate, in units of noise."""
REMEMBERED = 5
"""Steps from which L-BFGS guesses the curvature; each takes twice the memory of the cells."""


class Proximal(Rule):
    """Minimise sum of losses / s2 + (z - z0)' S^-1 (z - z0), over a table row by row, over a series as a whole.

    S is the diagonal noise covariance. In a series windows are views of the same cells, so the chain rule does the
    consensus. Items within the gate at the start exert no pull: cells that no other item contains stay as observed.
    Minimised by L-BFGS with a strong Wolfe line search (Nocedal & Wright 2006, chapter 7): measured, it needs 22 to 90
    evaluations where Adam needs 100 to 200 for the same value. Rows of a table are minimised together, which does not
    change their minimum. Where bounds are declared, of which L-BFGS knows nothing, Adam (Kingma & Ba 2015) takes its
    place, and its steps end at them. With s2 and S to match, this is release 2.0.0's global objective.

    Args:
        eta: Multiplies the search's own step length. By default 1.
        s2: Variance of a clean target given what the backbone sees, standardised. By default the backbone's held-out
            mean squared residual.
    """

    def __init__(self, eta: float | None = None, s2: float | None = None) -> None:
        self.eta, self.s2 = 1.0 if eta is None else eta, s2
        if s2 is not None and not s2 > 0:
            raise ConfigError("s2 must be positive", found=str(s2), where="refine.arguments.s2")

    def prepare(self, module: nn.Module, problem: Problem, settings: Settings, scale: float) -> float:
        if self.s2 is None:
            self.s2 = scale**2 if 0 < scale < float("inf") else 1.0
        return self.eta

    def run(self, module: nn.Module, problem: Problem, settings: Settings, stop: Stop) -> Outcome:
        """Epochs are evaluations of the objective. When stopped, the best point so far is kept."""
        assert self.s2 is not None
        items = problem.known
        before = residuals_of(module, problem, items, settings) if len(items) else problem.cells.new_zeros(0, 1)
        pulling = items[~(before.abs().amax(dim=1) <= settings.tau)]
        search = _Search(module, problem, pulling, settings, stop, self.s2)
        if len(pulling):
            search.run(self.eta)
        shift = search.sigma * search.best
        after = residuals_of(module, problem.at(problem.cells + shift), items, settings) if len(items) else before
        return _outcome(problem, shift, before, after, search, settings.tau)


class _Enough(Exception):
    """The search is stopped from outside."""


class _Search:
    """Looks for the minimum.

    Attributes:
        sigma: Noise of each cell, 0 where it may not move, shape (rows, P).
        best: Where the cells are best, less where they were observed, in units of their noise, shape (rows, P).
        epochs: Evaluations of the objective.
        settled: Whether no cell is pushed any more.
        interrupted: Whether it was stopped from outside.
    """

    def __init__(
        self, module: nn.Module, problem: Problem, pulling: Tensor, settings: Settings, stop: Stop, s2: float
    ) -> None:
        self._module, self._problem, self._pulling, self._s2 = module, problem, pulling, s2
        self._settings, self._stop = settings, stop
        self.sigma = problem.noise * problem.movable
        self.best, self._lowest = torch.zeros_like(problem.cells), float("inf")
        self.epochs, self.settled, self.interrupted = 0, not len(pulling), False

    def run(self, rate: float) -> None:
        """Search until it is found, or the epochs are used up."""
        way = torch.zeros_like(self.best, requires_grad=True)
        with suppress(_Enough):
            if self._settings.limits is None:
                self._by_lbfgs(way, rate)
            else:
                self._by_adam(way, rate * ADAM_RATE)

    def _by_lbfgs(self, way: Tensor, rate: float) -> None:
        search = torch.optim.LBFGS(
            [way],
            lr=rate,
            max_iter=self._settings.max_epochs,
            max_eval=self._settings.max_epochs,
            history_size=REMEMBERED,
            line_search_fn="strong_wolfe",
            tolerance_grad=SETTLED,
            tolerance_change=0.0,
        )

        def closure() -> Tensor:
            value, way.grad = self._evaluate(way.detach())
            return value

        search.step(closure)  # type: ignore[no-untyped-call]

    def _by_adam(self, way: Tensor, rate: float) -> None:
        search = torch.optim.Adam([way], lr=rate)
        while not self.settled:
            _, way.grad = self._evaluate(way.detach())
            search.step()
            way.detach().copy_(self._held(way.detach()))

    def _evaluate(self, way: Tensor) -> tuple[Tensor, Tensor]:
        """The objective and its gradient."""
        if self.epochs >= self._settings.max_epochs:
            raise _Enough
        problem = self._problem
        held = self._held(way)
        live = problem.at(problem.cells + self.sigma * held)
        found = _pull(self._module, live, self._pulling, self._settings, self._stop)
        if found is None:
            self.interrupted = True
            raise _Enough
        losses, pull = found
        value = losses / self._s2 + held.square().sum()
        gradient = self.sigma * pull / self._s2 + 2 * held
        gradient[~(gradient.isfinite() & problem.movable)] = 0.0
        if self._settings.limits is not None:
            low, high = self._bounds()
            gradient[((held <= low) & (gradient > 0)) | ((held >= high) & (gradient < 0))] = 0.0
        self.epochs += 1
        if float(value) < self._lowest or self.epochs == 1:
            self.best, self._lowest = held.clone(), float(value)
            self.settled = float(gradient.abs().max()) <= SETTLED
        share = 1.0 if self.settled else self.epochs / self._settings.max_epochs
        self._stop.report(Progress(share, len(self._pulling), len(problem.known)))
        return value, gradient

    def _held(self, way: Tensor) -> Tensor:
        """The way as far as the bounds of its cells allow."""
        if self._settings.limits is None:
            return way
        return torch.where(self._problem.movable, way.clamp(*self._bounds()), way)

    def _bounds(self) -> list[Tensor]:
        unit = self.sigma.clamp_min(torch.finfo(self.sigma.dtype).tiny)
        return [(limit - self._problem.cells) / unit for limit in self._settings.limits or ()]


def _pull(
    module: nn.Module, live: Problem, items: Tensor, settings: Settings, stop: Stop
) -> tuple[Tensor, Tensor] | None:
    """The summed losses and their gradient in the cells, shape (rows, P); None if told to stop.

    Items whose loss is not a finite number do not count.
    """
    into, losses = torch.zeros_like(live.cells), live.cells.new_zeros(())
    shares = isinstance(live, Series) and not live.flatten and hasattr(module, "scan") and settings.smoother is None
    for batch in torch.split(items, SCANNED if shares else settings.batch_size):
        if stop.now():
            return None
        if isinstance(live, Series) and shares:
            losses += _ask_shared(module, live, batch, into, settings)
        else:
            losses += _ask(module, live, batch, into, settings)
    return losses, into


def _ask(module: nn.Module, live: Problem, batch: Tensor, into: Tensor, settings: Settings) -> Tensor:
    losses = live.cells.new_zeros(())

    def one(part: slice) -> None:
        x, y = live.gather(batch[part])
        weight_y = torch.ones_like(y) if live.target_at else None
        local = Local(module, settings.criterion, Cells(x, y, None, weight_y), -1.0, settings.smoother)
        gradient = local.gradient()
        copies = [local.predicted] if settings.smoother is None else settings.smoother.predicted(x)
        mean = torch.stack([settings.criterion.loss(one, y) for one in copies]).mean(dim=0)
        live.scatter_(into, batch[part], *gradient)
        losses.add_(mean.nan_to_num(0.0, 0.0).sum())

    in_parts(one, len(batch), len(batch))
    return losses


def _ask_shared(module: nn.Module, live: Series, batch: Tensor, into: Tensor, settings: Settings) -> Tensor:
    scan, y = Scan(module, live, batch), live.targets(batch)
    pull, pull_y = settings.criterion.pull(scan.predicted, y)
    scan.scatter_(into, pull)
    if pull_y is not None:
        live.scatter_targets_(into, batch, pull_y)
    return settings.criterion.loss(scan.predicted, y).nan_to_num(0.0, 0.0).sum()


def _outcome(problem: Problem, shift: Tensor, before: Tensor, after: Tensor, search: _Search, tau: float) -> Outcome:
    pulled = ~(before.abs().amax(dim=1) <= tau)
    ended = Status.CONVERGED if search.settled else Status.MAX_EPOCHS
    status = torch.where(pulled, int(Status.INTERRUPTED if search.interrupted else ended), int(Status.WITHIN_GATE))
    status[pulled & ~after.isfinite().all(dim=1)] = Status.STALLED
    iterations = pulled * search.epochs
    return Outcome(shift, problem.known, status.long(), iterations, before, after, search.epochs, search.interrupted)
