"""What removes the noise, by name: nothing, our rules, the classical baselines, and functions of the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from denograd_engine import baselines
from denograd_engine.bench.case import Contaminated, Denoised
from denograd_engine.errors import ConfigError, TooFewRowsError
from denograd_engine.frames import Encoder
from denograd_engine.posterior.model import fit_posterior
from denograd_engine.posterior.refining import clean
from denograd_engine.posterior.task import Fit
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import Schema
from denograd_engine.training import Training, train
from denograd_engine.user_code import Use, is_custom, load, source_digest
from denograd_engine.windows import lay_out

if TYPE_CHECKING:
    import pandas as pd

Method = Callable[[Contaminated, int], Denoised]
"""From the noisy data and a seed to the refined data."""

NONE = "none"
RULES = ("denograd", "gauss_newton", "proximal")
FAULTS = "posterior_faults"
POSTERIOR = ("posterior", "posterior_draw", FAULTS)
"""Means; draws; and, told of no noise, faulty cells repaired."""
TEMPORAL = ("wavelet", "emd", "kalman", "moving_average")
"""Baselines that smooth along the rows, which in a table have no order; they run on one if they are asked to."""
METHOD = Use("method", "--method", "a function of a Contaminated data set and a seed that returns a Denoised one")


@dataclass(frozen=True)
class Recipe:
    """How the rules train and refine: a configuration's sections.

    Attributes:
        kind: The backbone; None takes the usual one.
        arguments: Of the backbone.
        training: How it is fitted; the seed is that of the measurement.
        refining: How the data are refined; a rule that it is not about gets its defaults for step length and arguments.
    """

    kind: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    training: Training | None = None
    refining: Refining | None = None


@dataclass(frozen=True)
class Named:
    """A method with its name, and a digest of what determines its results."""

    name: str
    call: Method
    digest: str


def names() -> list[str]:
    """Every method that comes with the project: nothing first, then our rules, then the baselines."""
    return [NONE, *RULES, *POSTERIOR, *baselines.REGISTRY]


def suited(kind: str) -> list[str]:
    """Those that are meant for a `table` or a `series` with ordinary noise."""
    left_out = (FAULTS,) if kind == "series" else (FAULTS, *TEMPORAL)
    return [name for name in names() if name not in left_out]


def resolve(name: str, recipe: Recipe) -> Named:
    """The method of this name.

    Args:
        name: One of `names()`, or a function of the user's own such as `file.py:function`, which may be given another
            name: `mine=file.py:function`.
        recipe: For the rules.

    Raises:
        ConfigError: If there is none, or it cannot be imported.
    """
    if name == NONE:
        return Named(name, _nothing, "")
    if name in RULES:
        source = _source(f"denograd_engine.rules.{name}")
        return Named(name, _rule(name, recipe), _digest(repr(recipe).encode(), source))
    if name in POSTERIOR:
        return Named(name, _posterior(name), _digest(*_sources("denograd_engine.posterior")))
    if name in baselines.REGISTRY:
        baselines.baseline(name)
        return Named(name, _baseline(name), _digest(_source(baselines.REGISTRY[name].partition(":")[0])))
    function = _named(name)[1]
    if is_custom(function):
        return Named(name, load(function, METHOD), source_digest(function, METHOD))
    raise ConfigError(
        f"there is no method {name!r}",
        expected=f"{' or '.join(names())}, or a function such as methods.py:mine",
        where=METHOD.where,
    )


def labels(specs: Sequence[str]) -> dict[str, str]:
    """What each method is called in results: by the name it was given, and files of the user's own without their
    folders, where that is no other.

    >>> labels(["pca", "../tools/own.py:mine", "theirs=tools.peer:second"])
    {'pca': 'pca', '../tools/own.py:mine': 'own.py:mine', 'theirs=tools.peer:second': 'theirs'}
    """
    brief = {spec: _named(spec)[0] for spec in specs}
    taken = list(brief.values())
    return {spec: label if taken.count(label) == 1 else spec for spec, label in brief.items()}


def _named(spec: str) -> tuple[str, str]:
    """What a method is called, and what it is; an equals sign in a folder's name names nothing."""
    called, equals, function = spec.partition("=")
    return (called, function) if equals and "/" not in called else (spec.rpartition("/")[2], spec)


