"""A fitted blind-spot model with the scaling that it was fitted on, and the noise that it takes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from denograd_engine.devices import resolve_device
from denograd_engine.errors import SchemaError
from denograd_engine.frames import Encoder
from denograd_engine.noise import estimate_noise
from denograd_engine.posterior.calibration import Trust, calibrate, evened, likeliest, risk
from denograd_engine.posterior.contexts import Contexts
from denograd_engine.posterior.departures import Departure, Departures, departures
from denograd_engine.posterior.faults import Faults, stuck
from denograd_engine.posterior.fitting import CrossFit, Member, cross_fit
from denograd_engine.posterior.folds import inner
from denograd_engine.posterior.gaussian import NO_EFFECTS, Gaussian
from denograd_engine.posterior.levels import PSEUDOCOUNTS, Levels
from denograd_engine.posterior.seasons import neighbourhood, seasonal_lags
from denograd_engine.posterior.task import RIDGES, Fit, Task
from denograd_engine.problem import FEWEST_ITEMS, require_enough

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.schema import Schema

LINEAR_PARTS = 5
"""Parts of the data, each predicted by the linear part fitted on the others, for ridges and the bound on the noise."""
LEAST_NOISE = 0.01
"""Estimated noise, as a share of a column's std, below which it is taken for none."""
TOO_MUCH = 1.1
"""Declared noise over what is left of it once it is cut off, from which its size is in doubt."""
MOST_NOISE = 0.99
"""Share of a column's blind residual variance that can be noise: what is declared beyond is cut off."""


@dataclass(frozen=True)
class ColumnFit:
    """What is known of one cell column, in its own unit.

    Attributes:
        noise: Standard deviation of the noise that is taken out; None where none is known.
        fitted: The one that the networks were fitted with: larger where its size was in doubt, and proved to be less.
        estimated: Whether that was estimated rather than declared.
        bound: Standard deviation of what the other cells do not explain linearly: the noise is not larger.
        skill: Held-out share of its variance that is explained without the cell itself.
        gain: Estimated root mean squared error of the posterior mean over the noise (SURE): 1 gains nothing.
        ridge: Penalty with which the linear part predicts it, standardised.
        pseudocount: Rows that the effects of the frozen columns' levels on it are held back by; None if they have none.
        faults: Share of its cells that are faulty; None if none are looked for.
        departure: How its noise evidently departs from Gaussian noise alike for all cells; None where it does not.
    """

    noise: float | None
    fitted: float | None
    estimated: bool
    bound: float
    skill: float
    gain: float
    ridge: float
    pseudocount: float | None = None
    faults: float | None = None
    departure: Departure | None = None


@dataclass(frozen=True)
class Posterior:
    """Everything that turns observed cells into posterior means and standard deviations.

    Attributes:
        encoder: The scaling and the schema.
        fit: How it was fitted.
        lags: Steps of the context.
        levels: Of the frozen columns; none in a series.
        columns: Of each cell column, in the order of `encoder.schema.cells`.
        refined: Which of them carry known noise, and gain by being refined.
        members: The model of each fold.
        trust: How far they are believed; None before they are fitted.
        faults: What was learnt of faulty cells, of each refined column; None if none are looked for.
    """

    encoder: Encoder
    fit: Fit
    lags: tuple[int, ...]
    levels: Levels
    columns: Mapping[str, ColumnFit]
    refined: tuple[str, ...]
    members: tuple[Member, ...]
    trust: Trust | None = None
    faults: Faults | None = None

    def contexts(self, frame: pd.DataFrame, device: torch.device) -> Contexts:
        """The items of a table or series of the same schema."""
        contexts = Contexts.of(frame, self.encoder, device, self.lags)
        return contexts.with_levels(self.levels)

    def task(self, device: torch.device) -> Task:
        """What was learnt."""
        noise = {name: std for name, column in self.columns.items() if (std := column.fitted) is not None}
        stiffness = [(self.columns[name].ridge, self.columns[name].pseudocount) for name in self.encoder.schema.cells]
        return _task(self.encoder, noise, stiffness, self.fit, device)

    @property
    def errors(self) -> NDArray[np.float64]:
        """Standard deviation of all errors of each refined column, noise and faults, in its unit."""
        found = []
        for at, name in enumerate(name for name, column in self.columns.items() if column.noise is not None):
            if name in self.refined:
                spread = self.encoder.spreads[self.encoder.schema.cells.index(name)]
                faulty = 0.0 if self.faults is None else float(self.faults.variance[at]) * spread**2
                found.append(((self.columns[name].noise or 0.0) ** 2 + faulty) ** 0.5)
        return np.array(found, dtype=np.float64)


