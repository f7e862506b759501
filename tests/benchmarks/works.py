"""The works that are timed: data from a fixed seed, a network with fixed weights, and what is asked of the engine."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denograd_engine import Backbone, Encoder, Series, Training, backbones, infer_schema, rules, train

Array: TypeAlias = NDArray[Any]

NOTHING_GATED = 1e-9
"""A gate so narrow that every row and window is outside it in every epoch."""
ROWS_TO_LEARN, STEPS_TO_LEARN = 6000, 2000
"""What the networks are trained on, at the beginning of the data: enough for residuals as of a network in use."""


@dataclass(frozen=True)
class Claim:
    """One way of ours to do a work, and how fast it must be.

    Attributes:
        title: For people.
        drop_in: Whether the class `DenoGrad` of `denograd_engine.compat` does it, instead of `refine`.
        rule: Of `refine`.
        floor_at_most: Largest allowed ratio to the floor.
        faster: Smallest allowed ratio of each peer's time to ours. A peer that is not named is not compared.
    """

    title: str
    drop_in: bool = False
    rule: str = "denograd"
    floor_at_most: float | None = None
    faster: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """Data and a network.

    Attributes:
        name: For `--only`.
        rows: Of the frame.
        columns: Of the frame, the target among them; the time column of a series is not counted.
        window: Steps that the network sees; None for a table.
        kind: Name of the backbone.
        arguments: Of the backbone.
        epochs: Of ours, in one repetition.
        claims: What is timed, and against what.
        tau: The gate.
        eta: Step length, of ours and of release 1.1.0.
        to_the_end: Whether the rows finish, so that a peer's own end is of interest.
    """

    name: str
    rows: int
    columns: int
    window: int | None
    kind: str
    arguments: Mapping[str, Any]
    epochs: int
    claims: tuple[Claim, ...]
    tau: float = NOTHING_GATED
    eta: float = 0.05
    to_the_end: bool = False

    @property
    def shape(self) -> str:
        return f"{self.rows:,} x {self.columns}" + ("" if self.window is None else f", W = {self.window}")

    @cached_property
    def frame(self) -> pd.DataFrame:
        return table(self.rows, self.columns) if self.window is None else series(self.rows, self.columns)

    @cached_property
    def backbone(self) -> Backbone:
        """A network trained a little, without dropout layers, and the scaling of all the data."""
        axis = None if self.window is None else Series(time="time", window=self.window)
        schema = infer_schema(self.frame, target="y", series=axis)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            untrained = without_dropout(backbones.build(self.kind, self.input_shape, 1, dict(self.arguments)))
        part = self.frame.head(ROWS_TO_LEARN if self.window is None else STEPS_TO_LEARN)
        fitted = train(part, schema, untrained, training=Training(epochs=6, learning_rate=5e-3, device="cpu"))
        return Backbone(fitted.module, Encoder.fit(self.frame, schema), fitted.skill, fitted.residual_scale)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.columns - 1,) if self.window is None else (self.window, self.columns)

    @cached_property
    def cells(self) -> Array:
        """The standardised data that the peers get, shape (rows, columns), the target last."""
        return self.backbone.encoder.encode(self.frame).cells

    @property
    def items(self) -> int:
        return self.rows if self.window is None else self.rows - self.window

    def inputs(self) -> Tensor:
        """What the network reads, gathered and contiguous, shape (items, *input_shape)."""
        cells = torch.from_numpy(self.cells)
        if self.window is None:
            return cells[:, :-1].contiguous()
        return cells.unfold(0, self.window, 1)[: self.items].transpose(1, 2).contiguous()

    def module(self) -> nn.Module:
        """A copy of the network for one contestant."""
        return copy.deepcopy(self.backbone.module)

    def missing(self) -> str | None:
        """What the engine lacks for this work."""
        return None if self.kind in backbones.REGISTRY else f"the engine has no backbone {self.kind!r}"

    def tiny(self) -> Work:
        """The same with little data and few epochs, to see whether it runs."""
        return replace(self, rows=min(self.rows, 600), epochs=min(self.epochs, 12 if self.to_the_end else 3))


def works() -> Iterator[Work]:
    mlp: dict[str, Any] = {"kind": "mlp", "arguments": {"hidden": (128, 64, 32)}}
    plain = Claim("table, nothing gated", floor_at_most=1.15, faster={"1.1.0": 20, "2.0.0": 8})
    drop_in = Claim("the same, class DenoGrad", drop_in=True, floor_at_most=1.3, faster={"1.1.0": 15, "2.0.0": 6})
    yield Work("table", 24_000, 40, None, **mlp, epochs=50, claims=(plain, drop_in))
    end = Claim("table, to the end", floor_at_most=0.6, faster={"1.1.0": 25, "2.0.0": 10})
    newton = Claim("the same, gauss_newton", rule="gauss_newton")
    yield Work("table-end", 24_000, 40, None, **mlp, epochs=200, claims=(end, newton), tau=0.1, to_the_end=True)
    large = replace(plain, title="large table")
    yield Work("table-large", 120_000, 80, None, **mlp, epochs=20, claims=(large,))
    lstm = Claim("series, LSTM", floor_at_most=1.1, faster={"1.1.0": None, "2.0.0": None})
    yield Work("lstm", 17_420, 7, 24, "lstm", {"hidden": 64}, 10, (lstm,))
    dlinear = Claim("series, DLinear", floor_at_most=1.5, faster={"1.1.0": 4, "2.0.0": 3})
    yield Work("dlinear", 17_420, 7, 24, "dlinear", {}, 50, (dlinear,))
    cnn = Claim("series, CNN", floor_at_most=1.2, faster={"1.1.0": None, "2.0.0": None})
    proximal = Claim("the same, rule proximal", rule="proximal", faster={"2.0.0": 5})
    yield Work("cnn", 35_064, 12, 96, "cnn", {}, 3, (cnn, proximal))


def available(claim: Claim) -> str | None:
    """Why this claim cannot be measured; None if it can."""
    return None if claim.drop_in or claim.rule in rules.REGISTRY else f"the engine has no rule {claim.rule!r}"


def table(rows: int, columns: int, seed: int = 0, dtype: str = "float64") -> pd.DataFrame:
    """Correlated features, a smooth random function of them as target `y`, and noise of 0.3 on everything."""
    random = np.random.default_rng(seed)
    features = columns - 1
    factors = random.standard_normal((rows, 8), dtype=np.float32)
    X = factors @ random.standard_normal((8, features), dtype=np.float32) / 3
    y = sum(np.sin(factors @ random.standard_normal(8) / 2 + phase) for phase in range(6))
    X += 0.3 * random.standard_normal((rows, features), dtype=np.float32)
    y += 0.3 * random.standard_normal(rows)
    X *= np.geomspace(0.1, 10, features, dtype=np.float32)
    named = {f"x{at}": X[:, at].astype(dtype) for at in range(features)}
    return pd.DataFrame({**named, "y": y.astype(dtype)})


def series(steps: int, columns: int, seed: int = 0) -> pd.DataFrame:
    """Hourly series that share slow, daily and persistent random parts, with noise of 0.3; the last one is `y`."""
    random = np.random.default_rng(seed)
    hours = np.arange(steps)[:, None]
    cycles = np.sin(2 * np.pi * hours / np.array([24, 12, 168, 1000]) + random.uniform(0, 6, 4))
    decay = 0.95 ** np.arange(100)
    wandering = [np.convolve(random.normal(size=steps), decay)[:steps] / 3 for _ in range(3)]
    parts = np.column_stack([cycles, *wandering])
    cells = parts @ random.normal(size=(parts.shape[1], columns)) / 2 + 0.3 * random.normal(size=(steps, columns))
    names = [*(f"x{at}" for at in range(columns - 1)), "y"]
    frame = pd.DataFrame(dict(zip(names, cells.T, strict=True)))
    frame.insert(0, "time", pd.date_range("2020-01-01", periods=steps, freq="h"))
    return frame


def without_dropout(module: nn.Module) -> nn.Module:
    """The peers run recurrent networks in training mode, where dropout would make their work another one."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout):
            setattr(module, name, nn.Identity())
        else:
            without_dropout(child)
    return module
