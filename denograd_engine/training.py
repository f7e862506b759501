"""Fitting a backbone to the noisy data: AdamW, early stopping on a held-out part, callbacks instead of a tracker."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from denograd_engine import backbones
from denograd_engine.asking import EVALUATION_BATCH, predictions, require_fit
from denograd_engine.criteria import Criterion, CrossEntropy, criterion
from denograd_engine.devices import dtype_of, resolve_device
from denograd_engine.errors import ConfigError, DenogradError, SchemaError, TooFewRowsError
from denograd_engine.folds import placed, predicting
from denograd_engine.frames import Encoder
from denograd_engine.problem import FEWEST_ITEMS, Problem, pose
from denograd_engine.user_code import CRITERION

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.schema import Schema


@dataclass(frozen=True)
class Training:
    """How a backbone is fitted.

    Attributes:
        epochs: Passes over the training part, at most.
        patience: Epochs without improvement on the held-out part after which training stops.
        batch_size: Items in one step.
        learning_rate: Of AdamW, decayed to zero along a half cosine over `epochs`.
        weight_decay: Of AdamW.
        holdout: Share of the items held out: random rows of a table, the last block of a series.
        criterion: What is minimised: a name of `criteria.REGISTRY`, a function of yours, or its name as "module:name";
            None takes the squared error for numbers and the cross-entropy for classes.
        seed: Of the initial weights, the split and the order of the batches.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    epochs: int = 100
    patience: int = 10
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    holdout: float = 0.2
    criterion: str | Callable[[Tensor, Tensor], Tensor] | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"training.{name} must be at least 1", found=str(getattr(self, name)), where=f"training.{name}"
                )
        if not 0 < self.holdout < 1:
            raise ConfigError(
                "training.holdout must lie between 0 and 1", found=str(self.holdout), where="training.holdout"
            )
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ConfigError("training.learning_rate must be positive and training.weight_decay not negative")


@dataclass(frozen=True)
class Epoch:
    """Mean losses of a target after one epoch, in standardised units."""

    epoch: int
    train_loss: float
    holdout_loss: float


@dataclass(frozen=True)
class Start:
    """A network of the same architecture, fitted to other rows of the same columns, that training goes on from.

    Attributes:
        weights: Its parameters and buffers by name, of its own scaling: they are where the search begins, no more.
        unseen: Rows that it was not fitted to, shape (rows,). Only these are held out: others it may know by heart.
    """

    weights: Mapping[str, Tensor]
    unseen: NDArray[np.bool_]


