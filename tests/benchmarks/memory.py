"""Peak memory of one `refine` in a process of its own, above what was there just before. Prints JSON.

python -m tests.benchmarks.memory --rows 1000000 --columns 50 --dtype float32
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer
from torch import Tensor, nn

from denograd_engine import Backbone, Encoder, Refining, backbones, infer_schema, refine
from tests.benchmarks.works import table, without_dropout

BATCH = 4096
EPOCHS = 3
EVERY_SECONDS = 0.001


@dataclass
class Peak:
    """Bytes of resident memory, before and at most."""

    before: int = 0
    most: int = 0


@contextmanager
def watched() -> Iterator[Peak]:
    """Watch this process. The kernel's own high-water mark is used where it can be reset (Linux), else samples."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    process = psutil.Process()
    exact = _reset_mark()
    peak = Peak(before=process.memory_info().rss)
    ended = threading.Event()

    def sample() -> None:
        while not ended.is_set():
            peak.most = max(peak.most, process.memory_info().rss)
            time.sleep(EVERY_SECONDS)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        ended.set()
        sampler.join()
        if exact:
            peak.most = max(peak.most, _mark())


def measure(rows: int, columns: int, dtype: str) -> dict[str, Any]:
    """Refine a table of this size for a few epochs."""
    frame = table(rows, columns, dtype=dtype)
    schema = infer_schema(frame.head(1000), target="y")
    torch.manual_seed(0)
    module = without_dropout(backbones.build("mlp", (columns - 1,), 1, {"hidden": (128, 64, 32)}))
    encoder = Encoder.fit(frame.head(100_000), schema)
    backbone = Backbone(module, encoder, skill={"y": 1.0}, residual_scale=1.0)
    settings = Refining(tau=0.1, eta=0.05, max_epochs=EPOCHS, batch_size=BATCH, device="cpu")
    refine(frame.head(BATCH), backbone, settings)
    with watched() as peak:
        started = time.perf_counter()
        result = refine(frame, backbone, settings)
        seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "columns": columns,
        "dtype": dtype,
        "epochs": EPOCHS,
        "seconds": seconds,
        "above": peak.most - peak.before,
        "input": int(frame.memory_usage(index=True, deep=True).sum()),
        "batch": 2 * activations(module, torch.zeros(BATCH, columns - 1)),
        "result": int(sum(part.memory_usage(index=True, deep=True).sum() for part in (result.frame, result.rows))),
    }


def activations(module: nn.Module, x: Tensor) -> int:
    """Bytes of the outputs of all layers for this input."""
    found: list[int] = [x.nbytes]

    def note(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and not list(layer.children()):
            found.append(output.nbytes)

    hooks = [layer.register_forward_hook(note) for layer in module.modules()]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return int(np.sum(found))


def _reset_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _mark() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def main(
    rows: Annotated[int, typer.Option(min=1000)] = 1_000_000,
    columns: Annotated[int, typer.Option(min=3)] = 50,
    dtype: Annotated[str, typer.Option(help="float32 or float64")] = "float32",
) -> None:
    """Measure the peak memory of one refinement above what was there just before, and print it as JSON."""
    json.dump(measure(rows, columns, dtype), sys.stdout)


if __name__ == "__main__":
    typer.run(main)
