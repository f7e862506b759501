"""Do `denograd_engine.compat` and the engine's own rules compute what the published releases compute?

    python -m tests.benchmarks.parity

Same model, same data. Against release 1.1.0: `compat`, and the rule `denograd`, 20 epochs. Against release 2.0.0:
`gauss_newton`, unanchored, which is its rule for tables, 20 epochs; and `proximal`, which minimises its global
objective for series, on a linear backbone, where the minimum is one: the values that both reach are compared.

Prints the largest absolute differences of each case, writes `.bench/parity.json`, and exits with 1 if any exceeds
1e-4. Only what the releases compute as published is compared. Release 1.1.0: one target, no dropout, no frames (it
fails on those of pandas 3), no flattened windows of several columns. Release 2.0.0: targets that move too (where they
stay, it still counts their part of the gradient).
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denograd_engine.compat import DenoGrad
from denograd_engine.frames import Encoder, Scale
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import Series, infer_schema
from denograd_engine.training import Backbone
from tests.benchmarks.peer import BENCH, imported

FIRST, SECOND = "1.1.0", "2.0.0"
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
            apart = {} if "target_cols" in self.fit else {"y": self.y.copy()}
            denoiser.fit(self.X.copy(), **apart, **self.fit)
            return denoiser.transform(**{"max_epochs": EPOCHS, **self.transform})


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


def compare_rule(case: Case, peer: Any, rule: str, **arguments: Any) -> Difference:
    """One of the engine's own rules with the same tau and eta, on a table without frozen columns."""
    theirs = case.run(peer)
    eta, tau = case.transform["nrr"], case.transform["nr_threshold"]
    refining = Refining(rule, arguments, tau, eta, EPOCHS, batch_size=case.transform.get("batch_size"), device="cpu")
    frame = _frame(case.X, case.y)
    refined = refine(frame, _backbone(frame, "y", case.model()), refining).frame
    x, y = refined.iloc[:, :-1].to_numpy(), refined["y"].to_numpy().reshape(case.y.shape)
    moved = _largest(refined.to_numpy() - frame.to_numpy())
    return Difference(case.name, _largest(x - theirs[0]), _largest(y - theirs[1]), None, None, moved)


def compare_objective(case: Case, peer: Any) -> Difference:
    """The value that each reaches of mean r^2 + lam mean (z - z_obs)^2, means over windows and over all that moves.

    Its minimiser, by the normal equations, is the third. `x` is our distance from the peer's value, `y` from the least.
    """
    theirs = case.run(peer)
    target = case.fit.get("target_cols")
    frame = _frame(case.X, case.y if target is None else None)
    values, windows = frame.to_numpy(dtype=np.float64), len(frame) - WINDOW
    objective = _Quadratic(case, values, values.shape[1] - 1 if target is None else target)
    model, name = case.model().double(), str(frame.columns[objective.target])
    series = Series("t", window=WINDOW, targets_as_inputs=target is not None)
    timed = frame.astype(np.float64).assign(t=np.arange(float(len(frame))))
    s2 = windows * case.transform["lam"] / values.size
    refining = Refining("proximal", {"s2": s2}, tau=1e-12, max_epochs=case.transform["max_epochs"], device="cpu")
    refined = refine(timed, _backbone(timed, name, model, series), refining).frame[list(frame.columns)].to_numpy()
    x, y = theirs[0], np.asarray(theirs[1]).reshape(-1, 1)
    reached = objective(x if target is not None else np.concatenate([x, y], axis=1))
    ours, moved = objective(refined), _largest(refined - values)
    return Difference(case.name, abs(ours - reached), ours - objective.least, None, None, moved)


class _Quadratic:
    """The global objective of release 2.0.0 for a linear model of flattened windows."""

    def __init__(self, case: Case, observed: Array, target: int) -> None:
        self.observed, self.target, self.lam = observed, target, case.transform["lam"]
        steps, columns = observed.shape
        model = case.model().double()
        linear = model[-1]  # type: ignore[index]
        weight = linear.weight.detach().numpy().reshape(WINDOW, -1)
        self.map = np.zeros((steps - WINDOW, steps, columns))
        for start, one in enumerate(self.map):
            one[start : start + WINDOW, : weight.shape[1]] += weight
            one[start + WINDOW, target] -= 1.0
        self.map = self.map.reshape(len(self.map), -1)
        self.bias = float(linear.bias)

    def __call__(self, values: Array) -> float:
        residual = self.map @ values.ravel() + self.bias
        return float(np.square(residual).mean() + self.lam * np.square(values - self.observed).mean())

    @property
    def least(self) -> float:
        residual, windows, size = self.map @ self.observed.ravel() + self.bias, len(self.map), self.observed.size
        curvature = self.map.T @ self.map / windows + self.lam * np.eye(size) / size
        way = np.linalg.solve(curvature, self.map.T @ residual / windows)
        return self(self.observed - way.reshape(self.observed.shape))


