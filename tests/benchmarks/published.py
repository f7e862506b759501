"""The published releases as methods of the measuring stand.

As their documentation asks: a network is trained on the noisy data, frozen, and the release's own `fit` and `transform`
follow, with everything at its default. The network is the one that our rule `denograd` trains with early stopping.

A release gets standardised single-precision arrays with missing cells imputed, and no dropout layers: it runs recurrent
networks in training mode. It knows no frozen columns: it moves them, and they are put back. It needs a target, so that
the test part comes back as it is. Each run of a series is refined by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denograd_engine import Training, train
from denograd_engine.bench.case import Contaminated, Denoised
from denograd_engine.errors import DenogradError
from denograd_engine.problem import Problem, Series, pose
from denograd_engine.windows import lay_out
from tests.benchmarks.contestants import Turned, convolves, quiet, released
from tests.benchmarks.works import without_dropout

Array: TypeAlias = NDArray[Any]
VERSIONS = {"published_1.1.0": "1.1.0", "published_2.0.0": "2.0.0"}
"""The release that each method is."""
METHODS = {
    "published_1.1.0": "published_1.1.0=tests.benchmarks.published:first",
    "published_2.0.0": "published_2.0.0=tests.benchmarks.published:second",
}
"""What the stand is told to measure, by name."""


@dataclass(frozen=True)
class Part:
    """What is refined by itself: a table, or one run of a series.

    Attributes:
        rows: Where its rows are in the problem's order, shape (rows,).
        x: What the network reads of each, shape (rows, C).
        y: The targets, shape (rows, T).
        channels: Which of the C are targets.
        fit: How the release is to read it.
        transform: How it is to refine it.
    """

    rows: Array
    x: Array
    y: Array
    channels: tuple[int, ...] = ()
    fit: Mapping[str, Any] = field(default_factory=dict)
    transform: Mapping[str, Any] = field(default_factory=dict)


Way: TypeAlias = Callable[[nn.Module, Part], tuple[Array, Array]]
"""From a network and a part to its x and y refined."""


def first(given: Contaminated, seed: int) -> Denoised:
    """Release 1.1.0."""
    return refined(given, seed, target_by_target(released("1.1.0")))


def second(given: Contaminated, seed: int) -> Denoised:
    """Release 2.0.0: its rule for tables, and its default strategy for series, the global objective."""
    return refined(given, seed, all_targets(released("2.0.0")))


def target_by_target(implementation: type[Any]) -> Way:
    """Release 1.1.0 takes one target: it gets them one after another, each with its output of the network, and with the
    inputs that the one before has left. A target that is an input as well counts as what it became as a target.
    """

    def way(module: nn.Module, part: Part) -> tuple[Array, Array]:
        x, columns = part.x, []
        for at, column in enumerate(part.y.T):
            x, moved = _run(implementation, _Output(module, at), x, column.copy(), part.fit, part.transform)
            columns.append(moved.reshape(-1))
        return x, np.column_stack(columns)

    return way


def all_targets(implementation: type[Any]) -> Way:
    """Release 2.0.0 takes all targets together; those that are inputs as well are one variable, not two."""

    def way(module: nn.Module, part: Part) -> tuple[Array, Array]:
        network = Turned(module) if part.fit and convolves(module) else module
        y = part.y[:, 0].copy() if part.y.shape[1] == 1 else part.y.copy()
        apart = y if not part.channels else None
        fit = {**part.fit, "target_cols": list(part.channels)} if part.channels else part.fit
        x, moved = _run(implementation, network, part.x, apart, fit, part.transform)
        return x, moved.reshape(part.y.shape)

    return way


def refined(given: Contaminated, seed: int, way: Way) -> Denoised:
    """Train a network on the noisy data, and let a release refine them.

    Raises:
        DenogradError: If the targets are classes, or a series is read in a way that the releases do not know.
    """
    series = given.schema.series
    if given.schema.label is not None or (series is not None and (len(series.horizons) > 1 or series.flatten)):
        raise DenogradError(
            "the published releases cannot refine these data",
            expected="numbers as targets; of a series, windows as they are and one step ahead",
        )
    backbone = train(given.train, given.schema, training=Training(seed=seed, device="cpu"))
    module = without_dropout(backbone.module)
    problem = pose(given.train, backbone.encoder, torch.device("cpu"), torch.float32)
    cells, context = problem.cells.numpy(), problem.context.shape[1]
    after = cells.copy()
    for part in _parts(given, problem):
        x, y = way(module, part)
        after[part.rows, : x.shape[1] - context] = x[:, : x.shape[1] - context]
        after[part.rows[:, None], problem.target_at] = y
    shift = np.zeros_like(cells)
    shift[problem.order] = np.where(problem.movable.numpy(), after - cells, 0.0)
    return Denoised(backbone.encoder.restore(given.train, shift), given.test)


def _parts(given: Contaminated, problem: Problem) -> Iterator[Part]:
    series = given.schema.series
    transform = {} if problem.targets_move() else {"denoise_y": False}
    if series is None or not isinstance(problem, Series):
        inputs, targets = problem.gather(problem.known)
        yield Part(problem.known.numpy(), inputs.numpy(), targets.numpy(), transform=transform)
        return
    x, y = problem.steps.numpy(), problem.cells[:, list(problem.target_at)].numpy()
    channels = problem.target_at if series.targets_as_inputs else ()
    fit = {"is_ts": True, "window_size": series.window, "future": series.horizons[0], "stride": series.stride}
    start = 0
    for length in lay_out(given.train, series).runs:
        rows = np.arange(start, start + length)
        start += length
        if length >= series.span:
            yield Part(rows, x[rows], y[rows], channels, fit, transform)


def _run(
    implementation: type[Any],
    module: nn.Module,
    x: Array,
    y: Array | None,
    fit: Mapping[str, Any],
    transform: Mapping[str, Any],
) -> tuple[Array, Array]:
    """It changes the arrays that it gets."""
    with quiet():
        denoiser = implementation(module, nn.MSELoss(), device=torch.device("cpu")).fit(x.copy(), y, **fit)
        found = denoiser.transform(save_gradients=False, **transform)
    return np.asarray(found[0]), np.asarray(found[1])


class _Output(nn.Module):
    """One output of a network with several."""

    def __init__(self, module: nn.Module, at: int) -> None:
        super().__init__()
        self.module, self.at = module, at

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.module(x)
        return predicted.reshape(len(x), -1)[:, self.at : self.at + 1]
