"""Cross-fitting: a network for each fold of the data, so that each row is refined by one that never saw it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from denograd_engine.errors import ConfigError, TooFewRowsError
from denograd_engine.folds import fold_of, predicting, touching
from denograd_engine.training import Backbone, Epoch, Training, fit_network, posed

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.schema import Schema

FEWEST_OF_FOLD = 10
"""Rows or windows of a fold on which the network that did not see it is judged."""


def train_folds(
    frame: pd.DataFrame,
    schema: Schema,
    folds: int,
    kind: str | nn.Module | None = None,
    arguments: Mapping[str, Any] | None = None,
    training: Training | None = None,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> Backbone:
    """Fit a backbone of several networks, each to all folds but one; `refine` gives each the fold that it left out.

    Rows of a table fall into folds by their content, so that equal rows share one; steps of a series in contiguous
    blocks, and windows that show or predict a step of the fold are left out of training. The scaling is that of the
    whole. (Cross-fitting: Chernozhukov et al., 2018; deviation: folds are not drawn at random.)

    Args:
        frame: Shape (rows, columns), in the user's units.
        schema: The roles of the columns.
        folds: How many, at least 2.
        kind: See `train`, as are the next two.
        arguments: Of the backbone.
        training: How each network is fitted.
        on_epoch: Called after each epoch with the number of the fold, from 0 on.

    Returns:
        A backbone whose `skill` is the mean over the networks, each judged on the fold that it never saw, whose
        `residual_scale` is their root mean square, and whose `history` is the mean over those still learning.

    Raises:
        SchemaError, TimeAxisError, ConfigError: See `train`.
        TooFewRowsError: If a fold, or what is left without it, is too small.
    """
    if folds < 2:
        raise ConfigError("there must be at least 2 folds", found=str(folds), where="backbone.training.folds")
    training = training or Training()
    problem, encoder = posed(frame, schema, kind, training)
    fold = torch.from_numpy(fold_of(frame, schema, folds)[problem.order]).to(problem.cells.device)
    fitted: list[Backbone] = []
    for number in range(folds):
        left_out = fold == number
        seen = problem.known[~touching(problem, left_out)[problem.known]]
        judged = problem.known[predicting(problem, left_out)[problem.known]]
        if len(judged) < FEWEST_OF_FOLD or len(seen) < FEWEST_OF_FOLD:
            raise TooFewRowsError(
                "a fold leaves too little to train on, or to judge by",
                expected=f"at least {FEWEST_OF_FOLD} rows or windows in a fold, and as many that do not touch it",
                found=f"{len(judged):,}, and {len(seen):,}",
                where="backbone.training.folds",
                remedy="choose fewer folds" if len(judged) < FEWEST_OF_FOLD else "choose a shorter series.window",
            )
        parts = replace(problem, known=seen).split(training.holdout, training.seed)
        told = None if on_epoch is None else _of_fold(on_epoch, number)
        fitted.append(fit_network(problem, encoder, (*parts, judged), kind, arguments, training, told))
    return Backbone(
        module=nn.ModuleList([one.module for one in fitted]),
        encoder=encoder,
        skill={name: float(np.mean([one.skill[name] for one in fitted])) for name in fitted[0].skill},
        residual_scale=float(np.sqrt(np.mean([one.residual_scale**2 for one in fitted]))),
        history=_mean_history([one.history for one in fitted]),
        criterion=training.criterion,
    )


def _of_fold(on_epoch: Callable[[int, Epoch], None], number: int) -> Callable[[Epoch], None]:
    return lambda epoch: on_epoch(number, epoch)


def _mean_history(histories: list[tuple[Epoch, ...]]) -> tuple[Epoch, ...]:
    found = []
    for at in range(max(map(len, histories))):
        still = [history[at] for history in histories if at < len(history)]
        train, holdout = (
            float(np.mean([getattr(one, loss) for one in still])) for loss in ("train_loss", "holdout_loss")
        )
        found.append(Epoch(at + 1, train, holdout))
    return tuple(found)
