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
import pyarrow as pa


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


def make_series(steps=240, seed=0, noise=0.1):
    """Two interleaved series with a common wave."""
    generator = np.random.default_rng(seed)
    at = np.arange(steps)
    parts = [
        pa.table(
            {
                "entity": [name] * steps,
                "time": pa.array(at * 3600, pa.timestamp("s")).cast(pa.timestamp("us")),
                "wave": np.sin(at / 6 + phase) + noise * generator.normal(size=steps),
                "load": np.cos(at / 6 + phase) + noise * generator.normal(size=steps),
            }
        )
        for name, phase in (("east", 0.0), ("west", 1.0))
    ]
    return pa.concat_tables(parts).sort_by([("time", "ascending"), ("entity", "descending")])


HASTY = {"harm": {"max": None}}
"""Gates for networks of a few epochs: they do harm what is trained on their work, where that is not what is tested."""


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


TABPFN = {
    "tabpfn_v2": {"emsize": 32, "nlayers": 2, "nhead": 2, "max_num_classes": 0},
    "tabpfn_v2_6": {"emsize": 32, "nlayers": 2, "nhead": 2, "num_thinking_rows": 4, "max_num_classes": 0},
    "tabpfn_v3_5": {
        "embed_dim": 16,
        "dist_embed_num_heads": 2,
        "dist_embed_num_inducing_points": 4,
        "feat_agg_num_heads": 2,
        "feat_agg_num_cls_tokens": 2,
        "nlayers": 2,
        "icl_num_heads": 2,
        "decoder_num_heads": 2,
        "max_num_classes": 10,
    },
}


def tabpfn_checkpoint(folder: Path, architecture: str = "tabpfn_v2") -> Path:
    """Random weights of one of the package's own architectures, small, in a file such as its own."""
    import torch
    from tabpfn.architectures import ARCHITECTURES
    from tabpfn.architectures.shared.bar_distribution import FullSupportBarDistribution

    config = {**TABPFN[architecture], "num_buckets": 20}
    torch.manual_seed(0)
    network = ARCHITECTURES[architecture].get_architecture(ARCHITECTURES[architecture].parse_config(config)[0])
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(0, 0.3)
    state = network.state_dict()
    if not hasattr(network, "regression_borders"):
        criterion = FullSupportBarDistribution(torch.linspace(-4, 4, 21))
        state |= {f"criterion.{key}": value for key, value in criterion.state_dict().items()}
    stored = folder / "regressor.ckpt"
    torch.save({"state_dict": state, "config": config, "architecture_name": architecture}, stored)
    return stored
