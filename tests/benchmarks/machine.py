"""The machine in a few words, for a reader of the times."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import torch

from denograd_engine import __version__


def describe(device: torch.device) -> dict[str, str | float]:
    """Processor, cores, threads, load, versions, and the graphics processor where that is what computes."""
    found: dict[str, str | float] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "prefect-denograd": __version__,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def in_words(machine: dict[str, str | float]) -> str:
    processor = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} torch threads"
    gpu = f", {machine['gpu']}" if "gpu" in machine else ""
    software = f"{machine['os']}, Python {machine['python']}, torch {machine['torch']}"
    return f"{processor}{gpu}, load average {machine['load']}; {software}"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