def fit_posterior(
    frame: pd.DataFrame,
    schema: Schema,
    fit: Fit | None = None,
    device: str = "auto",
    on_progress: Callable[[float, float], None] | None = None,
) -> Posterior:
    """Fit a blind-spot model to a table or series as it is, noise included.

    Args:
        frame: Shape (rows, columns), in the user's units.
        schema: The roles of the columns. In a table those with declared noise are refined; in a series the noise of
            the others is estimated. Where faults are looked for, they are in every refined column, and no noise is
            estimated.
        fit: How to fit.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        on_progress: Told the share of the work that is done, and the loss.

    Raises:
        SchemaError: If it is a table and no refined column has declared noise, or a column is infinite, constant or
            empty.
        TimeAxisError: If the rows do not form series as the schema says.
        TooFewRowsError: If there is too little to learn from.
    """
    fit = fit or Fit()
    on = resolve_device(device)
    declared = {name: std for name in schema.refined if (std := schema[name].noise) is not None}
    if not declared and schema.series is None and not fit.faults:
        raise SchemaError(
            "no column has declared noise, so there is nothing that this rule can take out",
            expected="the standard deviation of the measurement noise of at least one refined column, in its own unit",
            where="columns.noise",
            remedy="declare it, such as columns.noise: {temperature: 0.5}, look for faults, or use rule: denograd",
        )
    encoder = Encoder.fit(frame, schema)
    contexts = Contexts.of(frame, encoder, on)
    require_enough(len(contexts), FEWEST_ITEMS, "rows")
    known = declared
    if fit.faults:
        known = dict.fromkeys(schema.refined, 0.0) | declared
        contexts = contexts.without(stuck(contexts))
    elif contexts.runs is not None:
        known = _estimated(contexts, encoder) | declared
    levels = Levels()
    if contexts.runs is not None:
        contexts = replace(contexts, lags=neighbourhood(max(contexts.runs), _correlation(schema)))
        left = torch.zeros_like(contexts.cells)
        for held_out, over in _left_over(contexts, fit, [(RIDGES[0], None)], _correlation(schema)):
            left[held_out] = over[0]
        contexts = replace(contexts, lags=tuple(sorted(contexts.lags + seasonal_lags(contexts, left))))
    else:
        levels = Levels.fit(contexts.frozen, encoder.context_widths, contexts.cells)
        contexts = contexts.with_levels(levels)
    stiffness, least = _stiffness(contexts, fit, _correlation(schema))
    bounds = dict(zip(schema.cells, (least.sqrt().cpu().numpy() * encoder.spreads).tolist(), strict=True))
    noise = {name: min(std, MOST_NOISE**0.5 * bounds[name]) for name, std in known.items()}
    task = _task(encoder, noise, stiffness, fit, on)
    found = {
        name: ColumnFit(
            noise.get(name),
            noise.get(name),
            name in noise and name not in declared,
            bounds[name],
            float("nan"),
            1.0,
            *stiff,
        )
        for name, stiff in zip(schema.cells, stiffness, strict=True)
    }
    unfitted = Posterior(encoder, fit, contexts.lags, levels, found, (), ())
    if not noise:
        return unfitted
    return _judged(contexts, task, unfitted, cross_fit(contexts, task, fit, on_progress or (lambda share, loss: None)))


def _task(
    encoder: Encoder,
    noise: Mapping[str, float],
    stiffness: list[tuple[float, float | None]],
    fit: Fit,
    device: torch.device,
) -> Task:
    names = encoder.schema.cells
    std = torch.tensor([noise.get(name, 0.0) for name in names], dtype=torch.float64) / torch.from_numpy(
        encoder.spreads
    )
    columns = torch.tensor([at for at, name in enumerate(names) if name in noise], dtype=torch.int64)
    targets = tuple(range(len(encoder.schema.features), len(names)))
    informs = encoder.schema.series is not None if fit.target_informs is None else fit.target_informs
    variance = std.square().float().to(device)
    faults = Faults.assumed(variance[columns]) if fit.faults else None
    ridges, pseudocounts = zip(*stiffness, strict=True)
    ridge = torch.tensor(ridges, dtype=torch.float64, device=device)
    correlation = _correlation(encoder.schema)
    return Task(columns.to(device), targets, variance, ridge, pseudocounts, correlation, not informs, faults)


def _correlation(schema: Schema) -> tuple[int, ...]:
    return tuple(schema[name].noise_correlation for name in schema.cells)


def _stiffness(
    contexts: Contexts, fit: Fit, correlation: tuple[int, ...]
) -> tuple[list[tuple[float, float | None]], Tensor]:
    """For each cell column the ridge and the pseudocount with the least held-out error, and that mean square, shape
    (P,).
    """
    tried = [(ridge, one) for one in (PSEUDOCOUNTS if contexts.level_count else NO_EFFECTS) for ridge in RIDGES]
    parts = _left_over(contexts, fit, tried, correlation)
    squares = [over.square().sum(dim=1, dtype=torch.float64) for _, over in parts]
    errors = torch.stack(squares).sum(dim=0) / contexts.present.sum(dim=0).clamp_min(1)
    least, chosen = errors.min(dim=0)
    return [tried[at] for at in chosen.tolist()], least


