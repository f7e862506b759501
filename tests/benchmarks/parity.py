"""Do `denograd_engine.compat` and the engine's own rule compute what release 1.1.0 computes?

    python -m tests.benchmarks.parity

Same model, same data, 20 epochs. Prints the largest absolute differences of each case, writes `.bench/parity.json`,
and exits with 1 if any exceeds 1e-4. Only what release 1.1.0 computes as published is compared: one target, no
dropout, no frames (it fails on those of pandas 3), no flattened windows of several columns.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denograd_engine.compat import DenoGrad
from denograd_engine.descent import Settings, Stop
from denograd_engine.devices import frozen
from denograd_engine.problem import Rows
from denograd_engine.rows_loop import refine_rows
from denograd_engine.rules import rule
from tests.benchmarks.peer import BENCH, imported

VERSION = "1.1.0"
EPOCHS = 20
TOLERANCE = 1e-4
ROWS, COLUMNS = 200, 5
STEPS, CHANNELS, WINDOW = 300, 3, 8

Array: TypeAlias = NDArray[Any]
Denoised: TypeAlias = tuple[Array, Array, list[Array], list[Array]]


class Recurrent(nn.Module):
    """A recurrent layer and a linear head on its last step."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = layer(CHANNELS, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Convolutional(nn.Module):
    """A convolution over time inside a model, which turns windows itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(CHANNELS, 6, 3)
        self.head = nn.Linear(6 * (WINDOW - 2), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x.transpose(1, 2))).flatten(1))


class ItselfConvolution(nn.Conv1d):
    """A model that is a convolution: it gets windows as (b, columns, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh().mean(dim=(1, 2))


@dataclass(frozen=True)
class Case:
    name: str
    model: Callable[[], nn.Module]
    X: Array
    y: Array
    fit: Mapping[str, Any] = field(default_factory=dict)
    transform: Mapping[str, Any] = field(default_factory=dict)
    criterion: Callable[[], nn.Module] = nn.MSELoss

    def run(self, implementation: Any) -> Denoised:
        model = self.model()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            denoiser = implementation(model, self.criterion(), device="cpu")
            denoiser.fit(self.X.copy(), self.y.copy(), **self.fit)
            return denoiser.transform(max_epochs=EPOCHS, **self.transform)


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences; None where the case has no such thing to compare."""

    case: str
    x: float
    y: float
    gradients_x: float | None
    gradients_y: float | None
    moved: float

    @property
    def largest(self) -> float:
        return max(value for value in (self.x, self.y, self.gradients_x, self.gradients_y) if value is not None)


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same weights at every call, in evaluation mode."""
    torch.manual_seed(0)
    made = make().eval()
    return lambda: copy.deepcopy(made)


def cases() -> Iterator[Case]:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(ROWS, COLUMNS)), random.normal(size=ROWS)
    table = seeded(lambda: nn.Sequential(nn.Linear(COLUMNS, 16), nn.Tanh(), nn.Linear(16, 1)))
    single_X, single_y = X.astype(np.float32), y.astype(np.float32)
    yield Case("table, float32", table, single_X, single_y)
    yield Case("table, float64", table, X, y)
    yield Case("table, y (n, 1), batches of 64", table, single_X, single_y[:, None], transform={"batch_size": 64})
    yield Case("table, batches of 7", table, single_X, single_y, transform={"batch_size": 7})
    yield Case("table, denoise_y=False", table, single_X, single_y, transform={"denoise_y": False})
    yield Case("table, no gradients saved", table, single_X, single_y, transform={"save_gradients": False})
    yield Case("table, wide gate", table, single_X, single_y, transform={"nrr": 0.1, "nr_threshold": 0.5})
    yield Case("table, all within the gate", table, single_X, single_y, transform={"nr_threshold": 100.0})
    yield Case("table, Huber loss", table, single_X, single_y, criterion=nn.HuberLoss)
    yield Case("table, sum of absolutes", table, single_X, single_y, criterion=lambda: nn.L1Loss(reduction="sum"))

    S = random.normal(size=(STEPS, CHANNELS)).astype(np.float32)
    z = random.normal(size=STEPS).astype(np.float32)
    flat = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(WINDOW * CHANNELS, 16), nn.Tanh(), nn.Linear(16, 1)))
    series = {"is_ts": True, "window_size": WINDOW}
    for stride in (1, 3):
        for future in (1, 2):
            fit = {**series, "stride": stride, "future": future}
            yield Case(f"series, stride {stride}, future {future}", flat, S, z, fit)
    yield Case("series, float64", flat, S.astype(np.float64), z.astype(np.float64), series)
    yield Case("series, batches of 37", flat, S, z, series, {"batch_size": 37})
    yield Case("series, y (T, 1)", flat, S, z[:, None], series)
    yield Case("series, denoise_y=False", flat, S, z, series, {"denoise_y": False})
    yield Case("series, wide gate, none saved", flat, S, z, series, {"nr_threshold": 1.0, "save_gradients": False})
    one = seeded(lambda: nn.Sequential(nn.Linear(WINDOW, 16), nn.Tanh(), nn.Linear(16, 1)))
    yield Case("series, one channel, flattened", one, S[:, 0], z, {**series, "flattening": True})
    for layer in (nn.LSTM, nn.GRU):
        yield Case(f"series, {layer.__name__}", seeded(lambda layer=layer: Recurrent(layer)), S, z, series)
    yield Case("series, convolution inside", seeded(Convolutional), S, z, series)
    yield Case("series, model is a convolution", seeded(lambda: ItselfConvolution(CHANNELS, 2, 3)), S, z, series)


