"""What a blind-spot model is to learn, and how it is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.faults import Faults
from denograd_engine.posterior.gaussian import NO_EFFECTS, Shape

ITEMS_A_STEP = 256
"""Of the optimiser."""
LONGER_FOR_FAULTS = 3
"""Times as many steps: a fault stands out only once the mixtures are narrow."""
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Penalties of the linear part, standardised, of which each column has the one with the least held-out error."""


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
