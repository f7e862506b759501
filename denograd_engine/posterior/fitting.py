"""Fitting the blind-spot model: cross-fitted, so that what it says of an item was learnt without that item."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denograd_engine.errors import DenogradError
from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.folds import fitted_on, folds_of
from denograd_engine.posterior.gaussian import Gaussian, Shape
from denograd_engine.posterior.lessons import Lesson, lessons_of
from denograd_engine.posterior.mixture import Mixture, side_by_side
from denograd_engine.posterior.network import BlindNet
from denograd_engine.posterior.task import ITEMS_A_STEP, Fit, Task
from denograd_engine.workers import workers_on

HIDDEN_SHARE = {"table": 0.5, "series": 0.25}
"""Share of the training items in which more is hidden than is missing anyway."""
LOOKED_AT = 2048
"""Items that are evaluated together."""
LEAST_OPEN = 0.002
"""Share of the noise variance that the linear part leaves open at least."""
LEAST_VARIANCE = 1e-8
"""Standardised, that it leaves open at least."""
MOST_OVER_MEDIAN = 2 / 0.4549
"""Most mean square of what it leaves over, over the median, where faults may be among it: twice a normal's."""


@dataclass(frozen=True)
class Member:
    """The model of one fold."""

    linear: Gaussian
    network: BlindNet
    open_: Tensor

    def mixture(self, contexts: Contexts, items: Tensor, shape: Shape, task: Task) -> Mixture:
        """What it says of the clean cells of these items: of targets given all else, of features as the task says."""
        target = torch.isin(task.columns, torch.tensor(task.targets, device=task.columns.device))
        if not task.apart or bool(target.all()):
            return self._said(contexts, items, shape, task, None, None)
        hidden = task.of_targets(contexts)
        without = self._said(contexts, items, shape, task, hidden, (~target).nonzero().squeeze(1))
        if not bool(target.any()):
            return without
        whole = self._said(contexts, items, shape, task, None, target.nonzero().squeeze(1))
        order = torch.cat([(~target).nonzero(), target.nonzero()]).squeeze(1).argsort()
        return side_by_side([without, whole], order)

    def _said(
        self,
        contexts: Contexts,
        items: Tensor,
        shape: Shape,
        task: Task,
        hidden: Tensor | None,
        cells: Tensor | None,
    ) -> Mixture:
        mask = None if hidden is None else hidden.expand(len(items), -1)
        blind = self.linear.blind(contexts, items, shape, mask)
        observed, present = contexts.cells[items][:, task.columns], contexts.present[items][:, task.columns]
        if hidden is not None:
            present = present & ~hidden[shape.own]
        with torch.no_grad():
            mixture: Mixture = self.network(blind, observed, present, self.open_, cells=cells)
        return mixture


def fit_member(
    contexts: Contexts,
    items: Tensor,
    task: Task,
    network: BlindNet,
    fit: Fit,
    seed: int,
    on_step: Callable[[float], None],
) -> Member:
    """Fit a model to these items.

    Args:
        contexts: Where they are.
        items: Ascending.
        task: What to learn.
        network: With its first weights; it is fitted in place.
        fit: How.
        seed: Of order, masks and dropped units.
        on_step: Told the loss after each step; an exception that it raises ends the training.

    Raises:
        DenogradError: If training diverges.
    """
    shape = task.shape(contexts, fit)
    lessons = lessons_of(contexts, items, task, shape, seed)
    natural, noise = lessons[0], task.noise[task.columns]
    away = (natural.blind.predicted[:, 0] - contexts.cells[natural.items][:, task.columns]).square()
    counted = contexts.present[natural.items][:, task.columns]
    left = torch.where(counted, away, 0.0).sum(dim=0) / counted.sum(dim=0).clamp_min(1)
    if task.faults is not None:
        median = torch.where(counted, away, torch.nan).nanmedian(dim=0).values
        left = torch.minimum(left, MOST_OVER_MEDIAN * median)
    open_ = torch.maximum(left - noise, LEAST_OPEN * noise).clamp_min(LEAST_VARIANCE).sqrt()
    _optimise(network, lessons, contexts, task, open_, fit, seed, on_step)
    return Member(Gaussian.fit(contexts, items, task.pseudocounts), network, open_)


