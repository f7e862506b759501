"""What is installed, which device would be used, which stores and servers answer."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel

from denograd_engine.errors import DenogradError
from denograd_flows.servers import Used, mlflow_used, prefect_used
from denograd_tasks.blocks import REFERENCE
from denograd_tasks.home import default_root, default_tracking_uri, home
from denograd_tasks.settings import Settings, without_credentials

PACKAGES = ("prefect-denograd", "torch", "prefect", "mlflow", "great-expectations", "pandas", "pyarrow", "obstore")
LARGEST_DIFFERENCE = 30
"""Seconds between clocks, beyond which schedules, leases and time stamps go wrong."""


class Finding(BaseModel):
    """One thing looked at.

    Attributes:
        what: Its name.
        ok: Whether it can be used.
        detail: What was found.
        warning: Whether it can be used, but is not as it should be.
    """

    what: str
    ok: bool
    detail: str
    warning: bool = False


def examine(settings: Settings | None) -> list[Finding]:
    """Look at everything; nothing is changed, and nothing raises."""
    root = settings.publish.root if settings else default_root()
    tracking = settings.tracking.uri if settings else default_tracking_uri()
    clocks: dict[str, float] = {}

    def server(what: str, used: Callable[[], Used]) -> Finding:
        def at() -> Finding:
            found = used()
            if found.ahead is not None:
                clocks[what] = found.ahead
            return Finding(what=what, ok=True, detail=found.detail, warning=found.outdated)

        return _look(what, at)

    findings = [
        _look("python", lambda: f"{platform.python_version()} on {platform.platform()}"),
        *(_look(name, lambda name=name: version(name)) for name in PACKAGES),  # type: ignore[misc]
        _look("device", _device),
        _look("home", _home),
        _look("publishing root", lambda: _root(root)),
        server("tracking", lambda: mlflow_used(tracking)),
        server("prefect", prefect_used),
    ]
    return [*findings, _clocks(clocks)] if clocks else findings


def _look(what: str, at: Callable[[], str | Finding]) -> Finding:
    try:
        found = at()
    except PackageNotFoundError:
        return Finding(what=what, ok=False, detail="not installed")
    except DenogradError as error:
        detail = f"{error.problem}: {error.found or ''} ({error.where or ''})"
        return Finding(what=what, ok=False, detail=without_credentials(detail))
    except Exception as error:
        detail = f"{type(error).__name__}: {without_credentials(str(error))[:200]}"
        return Finding(what=what, ok=False, detail=detail)
    return found if isinstance(found, Finding) else Finding(what=what, ok=True, detail=found)


def _clocks(ahead: dict[str, float]) -> Finding:
    """The servers' clocks beside ours; their answers name whole seconds."""
    apart = {what: seconds for what, seconds in ahead.items() if abs(seconds) > LARGEST_DIFFERENCE}
    if not apart:
        return Finding(what="clocks", ok=True, detail=f"{' and '.join(ahead)} within {LARGEST_DIFFERENCE} s of ours")
    detail = "; ".join(
        f"{what} is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine"
        for what, seconds in apart.items()
    )
    return Finding(what="clocks", ok=True, detail=f"{detail}: synchronise them", warning=True)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"cuda, {torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return f"cpu, {torch.get_num_threads()} threads (no GPU that torch can use)"


def _home() -> str:
    folder = home()
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{existing} cannot be written to")
    free = shutil.disk_usage(existing).free / 2**30
    return f"{folder}, {free:.1f} GiB free" + ("" if folder.exists() else ", not created yet")


def _root(root: str) -> str:
    from denograd_tasks.store import open_store
    from denograd_tasks.versions import datasets

    if not root.startswith(REFERENCE) and "://" not in root and not Path(root).exists():
        return f"{root}, not created yet"
    store = open_store(root)
    where = without_credentials(store.root)
    return f"{where if where == root else f'{root}: {where}'}, {len(datasets(store))} data sets"