def compare(case: Case, peer: Any) -> Difference:
    theirs, ours = case.run(peer), case.run(DenoGrad)
    moved = max(_largest(ours[0] - case.X), _largest(ours[1] - case.y))
    gradients = [_largest_in_lists(ours[at], theirs[at]) for at in (2, 3)]
    return Difference(case.name, _largest(ours[0] - theirs[0]), _largest(ours[1] - theirs[1]), *gradients, moved)


def compare_engine(case: Case, peer: Any) -> Difference:
    """The engine's own loop and rule with the same tau and eta, on a table without frozen columns."""
    theirs = case.run(peer)
    cells = torch.from_numpy(np.column_stack([case.X, case.y]))
    everything = torch.ones_like(cells, dtype=torch.bool)
    rows = np.arange(len(cells))
    problem = Rows(cells, cells[:, :0], everything, torch.from_numpy(rows), rows, tuple(range(COLUMNS, cells.shape[1])))
    eta, tau, batch_size = (case.transform[name] for name in ("nrr", "nr_threshold", "batch_size"))
    with frozen(case.model(), torch.device("cpu")) as module:
        shift = refine_rows(module, problem, Settings(rule("denograd", eta), tau, EPOCHS, batch_size), Stop()).shift
    refined = (cells + shift).numpy()
    x, y = refined[:, :COLUMNS], refined[:, COLUMNS:].reshape(case.y.shape)
    return Difference(case.name, _largest(x - theirs[0]), _largest(y - theirs[1]), None, None, _largest(shift.numpy()))


def engine_cases() -> Iterator[Case]:
    plain = next(cases())
    for eta, tau, batch_size in ((0.05, 0.01, 1000), (0.02, 0.1, 64)):
        settings = {"nrr": eta, "nr_threshold": tau, "batch_size": batch_size}
        yield Case(f"engine's rule, table, eta {eta}, tau {tau}", plain.model, plain.X, plain.y, transform=settings)


def _largest(values: Array) -> float:
    """NaN, as an infinity, is never within a tolerance."""
    return float(np.nan_to_num(np.abs(values), nan=np.inf).max())


def _largest_in_lists(ours: list[Array], theirs: list[Array]) -> float | None:
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return max((_largest(a - b) for a, b in zip(ours, theirs, strict=True)), default=None)


def _line(*columns: str) -> str:
    return f"{columns[0]:38}" + "".join(f"{column:>13}" for column in columns[1:])


def main() -> int:
    torch.set_num_threads(1)
    with imported(VERSION) as peer:
        found = [compare(case, peer.DenoGrad) for case in cases()]
        found += [compare_engine(case, peer.DenoGrad) for case in engine_cases()]
    print(f"largest absolute differences from denograd {VERSION} after {EPOCHS} epochs")
    print(_line("case", "X", "y", "gradients X", "gradients y", "moved by"))
    for one in found:
        values = (one.x, one.y, one.gradients_x, one.gradients_y)
        print(_line(one.case, *("-" if value is None else f"{value:.1e}" for value in values), f"{one.moved:.2f}"))
    worst = max(one.largest for one in found)
    print(f"{len(found)} cases, largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    report = {"release": VERSION, "epochs": EPOCHS, "tolerance": TOLERANCE, "largest": worst}
    (BENCH / "parity.json").write_text(json.dumps({**report, "cases": [asdict(one) for one in found]}, indent=2) + "\n")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
