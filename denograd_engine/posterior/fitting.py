"""Fitting the blind-spot model: cross-fitted, so that what it says of an item was learnt without that item."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denograd_engine.errors import DenogradError
from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.faults import Faults
from denograd_engine.posterior.folds import fitted_on, folds_of, inner
from denograd_engine.posterior.gaussian import NO_EFFECTS, Blind, Gaussian, Shape
from denograd_engine.posterior.mixture import Mixture, side_by_side
from denograd_engine.posterior.network import BlindNet
from denograd_engine.workers import workers_on

INNER = 5
"""Parts of a training set whose linear predictions are each learnt on the others, as in use."""
ITEMS_A_STEP = 256
LONGER_FOR_FAULTS = 3
"""Times as many steps: a fault stands out only once the mixtures are narrow."""
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Penalties of the linear part, standardised, of which each column has the one with the least held-out error."""
HIDDEN_SHARE = {"table": 0.5, "series": 0.25}
"""Share of the training items in which more is hidden than is missing anyway."""
MASKS = 4
"""Different sets of columns that are hidden there, each with and without the targets."""
LOOKED_AT = 2048
"""Items that are evaluated together."""
LEAST_OPEN = 0.002
"""Share of the noise variance that the linear part leaves open at least."""
LEAST_VARIANCE = 1e-8
"""Standardised, that it leaves open at least."""
MOST_OVER_MEDIAN = 2 / 0.4549
"""Most mean square of what it leaves over, over the median, where faults may be among it: twice a normal's."""