@dataclass(frozen=True)
class Backbone:
    """A fitted network with the scaling that it was fitted on.

    Attributes:
        module: Maps (items, *input_shape) to (items, outputs), standardised; for classes, to their logits. Where it is
            cross-fitted, a list of such networks, one for each fold: see `crossfit`.
        encoder: The scaling and the schema.
        skill: Held-out skill of each output, R2 for numbers, McFadden's pseudo-R2 for classes: 1 predicts perfectly,
            0 no better than the mean or the frequencies.
        residual_scale: Held-out root mean squared residual, standardised, all targets together.
        history: Losses of each epoch.
        criterion: What it was fitted with, see `Training`.
    """

    module: nn.Module
    encoder: Encoder
    skill: Mapping[str, float]
    residual_scale: float
    history: tuple[Epoch, ...] = field(default=())
    criterion: str | Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The network, or that of each fold, which never saw that fold."""
        return tuple(self.module) if isinstance(self.module, nn.ModuleList) else (self.module,)

    @property
    def loss(self) -> Criterion:
        """The criterion, ready for use."""
        return _criterion(self.criterion, self.encoder)

    @property
    def mean_skill(self) -> float:
        return sum(self.skill.values()) / len(self.skill)


def train(
    frame: pd.DataFrame,
    schema: Schema,
    kind: str | nn.Module | None = None,
    arguments: Mapping[str, Any] | None = None,
    training: Training | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    start: Start | None = None,
) -> Backbone:
    """Fit a backbone to a table or series as it is, noise included.

    Args:
        frame: Shape (rows, columns), in the user's units.
        schema: The roles of the columns.
        kind: A backbone's name, or an untrained module of the user's, which is copied; None takes the usual one.
        arguments: Keyword arguments of a backbone named by `kind`.
        training: How to fit.
        on_epoch: Called after each epoch; an exception that it raises ends the training.
        start: Where to go on from; what comes out is no worse than it on the part held out. None: random weights.

    Raises:
        SchemaError: If a refined column or a target is infinite, constant or empty, or if there is nothing to
            predict from.
        TimeAxisError: If the rows do not form series as the schema says.
        TooFewRowsError: If there is too little to train on, or to judge it by.
        ConfigError: If the backbone or device is unknown, or does not fit the data, or the start does not fit it.
    """
    training = training or Training()
    problem, encoder = posed(frame, schema, kind, training)
    fitted, held_out = problem.split(training.holdout, training.seed)
    weights = None
    if start is not None:
        held_out, weights = held_out[predicting(problem, placed(problem, start.unseen))[held_out]], start.weights
        _require_judges(len(held_out))
    return fit_network(problem, encoder, (fitted, held_out, held_out), kind, arguments, training, on_epoch, weights)


def posed(
    frame: pd.DataFrame, schema: Schema, kind: str | nn.Module | None, training: Training
) -> tuple[Problem, Encoder]:
    """What is to be learnt of a table or series, and its scaling: see `train`."""
    device = resolve_device(training.device)
    encoder = Encoder.fit(frame, schema)
    dtype = dtype_of(kind) if isinstance(kind, nn.Module) else torch.float32
    problem = pose(frame, encoder, device, dtype)
    if 0 in problem.input_shape:
        raise SchemaError(
            f"there is nothing to predict {' and '.join(schema.targets)} from",
            expected="at least one feature, or a frozen column that is not constant",
            where="columns",
            remedy="add columns, or declare the time axis under series",
        )
    return problem, encoder


def fit_network(
    problem: Problem,
    encoder: Encoder,
    items: tuple[Tensor, Tensor, Tensor],
    kind: str | nn.Module | None,
    arguments: Mapping[str, Any] | None,
    training: Training,
    on_epoch: Callable[[Epoch], None] | None,
    weights: Mapping[str, Tensor] | None = None,
) -> Backbone:
    """Fit a network to some items.

    Args:
        problem: All of them.
        encoder: Their scaling.
        items: Those to fit to, those held out for early stopping, and those on which it is judged.
        kind: See `train`, as are the others.
        arguments: Of the backbone.
        training: How to fit.
        on_epoch: Called after each epoch.
        weights: To go on from; None draws them.
    """
    fitted, held_out, judged = items
    if not len(fitted) or not len(held_out):
        raise TooFewRowsError("the held-out part leaves nothing to train on", where="backbone.training.holdout")
    device = problem.cells.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(training.seed)
        if isinstance(kind, nn.Module):
            module = copy.deepcopy(kind)
        else:
            usual = backbones.DEFAULTS["table" if encoder.schema.series is None else "series"]
            module = backbones.build(kind or usual, problem.input_shape, problem.outputs, arguments)
        module.to(device)
        require_fit(module, problem)
        loss, goes_on = _criterion(training.criterion, encoder), weights is not None
        if weights is not None:
            _take(weights, module)
        history = _fit(module, problem, fitted, held_out, training, loss, on_epoch, goes_on)
    return _judged(module, encoder, problem, judged, training, history)


def assess(
    frame: pd.DataFrame,
    schema: Schema | Encoder,
    module: nn.Module,
    training: Training | None = None,
) -> Backbone:
    """Take a network that is trained already, and measure on these data what it is worth.

    Args:
        frame: Shape (rows, columns), in the user's units.
        schema: The scaling that the network was trained with; or the roles of the columns, and it is taken to read
            inputs standardised as `Encoder.fit` does.
        module: The network; not changed.
        training: What is held out, and the device. Items that the network was trained on flatter it.

    Raises:
        SchemaError, TimeAxisError, TooFewRowsError: If the data cannot be used.
        ConfigError: If the network does not fit the data.
    """
    training = training or Training()
    encoder = schema if isinstance(schema, Encoder) else Encoder.fit(frame, schema)
    problem = pose(frame, encoder, resolve_device(training.device), dtype_of(module))
    require_fit(module, problem)
    _, held_out = problem.split(training.holdout, training.seed)
    return _judged(module, encoder, problem, held_out, training, ())


def _judged(
    module: nn.Module,
    encoder: Encoder,
    problem: Problem,
    held_out: Tensor,
    training: Training,
    history: tuple[Epoch, ...],
) -> Backbone:
    loss = _criterion(training.criterion, encoder)
    predicted, y = predictions(module, problem, held_out)
    return Backbone(
        module=module.cpu(),
        encoder=encoder,
        skill=dict(zip(encoder.schema.outputs, loss.skill(predicted, y).tolist(), strict=True)),
        residual_scale=float(loss.residual(predicted, y).square().mean().sqrt()),
        history=history,
        criterion=training.criterion,
    )


def _criterion(named: str | Callable[[Tensor, Tensor], Tensor] | None, encoder: Encoder) -> Criterion:
    chosen = criterion(named or ("cross_entropy" if encoder.classes else "mse"))
    if isinstance(chosen, CrossEntropy) != bool(encoder.classes):
        raise ConfigError(
            "the criterion does not fit the targets",
            expected="cross_entropy for classes, and anything else for numbers",
            found=f"{named!r} for {'classes' if encoder.classes else 'numbers'}",
            where=CRITERION.where,
        )
    return chosen


def _require_judges(found: int) -> None:
    if found < FEWEST_ITEMS:
        raise TooFewRowsError(
            "too few of the held-out rows are new to the network that training is to go on from",
            expected=f"at least {FEWEST_ITEMS}, to judge it by",
            found=f"{found:,}",
            remedy="collect more data, or begin with random weights",
        )


def _take(weights: Mapping[str, Tensor], module: nn.Module) -> None:
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ConfigError(
            "the weights to go on from are those of another network", found=str(error).splitlines()[0][:200]
        ) from None


def _fit(
    module: nn.Module,
    problem: Problem,
    fitted: Tensor,
    held_out: Tensor,
    training: Training,
    loss: Criterion,
    on_epoch: Callable[[Epoch], None] | None,
    goes_on: bool,
) -> tuple[Epoch, ...]:
    condition: Callable[[Tensor, Tensor], None] | None = getattr(module, "condition", None)
    if condition is not None:
        condition(*problem.gather(fitted[:EVALUATION_BATCH]))
        return ()
    optimiser = torch.optim.AdamW(module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, training.epochs))
    generator = torch.Generator().manual_seed(training.seed)
    best, best_weights, waited = math.inf, copy.deepcopy(module.state_dict()), 0
    if goes_on:
        best = _mean_loss(module, problem, held_out, loss)
    history = []
    for number in range(1, training.epochs + 1):
        module.train()
        total = 0.0
        order = fitted[torch.randperm(len(fitted), generator=generator).to(fitted.device)]
        for items in torch.split(order, training.batch_size):
            if len(items) == 1 and len(order) > 1:
                continue
            x, y = problem.gather(items)
            cost = loss.loss(module(x).reshape(len(x), -1), y).mean() / y.shape[1]
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(cost)
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            total += float(cost.detach()) * len(items)
        schedule.step()
        epoch = Epoch(number, total / len(order), _mean_loss(module, problem, held_out, loss))
        history.append(epoch)
        if not math.isfinite(epoch.holdout_loss):
            raise DenogradError(
                "training diverged: the held-out loss is not finite",
                where=f"epoch {number}",
                remedy="lower backbone.training.learning_rate",
            )
        if on_epoch is not None:
            on_epoch(epoch)
        if epoch.holdout_loss < best:
            best, best_weights, waited = epoch.holdout_loss, copy.deepcopy(module.state_dict()), 0
        else:
            waited += 1
            if waited >= training.patience:
                break
    module.load_state_dict(best_weights)
    return tuple(history)


def _mean_loss(module: nn.Module, problem: Problem, items: Tensor, loss: Criterion) -> float:
    predicted, targets = predictions(module, problem, items)
    return float(loss.loss(predicted, targets).mean() / targets.shape[1])
