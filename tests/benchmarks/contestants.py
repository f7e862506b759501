"""Who competes: our `refine`, our class `DenoGrad`, and the published releases, each with the same weights and data.

A published release gets standardised single-precision arrays, a copy of the network and of the arrays each time (it
changes them), no gradients to keep, and its default batch size. Making the copies is not timed; construction, `fit`
and `transform` are. Its target is an array of shape (rows,), except that release 2.0.0 reads a series whose target is
one of its channels, which it takes as `target_cols`.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from denograd_engine import DenoGrad, Refining, refine
from tests.benchmarks.clock import Failed
from tests.benchmarks.peer import imported
from tests.benchmarks.works import Claim, Work

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Ours:
    """`refine`, frame in and frame out."""

    work: Work
    claim: Claim
    device: torch.device

    def prepare(self, epochs: int) -> Callable[[], int]:
        work = self.work
        eta: float | Literal["auto"] = work.eta if self.claim.rule == "denograd" else "auto"
        settings = Refining(self.claim.rule, tau=work.tau, eta=eta, max_epochs=epochs, device=str(self.device))
        frame, backbone = work.frame, work.backbone
        return lambda: refine(frame, backbone, settings).totals.epochs


@dataclass(frozen=True)
class Publication:
    """The interface of the published package, in a release or ours."""

    work: Work
    implementation: type[Any]
    device: torch.device
    batch_size: int
    fit: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, Any] = field(default_factory=dict)
    channels_first: bool = False

    def prepare(self, epochs: int) -> Callable[[], int]:
        work = self.work
        module = work.module()
        passed = _Counter(module)
        network = Turned(module) if self.channels_first and convolves(module) else module
        cells = work.cells.copy()
        autoregressive = "target_cols" in self.fit
        X = cells if autoregressive or work.window is not None else cells[:, :-1].copy()
        y = None if autoregressive else cells[:, -1].copy()
        axis = {} if work.window is None else {"is_ts": True, "window_size": work.window, "future": 1}
        limits = {"max_epochs": epochs, "batch_size": self.batch_size, "save_gradients": False}

        def run() -> int:
            with quiet():
                denoiser = self.implementation(network, nn.MSELoss(), device=self.device)
                denoiser.fit(X, y, **axis, **self.fit).transform(**limits, **self.transform)
            return round(passed.items / work.items) or epochs

        return run


@dataclass(frozen=True)
class Guarded:
    """A contestant whose errors end its part only, without a line of its source being shown."""

    inner: Publication

    def prepare(self, epochs: int) -> Callable[[], int]:
        run = self.inner.prepare(epochs)

        def guarded() -> int:
            try:
                return run()
            except Exception as error:
                raise Failed(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}") from None

        return guarded


def ours(work: Work, claim: Claim, device: torch.device, batch_size: int) -> Ours | Publication:
    if not claim.drop_in:
        return Ours(work, claim, device)
    return Publication(work, DenoGrad, device, batch_size, transform=_published_rule(work))


def peers(work: Work, device: torch.device, batch_size: int) -> dict[str, Guarded]:
    """Each release by number; for series also the strategy of 2.0.0 that is the consensus rule."""
    found = {"1.1.0": Publication(work, released("1.1.0"), device, batch_size, transform=_published_rule(work))}
    latest = released("2.0.0")
    if work.window is None:
        found["2.0.0"] = Publication(work, latest, device, batch_size, transform={"nr_threshold": work.tau})
    else:
        target = {"target_cols": work.columns - 1}
        everything: dict[str, Any] = {"ts_strategy": "global", "tol": 0.0}
        windows: dict[str, Any] = {"ts_strategy": "window", "nr_threshold": work.tau}
        for name, transform in (("2.0.0", everything), ("2.0.0 window", windows)):
            found[name] = Publication(work, latest, device, batch_size, target, transform, channels_first=True)
    return {name: Guarded(peer) for name, peer in found.items()}


def _published_rule(work: Work) -> dict[str, Any]:
    return {"nrr": work.eta, "nr_threshold": work.tau}


def released(version: str) -> type[Any]:
    with imported(version) as module:
        implementation: type[Any] = module.DenoGrad
    return implementation


class _Counter:
    """How many items the network has read."""

    def __init__(self, module: nn.Module) -> None:
        self.items = 0
        module.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.items += len(arguments[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Counter:
        return self


class Turned(nn.Module):
    """Release 2.0.0 gives windows as (b, columns, W) to every network with a convolution anywhere in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        turned: Tensor = self.module(x.transpose(1, 2))
        return turned


def convolves(module: nn.Module) -> bool:
    return any(isinstance(part, CONVOLUTIONS) for part in module.modules())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
