"""Training a network to denoise without clean data: it learns to remove noise that was added to the noisy data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN = 0.3
"""Std of the noise that is added to a column whose own noise is unknown, in standardised units."""
CHECKS = 20
"""Times that the held-out loss is looked at."""
PATIENCE = 5
"""Of these, how many may pass without improvement."""
MOST_HELD_OUT = 4096
BLOCK = 4096
"""Items that are denoised at once."""


@dataclass(frozen=True)
class Fitting:
    """How a network is fitted.

    Attributes:
        steps: Of AdamW, at most.
        batch_size: Items in one step.
        learning_rate: At the start; it falls to zero along half a cosine.
        holdout: Share of the items held out.
    """

    steps: int
    batch_size: int
    learning_rate: float = 2e-3
    holdout: float = 0.1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator on the CPU, and leave it afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def fit_denoiser(
    network: nn.Module,
    items: NDArray[np.float64],
    present: NDArray[np.bool_],
    noise: NDArray[np.float64],
    fitting: Fitting,
    ordered: bool,
    on_progress: Callable[[float], None] | None = None,
) -> float:
    """Fit the network in place, on the CPU; it keeps the weights of the least held-out loss. Call within `seeded`.

    Every batch gets fresh Gaussian noise of each column's own size, and the loss is the squared distance from the
    items as they were. Where the noise is that of the data, what is learnt points from the data towards the clean
    data, about half of the way (Alain and Bengio 2014; Moran et al. 2020).

    Args:
        network: Maps (items, P, width) to the same shape.
        items: Shape (items, P, width), complete.
        present: Likewise; False where a cell was filled, which then counts for nothing.
        noise: Shape (P,), see `Baseline.fit`. Columns without noise get none, and do not count.
        fitting: How to fit.
        ordered: Whether neighbouring items resemble each other: the last ones are held out, else random ones.
        on_progress: Told before each step which share of the training is over.

    Returns:
        The least held-out loss; infinite where there was nothing to fit.
    """
    order = torch.arange(len(items)) if ordered else torch.randperm(len(items))
    x = torch.from_numpy(items.astype(np.float32))[order]
    weight = torch.from_numpy((present & (noise != 0)[:, None]).astype(np.float32))[order]
    std = torch.from_numpy(np.where(np.isnan(noise), UNKNOWN, noise).astype(np.float32))[:, None]
    held_out = min(max(1, round(fitting.holdout * len(x))), MOST_HELD_OUT)
    fitted = len(x) - held_out
    if fitted < 1 or not weight.any():
        return math.inf

    def loss(at: Tensor, added: Tensor) -> Tensor:
        squares = (network(x[at] + added * std) - x[at]).square() * weight[at]
        mean: Tensor = squares.sum() / weight[at].sum().clamp(min=1)
        return mean

    judged = torch.arange(fitted, len(x))
    judged_noise = torch.randn(x[judged].shape)
    optimizer = torch.optim.AdamW(network.parameters(), lr=fitting.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / fitting.steps))
    )
    best, weights, since = math.inf, copy.deepcopy(network.state_dict()), 0
    every = max(1, fitting.steps // CHECKS)
    for step in range(1, fitting.steps + 1):
        if on_progress is not None:
            on_progress((step - 1) / fitting.steps)
        at = torch.randint(fitted, (fitting.batch_size,))
        optimizer.zero_grad()
        loss(at, torch.randn(x[at].shape)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == fitting.steps:
            with torch.no_grad():
                found = float(loss(judged, judged_noise))
            since += 1
            if found < best:
                best, weights, since = found, copy.deepcopy(network.state_dict()), 0
            if since == PATIENCE:
                break
    network.load_state_dict(weights)
    return best


def denoised_by(network: nn.Module, items: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the network makes of these items, shape (items, P, width), a block at a time."""
    x = torch.from_numpy(items.astype(np.float32))
    with torch.no_grad():
        blocks = [network(x[at : at + BLOCK]) for at in range(0, len(x), BLOCK)]
    return torch.cat([x[:0], *blocks]).numpy().astype(np.float64)
