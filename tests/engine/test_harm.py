"""Whether training on refined rows harms: small models, judged by rows that were left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from denograd_engine import infer_schema
from denograd_engine.frames import Encoder
from denograd_engine.harm import FEWEST_ROWS, MODELS, MOST_ROWS, harm


def noisy_line(rows=600, seed=0):
    """Clean, and with noise on the target."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": generator.normal(size=rows), "b": generator.normal(size=rows)})
    clean = frame.assign(y=frame["a"] - 2 * frame["b"])
    return clean, clean.assign(y=clean["y"] + generator.normal(0, 0.5, rows))


def harm_of(observed, refined, target="y"):
    return harm(observed, refined, Encoder.fit(observed, infer_schema(observed, target=target)))


def test_rows_as_they_were_do_no_harm():
    _, noisy = noisy_line()
    found = harm_of(noisy, noisy.copy())
    assert found.ratio == 1.0
    assert found.model in MODELS


def test_a_repaired_target_helps_and_a_blurred_one_harms():
    clean, noisy = noisy_line()
    assert harm_of(noisy, clean).ratio < 1.0
    blurred = noisy.assign(y=0.5 * noisy["y"])
    assert harm_of(noisy, blurred).ratio > 1.5


def test_it_takes_only_one_model_that_suffers():
    generator = np.random.default_rng(0)
    level = generator.integers(0, 40, 900)
    jumps = generator.normal(size=40)[level]
    frame = pd.DataFrame({"level": level + 0.5, "other": generator.normal(size=900), "y": jumps})
    slope, shift = np.polyfit(level, jumps, 1)
    found = harm_of(frame, frame.assign(y=slope * level + shift))
    assert found.model == "tree"  # a straight line goes through it just as well
    assert found.ratio > 2


@pytest.mark.parametrize("spoilt", [False, True])
def test_classes_count_by_the_share_of_wrong_ones(spoilt):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"a": generator.normal(size=500), "b": generator.normal(size=500)})
    frame["kind"] = np.where(frame["a"] + 0.3 * generator.normal(size=500) > 0, "p", "q")
    refined = frame.assign(a=generator.permutation(frame["a"])) if spoilt else frame.assign(b=0.9 * frame["b"])
    assert (harm_of(frame, refined, "kind").ratio > 1.02) == spoilt


def test_what_both_get_right_is_no_harm():
    frame = pd.DataFrame({"a": np.tile([-3.0, 3.0], 100), "b": np.arange(200.0)})
    frame["kind"] = np.where(frame["a"] > 0, "p", "q")
    assert harm_of(frame, frame.assign(a=1.01 * frame["a"]), "kind").ratio == 1.0


def test_rows_without_a_target_and_columns_with_gaps_are_no_obstacle():
    clean, noisy = noisy_line()
    for frame in (clean, noisy):
        frame.loc[:99, "y"] = np.nan
        frame.loc[50:150, "a"] = np.nan
    assert harm_of(noisy, clean).ratio < 1.0


def test_few_rows_say_nothing():
    clean, noisy = noisy_line(3 * FEWEST_ROWS)
    assert harm_of(noisy, clean) is None


def test_many_rows_are_thinned_out():
    clean, noisy = noisy_line(4 * MOST_ROWS)
    refined = clean.copy()
    kept = np.zeros(len(clean), dtype=bool)
    kept[::4] = True
    refined.loc[~kept, "y"] = 1e6  # never looked at
    assert harm_of(noisy, refined).ratio < 1.0
