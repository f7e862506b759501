"""Noise models: injecting noise of a known size, and estimating that of a series."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from denograd_engine.errors import ConfigError, SchemaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Kind = Callable[[np.random.Generator, NDArray[np.float64]], NDArray[np.float64]]

SPIKES = 0.03
"""Share of the cells that spikes fall on."""
SPIKE_SIZES = (0.5, 1.5)
"""Least and greatest spike, over the middle one."""
QUIETEST, LOUDEST = 1.0, 5.0
"""Heteroscedastic noise at the least and at the greatest cell of a column, relative to each other."""
MEMORY = 0.9
"""Of autocorrelated noise: its correlation with that of the row before."""
FORGOTTEN = 20
"""Steps after which an eighth of that is left."""
COARSE = np.array(
    [
        *(-0.010597401785, 0.032883011667, 0.030841381836, -0.187034811719),
        *(-0.027983769417, 0.630880767930, 0.714846570553, 0.230377813309),
    ]
)
"""Daubechies' scaling filter with four vanishing moments (1992, table 6.1)."""
FINE = COARSE[::-1] * np.resize([-1.0, 1.0], len(COARSE))
"""Its wavelet."""
DETAILS = (FINE, np.convolve(COARSE, np.insert(FINE, np.arange(1, len(FINE)), 0.0)))
"""Filters of the two finest scales."""
LONGEST_SEASON = 400
"""Steps of the longest season that is looked for: more than two weeks of hours."""
REPEATS = 20
"""Times that a season must come round in a run."""
SEASONAL = 0.05
"""Share of the squared changes from step to step that a season must explain."""
AS_GOOD = 0.9
"""The shortest season that explains this share of what the best explains is taken."""
LOOKED_AT = 50_000
"""Steps that seasons are looked for in."""
FEWEST_DETAILS = 100
"""Details below which nothing is estimated."""
MAD_OF_NORMAL = 0.6745
"""Median size of a standard normal number."""


