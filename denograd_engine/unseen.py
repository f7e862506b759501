"""What models are worth on rows that they were not fitted to, so that two of them can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from denograd_engine.asking import predictions, require_fit
from denograd_engine.devices import dtype_of
from denograd_engine.folds import fold_of, placed, predicting, stands_for
from denograd_engine.posterior.faults import stuck
from denograd_engine.posterior.fitting import LOOKED_AT
from denograd_engine.posterior.folds import folds_of
from denograd_engine.problem import Series, pose

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.frames import Encoder
    from denograd_engine.posterior.model import Posterior
    from denograd_engine.training import Backbone, Training

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Worth:
    """What a model is worth on some rows.

    Attributes:
        skill: Of each output, see `Backbone`; of a posterior model, of each column with noise. Empty without any rows.
        rows: Rows, or windows, that it was judged on.
    """

    skill: Mapping[str, float]
    rows: int


def held_out(frame: pd.DataFrame, encoder: Encoder, training: Training) -> NDArray[np.bool_]:
    """Rows that `train` does not fit a network to, shape (rows,); of windows, those that they predict.

    Raises:
        SchemaError, TimeAxisError, TooFewRowsError: If the data do not fit the encoder.
    """
    problem = pose(frame, encoder, CPU, torch.float32)
    _, items = problem.split(training.holdout, training.seed)
    rows = items
    if isinstance(problem, Series):
        rows = problem.windows.ahead(problem.windows.starts[items]).flatten()
    found = np.zeros(len(frame), dtype=bool)
    found[problem.order[rows.numpy()]] = True
    return found


def worth(frame: pd.DataFrame, backbone: Backbone, rows: NDArray[np.bool_]) -> Worth:
    """What a network is worth on some rows; where it is cross-fitted, each is judged by the network of its fold.

    Args:
        frame: Shape (rows, columns), in the user's units.
        backbone: On the CPU.
        rows: Which rows count, shape (rows,); of windows, those that predict nothing else.

    Raises:
        SchemaError, TimeAxisError, TooFewRowsError: If the data do not fit its scaling.
        ConfigError: If the network does not fit the data.
    """
    problem = pose(frame, backbone.encoder, CPU, dtype_of(backbone.module))
    items = problem.known[predicting(problem, placed(problem, rows))[problem.known]]
    if not len(items):
        return Worth({}, 0)
    networks, schema = backbone.networks, backbone.encoder.schema
    fold = torch.zeros(len(items), dtype=torch.int64)
    if len(networks) > 1:
        fold = placed(problem, fold_of(frame, schema, len(networks)))[stands_for(problem, items)]
    parts = []
    for number, network in enumerate(networks):
        require_fit(network, problem)
        if bool((fold == number).any()):
            parts.append(predictions(network, problem, items[fold == number]))
    predicted, known = (torch.cat(list(each)) for each in zip(*parts, strict=True))
    skill = backbone.loss.skill(predicted, known).tolist()
    return Worth(dict(zip(schema.outputs, skill, strict=True)), len(items))


def worth_blind(frame: pd.DataFrame, model: Posterior, rows: NDArray[np.bool_]) -> Worth:
    """What a posterior model is worth on some rows: 1 less the mean squared residual over the variance.

    Each cell is predicted without itself, by the model of its item's fold.

    Args:
        frame: Shape (rows, columns), in the user's units.
        model: On the CPU.
        rows: Which rows count, shape (rows,).

    Raises:
        SchemaError, TimeAxisError: If the data do not fit its scaling.
    """
    contexts, task = model.contexts(frame, CPU), model.task(CPU)
    if model.faults is not None:
        contexts = contexts.without(stuck(contexts))
    shape, fold = task.shape(contexts, model.fit), folds_of(contexts, model.fit.folds)
    asked = torch.from_numpy(rows[contexts.order])
    away = torch.zeros_like(contexts.cells[:, task.columns])
    for number, member in enumerate(model.members):
        for part in torch.split((asked & (fold == number)).nonzero().squeeze(1), LOOKED_AT):
            said = member.mixture(contexts, part, shape, task).expected()
            away[part] = said - contexts.cells[part][:, task.columns]
    names, skill = model.encoder.schema.cells, {}
    for at, column in enumerate(task.columns.tolist()):
        there = asked & contexts.present[:, column]
        if bool(there.any()):
            spread = contexts.cells[there, column].double().var(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
            skill[names[column]] = 1 - float(away[there, at].double().square().mean() / spread)
    return Worth(skill, int(asked.sum()) if skill else 0)
