"""What is installed, which device would be used, which stores and servers answer."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel

from denograd_engine.errors import DenogradError
from denograd_tasks.home import default_root, default_tracking_uri, home
from denograd_tasks.settings import Settings

PACKAGES = ("prefect-denograd", "torch", "prefect", "mlflow", "great-expectations", "pandas", "pyarrow", "obstore")


class Finding(BaseModel):
    """One thing looked at."""

    what: str
    ok: bool
    detail: str


def examine(settings: Settings | None) -> list[Finding]:
    """Look at everything; nothing is changed, and nothing raises."""
    root = settings.publish.root if settings else default_root()
    tracking = settings.tracking.uri if settings else default_tracking_uri()
    return [
        _look("python", lambda: f"{platform.python_version()} on {platform.platform()}"),
        *(_look(name, lambda name=name: version(name)) for name in PACKAGES),  # type: ignore[misc]
        _look("device", _device),
        _look("home", _home),
        _look("publishing root", lambda: _root(root)),
        _look("tracking", lambda: _tracking(tracking)),
        _look("prefect", _prefect),
    ]


def _look(what: str, at: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, ok=True, detail=at())
    except PackageNotFoundError:
        return Finding(what=what, ok=False, detail="not installed")
    except DenogradError as error:
        return Finding(what=what, ok=False, detail=f"{error.problem}: {error.found or ''} ({error.where or ''})")
    except Exception as error:
        return Finding(what=what, ok=False, detail=f"{type(error).__name__}: {str(error)[:200]}")


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

    if "://" not in root and not Path(root).exists():
        return f"{root}, not created yet"
    return f"{root}, {len(datasets(open_store(root)))} data sets"


def _tracking(uri: str) -> str:
    if uri.startswith("sqlite:///"):
        path = uri.removeprefix("sqlite:///")
        if not Path(path).exists():
            return f"{uri}, not created yet"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            runs = database.execute("select count(*) from runs").fetchone()[0]
        return f"{uri}, {runs} runs"
    from denograd_tasks.tracking import client

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    experiments = client(uri).search_experiments()
    return f"{uri}, answers, {len(experiments)} experiments"


def _prefect() -> str:
    import httpx

    api = os.environ.get("PREFECT_API_URL")
    if not api:
        return f"a temporary server for each run, data in {os.environ.get('PREFECT_HOME', '~/.prefect')}"
    answer = httpx.get(f"{api.rstrip('/')}/admin/version", timeout=5)
    answer.raise_for_status()
    return f"{api}, answers, version {answer.json()}"