def add_noise(
    frame: pd.DataFrame, columns: Sequence[str], std: float, seed: int, kind: str = "gaussian"
) -> pd.DataFrame:
    """A copy of the table with noise on every present cell of these columns, independent between columns.

    Each kind has mean zero and the same std over a column as a whole:

    - `gaussian`: independent, alike for all cells.
    - `heteroscedastic`: Gaussian, with a std that rises linearly with the cell's rank in its column, fivefold.
    - `laplace`: independent with heavy tails.
    - `spikes`: 3% of the cells are off, by about six times the std asked for; the others are exact.
    - `autocorrelated`: a stationary Gaussian AR(1) drift along the order of the rows, coefficient 0.9.

    Args:
        frame: Shape (rows, columns).
        columns: Numeric columns. Whole-number columns become floating point.
        std: Noise standard deviation as a share of each column's own.
        seed: Of the noise.
        kind: A name of `KINDS`.

    Raises:
        SchemaError: If a column is not numeric.
        ConfigError: If there is no such kind.

    >>> noisy = add_noise(pd.DataFrame({"a": [1.0, 2.0, 4.0]}), ["a"], std=0.1, seed=0)
    >>> [round(value, 3) for value in noisy["a"]]
    [1.019, 1.98, 4.098]
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no noise of kind {kind!r}", expected=" or ".join(KINDS), where="noise")
    generator = np.random.default_rng(seed)
    noisy = frame.copy()
    for name in columns:
        if not pd.api.types.is_numeric_dtype(frame[name].dtype):
            raise SchemaError(f"noise cannot be added to column {name!r}: it is not numeric")
        values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        noisy[name] = values + std * np.nanstd(values, ddof=1) * KINDS[kind](generator, values)
    return noisy


def add_gaussian_noise(frame: pd.DataFrame, columns: Sequence[str], std: float, seed: int) -> pd.DataFrame:
    """A copy of the table with independent Gaussian noise on every present cell of these columns.

    Args:
        frame: Shape (rows, columns).
        columns: Numeric columns. Whole-number columns become floating point.
        std: Noise standard deviation as a share of each column's own.
        seed: Of the noise.

    Raises:
        SchemaError: If a column is not numeric.

    >>> noisy = add_gaussian_noise(pd.DataFrame({"a": [1.0, 2.0, 4.0]}), ["a"], std=0.1, seed=0)
    >>> [round(value, 3) for value in noisy["a"]]
    [1.019, 1.98, 4.098]
    """
    return add_noise(frame, columns, std, seed)


def _gaussian(generator: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return generator.standard_normal(len(values))


def _heteroscedastic(generator: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.float64]:
    count = max(1, int(np.count_nonzero(~np.isnan(values))))
    ranks = pd.Series(values).rank().to_numpy(dtype=np.float64)
    local = QUIETEST + (LOUDEST - QUIETEST) * (ranks - 0.5) / count
    whole = np.sqrt(np.nansum(np.square(local)) / count)
    scaled: NDArray[np.float64] = local / whole * generator.standard_normal(len(values))
    return scaled


def _laplace(generator: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return generator.laplace(0.0, np.sqrt(0.5), len(values))


def _spikes(generator: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.float64]:
    present = np.flatnonzero(~np.isnan(values))
    noise = np.zeros(len(values))
    if not len(present):
        return noise
    struck = generator.choice(present, max(1, round(SPIKES * len(present))), replace=False)
    least, greatest = SPIKE_SIZES
    middle = np.sqrt(len(present) / len(struck) * 3 / (least**2 + least * greatest + greatest**2))
    sizes = middle * generator.uniform(least, greatest, len(struck))
    noise[struck] = sizes * generator.choice([-1.0, 1.0], len(struck))
    return noise


def _autocorrelated(generator: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.signal import lfilter

    shocks = np.sqrt(1 - MEMORY**2) * generator.standard_normal(len(values))
    start = MEMORY * generator.standard_normal(1)
    drift: NDArray[np.float64] = lfilter([1.0], [1.0, -MEMORY], shocks, zi=start)[0]
    return drift


KINDS: Mapping[str, Kind] = {
    "gaussian": _gaussian,
    "heteroscedastic": _heteroscedastic,
    "laplace": _laplace,
    "spikes": _spikes,
    "autocorrelated": _autocorrelated,
}
"""What draws noise of std 1 for the cells of a column; missing cells stay missing whatever is drawn for them."""


def estimate_noise(values: NDArray[np.float64], runs: Sequence[int]) -> float:
    """Standard deviation of the white noise in a series, from its two finest wavelet scales; 0 where there is none.

    White noise is as strong in both, a random walk stronger in the second by a known factor. Two equations, two
    unknowns: what the signal adds to the finest scale, as far as it resembles a random walk there, is subtracted. The
    median absolute detail of the finest scale alone (Donoho and Johnstone, 1994) counts it as noise. What comes back
    with the season, a jump at six every morning, is no random walk, and is taken out before.

    Args:
        values: Shape (steps,); a missing value ends a stretch.
        runs: Length of each unbroken run.

    >>> slow = np.sin(np.arange(4000) / 30) + np.random.default_rng(0).normal(0, 0.2, 4000)
    >>> round(estimate_noise(slow, [4000]), 1)
    0.2
    """
    seasoned = np.concatenate([_without_season(run) for run in np.split(values, np.cumsum(runs)[:-1])])
    strength = [_detail_variance(seasoned, runs, detail) for detail in DETAILS]
    if min(strength) < 0:
        return 0.0
    first, second = (float(np.square(np.cumsum(detail)).sum()) for detail in DETAILS)
    white = (second * strength[0] - first * strength[1]) / (second - first)
    return float(np.sqrt(min(max(white, 0.0), strength[0])))


def _without_season(run: NDArray[np.float64]) -> NDArray[np.float64]:
    """The run less its mean at each step of its season, enlarged by the share of white noise that goes with it."""
    season = _season(run[:LOOKED_AT])
    if not season:
        return run
    phase, known = np.arange(len(run)) % season, ~np.isnan(run)
    total = np.bincount(phase[known], run[known] - run[known].mean(), minlength=season)
    profile = total / np.maximum(np.bincount(phase[known], minlength=season), 1)
    less: NDArray[np.float64] = (run - profile[phase]) / np.sqrt(1 - season / known.sum())
    return less


def _season(run: NDArray[np.float64]) -> int:
    """Steps after which the changes from one step to the next come back best, each left out in turn; 0 if none do."""
    changes = np.diff(run)
    known = ~np.isnan(changes)
    longest = min(LONGEST_SEASON, int(known.sum()) // REPEATS)
    squares = np.square(changes)
    total = float(squares[known].sum())
    if longest < 2 or not total:
        return 0
    explained = np.zeros(longest + 1)
    for season in range(2, longest + 1):
        phase = np.arange(len(changes))[known] % season
        count = np.bincount(phase)
        sums, alone = (np.bincount(phase, values[known]) for values in (changes, squares))
        explained[season] = ((np.square(sums) - alone) / np.maximum(count - 1, 1)).sum() / total
    best = explained.max()
    return int(np.argmax(explained >= AS_GOOD * best)) if best > SEASONAL else 0


def _detail_variance(values: NDArray[np.float64], runs: Sequence[int], detail: NDArray[np.float64]) -> float:
    """Robust variance of the details of all stretches together; -1 where there are too few."""
    found = []
    for run in np.split(values, np.cumsum(runs)[:-1]):
        holes = np.flatnonzero(np.isnan(run))
        for stretch in np.split(run, holes):
            whole = stretch[~np.isnan(stretch)]
            if len(whole) >= len(detail):
                found.append(np.convolve(whole, detail, mode="valid"))
    if sum(map(len, found)) < FEWEST_DETAILS:
        return -1.0
    return float((np.median(np.abs(np.concatenate(found))) / MAD_OF_NORMAL) ** 2)