def _frame(X: Array, y: Array | None) -> pd.DataFrame:
    frame = pd.DataFrame(X, columns=[f"x{at}" for at in range(X.shape[1])])
    return frame if y is None else frame.assign(y=y)


def _backbone(frame: pd.DataFrame, target: str, model: nn.Module, series: Series | None = None) -> Backbone:
    """The model as a backbone that reads the columns in their own units."""
    encoder = Encoder.fit(frame, infer_schema(frame, target, series=series))
    encoder = replace(encoder, scales=tuple(Scale(0.0, 1.0) for _ in encoder.scales))
    return Backbone(model, encoder, {}, float("nan"))


def rule_cases(settings: tuple[tuple[float, float, int], ...]) -> Iterator[Case]:
    for plain in [case for case in cases() if case.name in ("table, float32", "table, float64")]:
        for eta, tau, batch_size in settings:
            transform = {"nrr": eta, "nr_threshold": tau, "batch_size": batch_size}
            name = f"{plain.name}, eta {eta}, tau {tau}"
            yield replace(plain, name=name, transform=transform)


def objective_cases() -> Iterator[Case]:
    random = np.random.default_rng(1)
    S, z = (random.normal(size=shape).astype(np.float32) for shape in ((STEPS // 2, CHANNELS), STEPS // 2))
    flat = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(WINDOW * CHANNELS, 1)))
    fit = {"is_ts": True, "window_size": WINDOW}
    for lam in (1.0, 0.3):
        transform = {"max_epochs": 5000, "lam": lam, "tol": 0.0, "save_gradients": False}
        last = {**fit, "target_cols": CHANNELS - 1}  # the engine shows features first, then targets
        yield Case(f"target is an input, lam {lam}", flat, S, z, last, transform)
        yield Case(f"target apart, lam {lam}", flat, S, z, fit, transform)


def _largest(values: Array) -> float:
    """NaN, as an infinity, is never within a tolerance."""
    return float(np.nan_to_num(np.abs(values), nan=np.inf).max())


def _largest_in_lists(ours: list[Array], theirs: list[Array]) -> float | None:
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return max((_largest(a - b) for a, b in zip(ours, theirs, strict=True)), default=None)


def _line(*columns: str) -> str:
    return f"{columns[0]:38}" + "".join(f"{column:>13}" for column in columns[1:])


def report(version: str, found: list[Difference], what: tuple[str, ...]) -> None:
    print(f"\nlargest absolute differences from denograd {version}")
    print(_line("case", *what, "moved by"))
    for one in found:
        values = (one.x, one.y, one.gradients_x, one.gradients_y)[: len(what)]
        print(_line(one.case, *("-" if value is None else f"{value:.1e}" for value in values), f"{one.moved:.2f}"))


def main() -> int:
    torch.set_num_threads(1)
    cells, gradients = ("X", "y"), ("gradients X", "gradients y")
    with imported(FIRST) as peer:
        first = [compare(case, peer.DenoGrad) for case in cases()]
        own = [
            compare_rule(case, peer.DenoGrad, "denograd") for case in rule_cases(((0.05, 0.01, 1000), (0.02, 0.1, 64)))
        ]
    with imported(SECOND) as peer:
        settings = ((0.5, 0.01, 1000), (0.5, 0.3, 64), (1.0, 0.01, 1000), (0.2, 0.1, 1000))
        second = [compare_rule(case, peer.DenoGrad, "gauss_newton", anchored=False) for case in rule_cases(settings)]
        objectives = [compare_objective(case, peer.DenoGrad) for case in objective_cases()]
    report(f"{FIRST} after {EPOCHS} epochs, compat", first, cells + gradients)
    report(f"{FIRST} after {EPOCHS} epochs, rule denograd", own, cells)
    report(f"{SECOND} after {EPOCHS} epochs, rule gauss_newton, unanchored", second, cells)
    report(f"{SECOND}'s global objective, rule proximal", objectives, ("from theirs", "from least"))
    found = {FIRST: first + own, SECOND: second + objectives}
    worst = max(one.largest for some in found.values() for one in some)
    print(f"\n{sum(map(len, found.values()))} cases, largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    releases = {version: [asdict(one) for one in some] for version, some in found.items()}
    written = {"epochs": EPOCHS, "tolerance": TOLERANCE, "largest": worst, "releases": releases}
    (BENCH / "parity.json").write_text(json.dumps(written, indent=2) + "\n")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
