"""What a result is computed with: versions of the packages that matter, the processor, how many threads."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "prefect-denograd",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "prefect",
    "mlflow",
    "great-expectations",
    "obstore",
)


@dataclass(frozen=True)
class Difference:
    """Something that is other than it was.

    Attributes:
        what: Its name.
        then: What it was; None if that was not written down, or it was not there.
        now: What it is.
    """

    what: str
    then: str | None
    now: str | None


def environment(device: str) -> dict[str, Any]:
    """What this process computes with, as manifests say it.

    Args:
        device: As in the configuration.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_revision": _git_revision(),
        "machine": _machine(device),
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    """What differs between two environments; what an earlier release did not write down counts as other.

    >>> differences({"python": "3.12", "packages": {"torch": "2.9"}}, {"python": "3.12", "packages": {"torch": "2.13"}})
    (Difference(what='torch', then='2.9', now='2.13'),)
    """
    before, after = _flat(then), _flat(now)
    names = dict.fromkeys([*after, *before])
    return tuple(
        Difference(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )


def _flat(plain: Mapping[str, Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            found |= _flat(value)
        else:
            found[name.replace("_", " ")] = None if value is None else str(value)
    return found


def _machine(device: str) -> dict[str, Any]:
    import torch

    from denograd_engine.devices import resolve_device

    on = resolve_device(device)
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": "cpu" if on.type == "cpu" else torch.cuda.get_device_name(on),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of this code, where it runs from a checkout."""
    git, checkout = shutil.which("git"), Path(__file__).parents[2]
    if git is None or not (checkout / ".git").exists() or not (checkout / "tasks" / "denograd_tasks").is_dir():
        return None
    asked = subprocess.run([git, "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None