def _left_over(
    contexts: Contexts, fit: Fit, tried: list[tuple[float, float | None]], correlation: tuple[int, ...]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of the items, and for each ridge and pseudocount what the linear part, fitted on the others, predicts of
    each cell column less what was observed, zero where missing, shape (tried, items, P).
    """
    items, columns = (torch.arange(count, device=contexts.cells.device) for count in contexts.cells.shape)
    silent = torch.zeros_like(contexts.cells[0])
    pseudocounts, asked = tuple(dict.fromkeys(one for _, one in tried)), []
    for ridge, pseudocount in tried:
        ridges = torch.full_like(silent, ridge, dtype=torch.float64)
        shape = Task(columns, (), silent, ridges, correlation=correlation).shape(contexts, fit)
        effects = torch.full_like(shape.effects, pseudocounts.index(pseudocount))
        asked.append(replace(shape, views=shape.views[:1], kept=shape.kept[:0], effects=effects))
    for held_out, others in inner(contexts, items, LINEAR_PARTS, fit.seed):
        linear = Gaussian.fit(contexts, others, pseudocounts)
        over = [linear.blind(contexts, held_out, shape).predicted[:, 0] - contexts.cells[held_out] for shape in asked]
        yield held_out, torch.where(contexts.present[held_out], torch.stack(over), 0.0)


def _mean_square(values: Tensor, present: Tensor) -> Tensor:
    total: Tensor = values.double().square().sum(dim=0) / present.sum(dim=0).clamp_min(1)
    return total


def _judged(contexts: Contexts, task: Task, unfitted: Posterior, fitted: CrossFit) -> Posterior:
    """The model, trusted as far as the data allow."""
    observed, present = contexts.cells[:, task.columns], contexts.present[:, task.columns]
    variance, faults = task.noise[task.columns], None
    names = [unfitted.encoder.schema.cells[column] for column in task.columns.tolist()]
    if task.faults is None:
        doubted = torch.tensor([_doubted(unfitted, name) for name in names], device=variance.device)
        departed = departures(fitted.mixture, observed, present, variance, doubted)
        believed, each = departed.believed(fitted.mixture, variance)
        factor, off = calibrate(believed, observed, present, each, less=departed.heavy)
        widened = believed.widened(factor)
        error, _ = risk(widened, observed, present, each)
        variance = variance * departed.mean
        trust = Trust(departed, factor, off, *evened(widened, observed, present, variance, each))
    else:
        faults = task.faults.learnt(fitted.mixture, observed, present, variance)
        factor, none = likeliest(fitted.mixture, observed, present, variance, faults), torch.zeros_like(variance)
        trust = Trust(Departures.none(variance), factor, off=torch.ones_like(variance), typical=none, evened=none)
        widened = fitted.mixture.widened(factor)
        both, errors = faults.split(widened, variance)
        error = _mean_square(both.posterior(observed, errors)[1].sqrt(), present)
        variance = variance + faults.variance
    gain = (error / variance).clamp(0.0, 1.0).sqrt()
    away = torch.where(present, widened.expected() - observed, 0.0)
    centred = torch.where(present, observed - observed.sum(dim=0) / present.sum(dim=0).clamp_min(1), 0.0)
    skill = 1 - _mean_square(away, present) / _mean_square(centred, present)
    columns = dict(unfitted.columns)
    less, kinds = trust.departures.mean.sqrt().tolist(), trust.departures.kinds()
    for at, name in enumerate(names):
        columns[name] = replace(
            columns[name],
            noise=(columns[name].fitted or 0.0) * less[at],
            skill=float(skill[at]),
            gain=float(gain[at]),
            faults=None if faults is None else float(faults.rate[at]),
            departure=kinds[at],
        )
    return replace(
        unfitted,
        columns=columns,
        refined=tuple(name for name in unfitted.encoder.schema.cells if columns[name].gain < 1.0),
        members=fitted.members,
        trust=trust,
        faults=faults,
    )


def _doubted(model: Posterior, name: str) -> bool:
    """Whether the noise of a column may be less than what the networks were fitted with."""
    column, declared = model.columns[name], model.encoder.schema[name].noise
    return column.estimated or (declared or 0.0) > TOO_MUCH * (column.fitted or 0.0)


def _estimated(contexts: Contexts, encoder: Encoder) -> dict[str, float]:
    """Noise of the refined columns of a series, in their own units, where there is any."""
    assert contexts.runs is not None
    found = {}
    for at, (name, spread) in enumerate(zip(encoder.schema.cells, encoder.spreads.tolist(), strict=True)):
        values = torch.where(contexts.present[:, at], contexts.cells[:, at], torch.nan).cpu().double().numpy()
        std = estimate_noise(values, contexts.runs) if encoder.schema[name].refined else 0.0
        if std > LEAST_NOISE:
            found[name] = std * spread
    return found
