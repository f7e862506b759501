"""On a GPU: the table of `speed`, the share of time in which kernels compute, and the largest batch."""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks import report, speed
from tests.benchmarks.clock import timed, wait_for
from tests.benchmarks.contestants import Ours
from tests.benchmarks.works import Work, works

COPIES = ("Memcpy", "Memset")


def measure(repetitions: int, quick: bool, console: Console) -> dict[str, Any] | None:
    """Everything about the GPU; None where there is none."""
    if not torch.cuda.is_available():
        console.print("There is no GPU here: nothing was measured on one.")
        return None
    device = torch.device("cuda")
    table = speed.measure([], repetitions, device, quick=quick, console=console)
    report.show(table, console)
    shares: dict[str, dict[str, float]] = {}
    batches: dict[str, dict[str, int]] = {}
    for work in works():
        if work.to_the_end or work.missing():
            continue
        chosen = work.tiny() if quick else work
        shares[work.name] = kernel_share(chosen, device)
        batches[work.name] = largest_batch(chosen, device)
        largest, share = batches[work.name], shares[work.name]["share"]
        console.print(
            f"- {work.name}: kernels compute for {share:.0%} of a refinement's time; the largest batch is "
            f"{largest['items']:,} items, {largest['bytes'] / 1e9:.1f} GB"
        )
    return {"speed": table, "kernels": shares, "largest_batch": batches}


def kernel_share(work: Work, device: torch.device) -> dict[str, float]:
    """Time in kernels, copies left out, beside the time of the whole call."""
    contestant = Ours(work, work.claims[0], device)
    timed(contestant, 1, device)
    run = contestant.prepare(work.epochs)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        started = time.perf_counter()
        run()
        wait_for(device)
        seconds = time.perf_counter() - started
    on_device = [event for event in profiler.key_averages() if event.device_type.name == "CUDA"]
    kernels = sum(event.self_device_time_total for event in on_device if not event.key.startswith(COPIES)) / 1e6
    return {"seconds": seconds, "kernel_seconds": kernels, "share": kernels / seconds}


def largest_batch(work: Work, device: torch.device) -> dict[str, int]:
    """The largest power of two whose forward and backward fit, and the memory that it takes at most."""
    module = work.module().to(device).eval().requires_grad_(False)
    found = {"items": 0, "bytes": 0}
    items = 1024
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    # cuDNN's recurrent layers run backward only in training mode, and refinement runs in evaluation mode
    with torch.backends.cudnn.flags(enabled=not recurrent):
        while items <= 2**28:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            try:
                x = torch.zeros(items, *work.input_shape, device=device, requires_grad=True)
                torch.autograd.grad(module(x).sum(), x)
                wait_for(device)
            except RuntimeError:
                # an index beyond 32 bits ends it as well as a lack of memory does
                break
            found = {"items": items, "bytes": torch.cuda.max_memory_allocated(device)}
            items *= 2
    torch.cuda.empty_cache()
    return found