def _optimise(
    network: BlindNet,
    lessons: tuple[Lesson, Lesson],
    contexts: Contexts,
    task: Task,
    open_: Tensor,
    fit: Fit,
    seed: int,
    on_step: Callable[[float], None],
) -> None:
    count, noise = len(lessons[0].items), task.noise[task.columns]
    steps = fit.steps(count)
    optimiser = torch.optim.AdamW(network.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, fit.learning_rate, total_steps=steps, pct_start=0.2)
    shuffled = torch.Generator().manual_seed(seed)
    dropped = torch.Generator(open_.device).manual_seed(seed)
    size = min(ITEMS_A_STEP, count)
    few = round(HIDDEN_SHARE["table" if contexts.runs is None else "series"] * size)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=shuffled)])
        batch, order = order[:size].to(open_.device), order[size:]
        cost = torch.zeros((), device=open_.device)
        for lesson, at in ((lessons[0], batch[few:]), (lessons[1], batch[:few])):
            if not len(at):
                continue
            items, blind, hidden = lesson.part(at)
            observed, there = contexts.cells[items][:, task.columns], contexts.present[items][:, task.columns]
            seen = there if hidden is None else there & ~hidden
            mixture: Mixture = network(blind, observed, seen, open_, dropped)
            errors = noise
            if task.faults is not None:
                mixture, errors = task.faults.split(mixture, noise)
            cost = cost - torch.where(there, mixture.log_likelihood(observed, errors), 0.0).sum()
        cost = cost / (size * len(task.columns))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(cost)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        loss = float(cost.detach())
        if not math.isfinite(loss):
            raise DenogradError("training diverged: the loss is not finite", remedy="lower the learning rate")
        on_step(loss)


@dataclass(frozen=True)
class CrossFit:
    """Models of all folds, and what each said of the items that it had not seen.

    Attributes:
        members: One for each fold.
        fold: Of each item, shape (items,).
        mixture: Of each item, by the model of its fold, shapes (items, M, C).
    """

    members: tuple[Member, ...]
    fold: Tensor
    mixture: Mixture


class _Ended(Exception):
    """The caller's thread has stopped the training."""


def cross_fit(contexts: Contexts, task: Task, fit: Fit, on_progress: Callable[[float, float], None]) -> CrossFit:
    """Fit a model for each fold, several at a time on the cores of a CPU, and let it speak of that fold alone.

    Args:
        contexts: All items.
        task: What to learn.
        fit: How.
        on_progress: Told the share of the steps that are done, and the latest loss, in the caller's thread; an
            exception that it raises ends the training.
    """
    fold = folds_of(contexts, fit.folds)
    shape = task.shape(contexts, fit)
    items = [fitted_on(contexts, fold, number, fit.near) for number in range(fit.folds)]
    total = sum(fit.steps(len(one)) for one in items)
    losses: list[float] = []
    ended = False

    def told(loss: float) -> None:
        losses.append(loss)
        if ended:
            raise _Ended

    def report() -> None:
        if losses:
            on_progress(len(losses) / total, losses[-1])

    def one(number: int) -> Member:
        return fit_member(contexts, items[number], task, networks[number], fit, fit.seed * 1000 + number, told)

    networks = _first_weights(task, shape, fit, contexts.cells.device)
    with workers_on(contexts.cells.device, fit.folds) as workers:
        try:
            members = workers.together(one, range(fit.folds), report)
        except BaseException:  # Ctrl-C above all: the workers would go on to their end
            ended = True
            raise
    report()
    found = [contexts.cells.new_empty(len(contexts), fit.components, len(task.columns)) for _ in "wmv"]
    for number, member in enumerate(members):
        for part in torch.split((fold == number).nonzero().squeeze(1), LOOKED_AT):
            mixture = member.mixture(contexts, part, shape, task)
            for into, values in zip(found, (mixture.weight, mixture.mean, mixture.variance), strict=True):
                into[part] = values
    return CrossFit(tuple(members), fold, Mixture(*found))


def _first_weights(task: Task, shape: Shape, fit: Fit, device: torch.device) -> list[BlindNet]:
    """The network of each fold, before any training."""
    sizes = (len(task.columns), len(shape.kept), len(shape.views))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fit.seed)
        return [
            BlindNet(*sizes, fit.hidden, fit.depth, fit.dropout, fit.components).to(device) for _ in range(fit.folds)
        ]
