"""Which distant steps of a series say something about a cell that its neighbourhood does not."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from denograd_engine.posterior.contexts import Contexts

NEIGHBOURS = 12
"""Steps on either side that every context holds."""
FURTHEST = 400
"""Lag beyond which none is looked for: more than two weeks of hours, a year of days."""
BEYOND = (1, 2, 3, 4, 6, 8, 12)
"""Steps beyond those over which noise hangs together that a context holds as well."""
GROUPS = 6
"""Distant lags at most; the strongest brings its two neighbours along."""
EVIDENT = 12.0
"""Mean squared correlation, in units of what chance brings, below which a lag is left out."""
SHORTEST = 4
"""A series is at least so many times as long as its furthest lag."""


def neighbourhood(longest_run: int, correlation: Iterable[int] = ()) -> tuple[int, ...]:
    """The near lags, -12 to 12 where the series is long enough, and some beyond those over which noise hangs together.

    Args:
        longest_run: Steps without a break.
        correlation: Steps over which the noise of each column hangs together, 0 where it is independent.
    """
    furthest = max(1, (longest_run - 1) // SHORTEST)
    near = set(range(min(NEIGHBOURS, furthest) + 1))
    beyond = {steps + more for steps in correlation if steps for more in BEYOND}
    lags = near | {lag for lag in beyond if lag <= furthest}
    return tuple(sorted(lags | {-lag for lag in lags}))


def seasonal_lags(contexts: Contexts, left: Tensor) -> tuple[int, ...]:
    """Lags at which the cells go along with what a prediction from the neighbourhood leaves over.

    Args:
        contexts: Of a series.
        left: Predicted from the neighbourhood less observed, zero where missing, shape (items, P).

    Returns:
        Lags of both signs, ascending; none where nothing is evident.
    """
    assert contexts.runs is not None
    furthest = min(FURTHEST, max(contexts.runs) // SHORTEST)
    near = max(contexts.lags)
    if furthest <= near + 1:
        return ()
    cells, size = _spaced(contexts.cells, contexts.runs, furthest), len(left)
    over = _spaced(left, contexts.runs, furthest)
    length = 2 * len(cells)
    spectra = torch.fft.rfft(cells, n=length, dim=0).conj() * torch.fft.rfft(over, n=length, dim=0)
    along = torch.fft.irfft(spectra, n=length, dim=0)
    scale = (cells.square().sum(dim=0) * over.square().sum(dim=0)).clamp_min(torch.finfo(cells.dtype).tiny)
    either = (along[1 : furthest + 1].square() + along[-furthest:].flip(0).square()) / 2
    score = size * (either / scale).mean(dim=1)
    score[: near + 1] = 0.0
    found: list[int] = []
    for group in range(GROUPS):
        best = int(score.argmax())
        if score[best] < EVIDENT:
            break
        around = range(best - 1, best + 2) if group == 0 else range(best, best + 1)
        found += [at + 1 for at in around if near <= at < furthest]
        score[max(0, best - 1) : best + 2] = 0.0
    return tuple(sorted(sign * lag for lag in found for sign in (-1, 1)))


def _spaced(values: Tensor, runs: tuple[int, ...], space: int) -> Tensor:
    """The runs with so many zeros after each, so that none is correlated with the next."""
    gap = values.new_zeros(space, values.shape[1])
    return torch.cat([piece for run in torch.split(values, list(runs)) for piece in (run, gap)])
