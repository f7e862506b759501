"""What several tests need: data with a known structure, and the command as a process."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd


def make_table(rows: int, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3))
    y = x @ [1.0, -0.5, 0.25] + 0.2 * generator.normal(size=rows)
    return pd.DataFrame(
        {
            "a": x[:, 0],
            "b": x[:, 1].astype("float32"),
            "c": x[:, 2],
            "site": generator.choice(["north", "south"], rows),
            "rooms": generator.integers(1, 5, rows),
            "y": y,
        }
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "denograd_flows", *map(str, arguments)]


def clean_environment(home: Path) -> dict[str, str]:
    """This process's environment without what a test session sets."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT", "MLFLOW", "DENOGRAD", "PYTEST", "COV_"))
    }
    return kept | {"DENOGRAD_HOME": str(home)}


@contextmanager
def ignored_leaks() -> Iterator[None]:
    """Prefect leaves sockets of its clients to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