@dataclass(frozen=True)
class Fit:
    """How the model is fitted.

    Attributes:
        folds: Models, each fitted without its fold of the items.
        hidden: Units of a layer of the network.
        depth: Its residual blocks.
        dropout: Share of units dropped.
        components: Of the mixture that a clean cell is drawn from.
        passes: Over the data, within the limits of the next two.
        fewest_steps: Steps of the optimiser at least.
        most_steps: And at most, so that time does not grow with large tables.
        learning_rate: Of AdamW, at the top of a one-cycle schedule.
        weight_decay: Of AdamW.
        near: Steps on either side whose cleaned values the network sees.
        target_informs: Whether features are refined with a look at the targets, whose noise they then carry into what
            is trained on them; None: in series, where a forecast's target is another step.
        faults: Whether some cells may be wrong altogether: spikes, slips, stuck sensors.
        seed: Of weights, order and masks.
    """

    folds: int = 10
    hidden: int = 128
    depth: int = 1
    dropout: float = 0.3
    components: int = 3
    passes: int = 20
    fewest_steps: int = 40
    most_steps: int = 1000
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    near: int = 4
    target_informs: bool | None = None
    faults: bool = False
    seed: int = 0

    def steps(self, items: int) -> int:
        """Steps of the optimiser for so many items."""
        longer = LONGER_FOR_FAULTS if self.faults else 1
        return min(self.most_steps, longer * max(self.fewest_steps, self.passes * items // ITEMS_A_STEP))


@dataclass(frozen=True)
class Task:
    """What is to be learnt of the contexts.

    Attributes:
        columns: Which of the P cell columns carry noise, shape (C,).
        targets: Which of the P are targets: they may all be absent.
        noise: Noise variance of each of the P, 0 where none is known, shape (P,).
        ridge: Penalty with which the linear part predicts each of the P, shape (P,), one of `RIDGES`: at lag 0; it
            grows with 1 + |lag|.
        pseudocount: Of the effects of levels with which each of the P is predicted, one of `PSEUDOCOUNTS`.
        correlation: Steps over which the noise of each of the P hangs together, 0 where it is independent: each is
            predicted without its own column that near.
        apart: Whether features are refined without a look at the targets.
        faults: What is assumed of faulty cells; None if there are none.
    """

    columns: Tensor
    targets: tuple[int, ...]
    noise: Tensor
    ridge: Tensor
    pseudocount: tuple[float | None, ...] = NO_EFFECTS
    correlation: tuple[int, ...] = (0,)
    apart: bool = False
    faults: Faults | None = None

    @property
    def pseudocounts(self) -> tuple[float | None, ...]:
        """Those in use."""
        return tuple(dict.fromkeys(self.pseudocount))

    def of_targets(self, contexts: Contexts) -> Tensor:
        """Which numbers of a context are targets, or hold the class, shape (D,)."""
        cells = torch.zeros(contexts.cells.shape[1], dtype=torch.bool, device=self.noise.device)
        cells[list(self.targets)] = True
        beside = cells.new_zeros(contexts.beside.shape[1])
        beside[len(beside) - contexts.classes :] = True
        return torch.cat([cells.repeat(len(contexts.lags)), beside])

    def shape(self, contexts: Contexts, fit: Fit) -> Shape:
        """What the linear part is asked."""
        lag, cells = contexts.lag.to(self.noise.device), contexts.cells.shape[1]
        of_context = self.noise.repeat(len(contexts.lags))
        beside = self.noise.new_zeros(contexts.beside.shape[1])
        effects = torch.tensor([self.pseudocounts.index(one) for one in self.pseudocount], device=lag.device)
        views = [torch.ones_like(lag, dtype=torch.bool)]
        if contexts.runs is not None:
            views += [lag <= 0, lag >= 0, lag == 0]
        at = torch.arange(len(lag), device=lag.device)
        in_cells, column = at < len(contexts.lags) * cells, at % cells
        own = contexts.own.to(lag.device)[self.columns]
        apart = torch.tensor(self.correlation, device=lag.device).expand(cells)[column[own], None]
        kept = ((lag.abs() <= fit.near) | ~in_cells) & (apart == 0).all()
        return Shape(
            own=own,
            together=in_cells & (column == column[own, None]) & (lag.abs() <= apart),
            kept=kept.nonzero().squeeze(1),
            views=torch.stack(views),
            noise=torch.cat([of_context, beside]),
            penalty=1 + lag.abs().double(),
            ridge=torch.cat(
                [self.ridge.repeat(len(contexts.lags)), torch.full_like(beside, RIDGES[0], dtype=torch.float64)]
            ),
            effects=torch.cat([effects.expand(cells).repeat(len(contexts.lags)), beside.long()]),
        )


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
    lessons = _lessons(contexts, items, task, shape, seed)
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


@dataclass(frozen=True)
class _Lesson:
    """Items with what the linear part, fitted on others, says of them."""

    items: Tensor
    blind: Blind
    hidden: Tensor | None

    def part(self, at: Tensor) -> tuple[Tensor, Blind, Tensor | None]:
        patterns, pattern = torch.unique(self.blind.pattern[at], return_inverse=True)
        blind = Blind(
            self.blind.predicted[at], self.blind.cleaned[at], self.blind.missing[at], self.blind.gain[patterns], pattern
        )
        return self.items[at], blind, None if self.hidden is None else self.hidden[at]


def _lessons(contexts: Contexts, items: Tensor, task: Task, shape: Shape, seed: int) -> tuple[_Lesson, _Lesson]:
    """The items as they are, and the same with more of them hidden."""
    generator = torch.Generator().manual_seed(seed)
    masks = _masks(contexts, task, generator)
    plain, masked, order, hidden = [], [], [], []
    for held_out, others in inner(contexts, items, INNER, seed):
        linear = Gaussian.fit(contexts, others, task.pseudocounts)
        chosen = torch.randint(len(masks), (len(held_out),), generator=generator).to(items.device)
        plain.append(linear.blind(contexts, held_out, shape))
        masked.append(linear.blind(contexts, held_out, shape, masks[chosen]))
        order.append(held_out)
        hidden.append(masks[chosen][:, shape.own])
    where = torch.cat(order)
    return _Lesson(where, _joined(plain), None), _Lesson(where, _joined(masked), torch.cat(hidden))


def _masks(contexts: Contexts, task: Task, generator: torch.Generator) -> Tensor:
    """What may be hidden of a context, shape (masks, D): all targets, or some columns, or both, at every lag."""
    cells = contexts.cells.shape[1]
    some = torch.rand(MASKS, 1, generator=generator) * 0.6
    columns = (torch.rand(MASKS, cells, generator=generator) < some).repeat(1, len(contexts.lags))
    random = torch.cat([columns, torch.zeros(MASKS, contexts.beside.shape[1], dtype=torch.bool)], dim=1)
    targets = task.of_targets(contexts)
    random = random.to(targets.device)
    return torch.cat([random, random | targets, targets.expand(2 * MASKS, -1)])


def _joined(parts: list[Blind]) -> Blind:
    starts = torch.tensor([0, *(len(part.gain) for part in parts)]).cumsum(0).tolist()
    return Blind(
        predicted=torch.cat([part.predicted for part in parts]),
        cleaned=torch.cat([part.cleaned for part in parts]),
        missing=torch.cat([part.missing for part in parts]),
        gain=torch.cat([part.gain for part in parts]),
        pattern=torch.cat([part.pattern + start for part, start in zip(parts, starts, strict=False)]),
    )


def _optimise(
    network: BlindNet,
    lessons: tuple[_Lesson, _Lesson],
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
