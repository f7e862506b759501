"""What a network says of items, and whether it has anything to say of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from denograd_engine.devices import frozen
from denograd_engine.errors import ConfigError
from denograd_engine.problem import Problem

EVALUATION_BATCH = 8192


def predictions(module: nn.Module, problem: Problem, items: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions for these items, shape (items, outputs), and their targets, shape (items, T)."""
    predicted, targets = [], []
    with torch.no_grad(), frozen(module, problem.cells.device):
        for batch in torch.split(items, EVALUATION_BATCH):
            x, y = problem.gather(batch)
            predicted.append(module(x).reshape(len(x), -1))
            targets.append(y)
    return torch.cat(predicted), torch.cat(targets)


def require_fit(module: nn.Module, problem: Problem) -> None:
    """Refuse a network that does not map these inputs to these targets.

    Raises:
        ConfigError: Says what it does instead.
    """
    x, _ = problem.gather(problem.known[:2])
    found = None
    try:
        with torch.no_grad(), frozen(module, x.device):
            shape = tuple(module(x).shape)
    except RuntimeError as error:
        found = str(error).partition("\n")[0]
    except Exception as error:  # a network of the user's may raise anything, and put the data in its words
        found = f"{type(error).__name__} in its forward pass"
    else:
        if math.prod(shape) != len(x) * problem.outputs:
            found = f"predictions of shape {shape} for {len(x)} items"
    if found is not None or not list(module.parameters()):
        targets = f"{problem.outputs} output" + "s" * (problem.outputs > 1)
        raise ConfigError(
            "the backbone does not fit the data",
            expected=f"a network with weights that maps inputs of shape {problem.input_shape} to {targets}",
            found=found,
            where="backbone.kind",
        )