def _nothing(given: Contaminated, seed: int) -> Denoised:
    return Denoised(given.train, given.test)


def _rule(name: str, recipe: Recipe) -> Method:
    def refined(given: Contaminated, seed: int) -> Denoised:
        refining = recipe.refining or Refining(device="cpu")
        if refining.rule != name:
            refining = replace(refining, rule=name, eta="auto", arguments={})
        training = replace(recipe.training or Training(device="cpu"), seed=seed)
        backbone = train(given.train, given.schema, recipe.kind, recipe.arguments, training)
        train_part = refine(given.train, backbone, refining).frame
        try:
            test_part = refine(given.test, backbone, refining).frame
        except TooFewRowsError:  # a rule that needs a target leaves rows without one as they are
            test_part = given.test
        return Denoised(train_part, test_part)

    return refined


def _posterior(name: str) -> Method:
    def refined(given: Contaminated, seed: int) -> Denoised:
        schema, drawn = given.schema, None
        if name == "posterior_draw":
            drawn = seed
        elif name == FAULTS:
            schema = Schema(tuple(replace(one, noise=None) for one in schema.columns), schema.series)
        model = fit_posterior(given.train, schema, Fit(seed=seed, faults=name == FAULTS), device="cpu")
        train_part = clean(given.train, model, device="cpu", draw=drawn)
        test_part = clean(given.test, model, device="cpu", draw=drawn)
        std = train_part.std if drawn is None else None
        return Denoised(train_part.frame, test_part.frame, std, train_part.faults)

    return refined


def _baseline(name: str) -> Method:
    def denoised(given: Contaminated, seed: int) -> Denoised:
        encoder = Encoder.fit(given.train, given.schema)
        method = baselines.baseline(name, seed)
        cells, runs, order = _laid_out(given.train, encoder)
        method.fit(cells, _noise(encoder), runs)
        train_part = _restored(given.train, encoder, cells, method.denoise(cells, runs), order)
        cells, runs, order = _laid_out(given.test, encoder)
        return Denoised(train_part, _restored(given.test, encoder, cells, method.denoise(cells, runs), order))

    return denoised


def _laid_out(frame: pd.DataFrame, encoder: Encoder) -> tuple[Any, tuple[int, ...] | None, Any]:
    """Standardised cells with NaN where missing, in the order of the runs; the runs; and that order."""
    encoded = encoder.encode(frame, dtype="float64")
    cells = np.where(encoded.present, encoded.cells, np.nan)
    if encoder.schema.series is None:
        return cells, None, np.arange(len(frame))
    layout = lay_out(frame, encoder.schema.series)
    return cells[layout.order], layout.runs, layout.order


def _restored(frame: pd.DataFrame, encoder: Encoder, cells: Any, denoised: Any, order: Any) -> pd.DataFrame:
    shift = np.zeros_like(cells)
    shift[order] = np.where(np.isnan(cells), 0.0, denoised - cells)
    return encoder.restore(frame, shift)


def _noise(encoder: Encoder) -> Any:
    """Standardised noise of each cell column, shape (P,): 0 where there is none, NaN where it is unknown."""
    columns = [encoder.schema[name] for name in encoder.schema.cells]
    raw = [0.0 if not one.refined else np.nan if one.noise is None else one.noise for one in columns]
    return np.array(raw) / encoder.spreads


def _source(module: str) -> bytes:
    return Path(str(import_module(module).__file__)).read_bytes()


def _sources(package: str) -> list[bytes]:
    folder = Path(str(import_module(package).__file__)).parent
    return [file.read_bytes() for file in sorted(folder.glob("*.py"))]


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
