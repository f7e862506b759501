"""The floor: forward, and backward to the input only, on inputs that lie ready. No refinement can do with less per
item that it moves, unless it computes what overlapping windows share only once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.benchmarks.clock import wait_for

BATCHES = (256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
PASSES = 3
"""Passes over the data with each batch size; the fastest counts."""
PATIENCE = 2
"""Batch sizes in a row, each slower than the best, after which the search ends."""
SEARCH_SECONDS = 3.0
"""Time for one batch size, after which its passes end."""


@dataclass(frozen=True)
class Floor:
    """A network and its inputs, in batches of the best size.

    Attributes:
        module: In evaluation mode, its weights frozen.
        batches: Leaves that want a gradient, each contiguous.
        batch_size: The best found.
        grid: Milliseconds of the fastest pass with each batch size tried.
    """

    module: nn.Module
    batches: list[Tensor]
    batch_size: int
    grid: dict[int, float]

    def prepare(self, epochs: int) -> Callable[[], int]:
        return lambda: _run(self.module, self.batches, epochs)


def find_floor(module: nn.Module, inputs: Tensor, device: torch.device) -> Floor:
    """The fastest batch size of a small grid.

    On a GPU, cuDNN's recurrent layers run backward only in training mode, so those alone are in it: without dropout
    it changes nothing but the speed.
    """
    module = module.to(device).eval().requires_grad_(False)
    if device.type == "cuda":
        for part in module.modules():
            if isinstance(part, nn.RNNBase):
                part.train()
    inputs = inputs.to(device)
    sizes = [size for size in BATCHES if size < len(inputs)]
    grid: dict[int, float] = {}
    worse = 0
    for size in [*sizes, len(inputs)]:
        best = min(grid.values(), default=math.inf)
        grid[size] = _fastest_pass(module, _leaves(inputs, size), device)
        worse = 0 if grid[size] < best else worse + 1
        if worse == PATIENCE:
            break
    batch_size = min(grid, key=lambda size: grid[size])
    return Floor(module, _leaves(inputs, batch_size), batch_size, grid)


def _leaves(inputs: Tensor, size: int) -> list[Tensor]:
    return [part.detach().requires_grad_() for part in torch.split(inputs, size)]


def _fastest_pass(module: nn.Module, batches: list[Tensor], device: torch.device) -> float:
    _run(module, batches[:2], 1)
    passes: list[float] = []
    while len(passes) < PASSES and sum(passes) < SEARCH_SECONDS:
        wait_for(device)
        started = time.perf_counter()
        _run(module, batches, 1)
        wait_for(device)
        passes.append(time.perf_counter() - started)
    return min(passes) * 1000


def _run(module: nn.Module, batches: list[Tensor], epochs: int) -> int:
    ones = torch.ones(len(batches[0]), 1, device=batches[0].device, dtype=batches[0].dtype)
    for _ in range(epochs):
        for x in batches:
            torch.autograd.grad(module(x), x, grad_outputs=ones[: len(x)])
    return epochs
