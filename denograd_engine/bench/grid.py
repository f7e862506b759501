"""What is to be measured: data sets, noises, seeds and methods, as cells that each know their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any

from denograd_engine import __version__
from denograd_engine.bench import downstream
from denograd_engine.bench.case import Case, Noise, check
from denograd_engine.bench.methods import NONE, Recipe, labels, resolve, suited

FORMAT = 1
"""Of what is measured and how it is written down; a change makes earlier results void."""


@dataclass(frozen=True)
class Subject:
    """One data set, and what is done with it.

    Attributes:
        case: The data set.
        recipe: How the rules train and refine on it.
        methods: Their names; the first is always `none`, which the others are compared with.
        models: Downstream models, by name.
    """

    case: Case
    recipe: Recipe
    methods: tuple[str, ...]
    models: tuple[str, ...]

    @classmethod
    def of(
        cls,
        case: Case,
        recipe: Recipe | None = None,
        methods: Sequence[str] = (),
        models: str | Sequence[str] = "quick",
    ) -> Subject:
        """Check that all of this can be done.

        Args:
            case: The data set.
            recipe: How the rules train and refine; None takes their defaults.
            methods: Names, see `methods.resolve`; none takes all that suit the data.
            models: `quick`, `all`, or names.

        Raises:
            DataError: If the data cannot be measured.
            ConfigError: If there is no such method or model, or it cannot be imported.
        """
        check(case)
        recipe = recipe or Recipe()
        wanted = tuple(dict.fromkeys((NONE, *(methods or suited(case.kind)))))
        for name in wanted:
            resolve(name, recipe)
        return cls(case, recipe, wanted, downstream.chosen(models, case.schema))


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        subject: Which data set, by position.
        dataset: Its name.
        noise: What is added.
        seed: Of everything random.
        method: What removes the noise.
        label: What that is called in results.
        digest: Of everything that determines the result.
    """

    subject: int
    dataset: str
    noise: Noise
    seed: int
    method: str
    label: str
    digest: str


@dataclass(frozen=True)
class Grid:
    """Every combination.

    Attributes:
        subjects: The data sets.
        noises: The kinds and sizes of noise.
        seeds: The seeds.
    """

    subjects: tuple[Subject, ...]
    noises: tuple[Noise, ...]
    seeds: tuple[int, ...]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All measurements: data set by data set, and what is compared with each other side by side."""
        return tuple(self._cells())

    def _cells(self) -> Iterator[Cell]:
        for at, subject in enumerate(self.subjects):
            digests = {name: resolve(name, subject.recipe).digest for name in subject.methods}
            called = labels(subject.methods)
            for noise, seed, method in product(self.noises, self.seeds, subject.methods):
                determinants = {
                    "format": FORMAT,
                    "engine": __version__,
                    "case": subject.case.digest,
                    "noise": _determining(noise),
                    "seed": seed,
                    "method": [called[method], digests[method]],
                    "models": subject.models,
                }
                digest = hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()
                yield Cell(at, subject.case.name, noise, seed, method, called[method], digest)


def _determining(noise: Noise) -> dict[str, Any]:
    """What a result depends on; a noise told as it is, as it was written before any other could be told."""
    return {name: value for name, value in asdict(noise).items() if (name, value) != ("told", 1)}
