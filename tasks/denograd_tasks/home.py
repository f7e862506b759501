"""The home folder: everything that a run without servers keeps, under `DENOGRAD_HOME` or `./.denograd`."""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
from pathlib import Path


def home() -> Path:
    """The home folder, which need not exist yet."""
    return Path(os.environ.get("DENOGRAD_HOME") or ".denograd").expanduser().absolute()


def default_root() -> str:
    """Where versions are published unless the configuration says otherwise."""
    return str(home() / "published")


def default_tracking_uri() -> str:
    """The MLflow store unless the configuration or `MLFLOW_TRACKING_URI` says otherwise."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"


def person() -> str | None:
    """Who is logged in on this machine; None if that is not known."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def scratch() -> Path:
    """This process's folder for files on their way into the store, created; removed when the process ends."""
    folder = home() / "tmp" / str(os.getpid())
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        atexit.register(_remove, folder)
    return folder


def _remove(folder: Path) -> None:
    if folder.name == str(os.getpid()):  # and not in a fork
        shutil.rmtree(folder, ignore_errors=True)


def left_scratch() -> list[Path]:
    """The folders of processes that ended without removing them."""
    import psutil

    return [
        folder
        for folder in (home() / "tmp").glob("*")
        if folder.name.isdigit() and int(folder.name) != os.getpid() and not psutil.pid_exists(int(folder.name))
    ]


def sweep_scratch() -> int:
    """Remove the folders of processes that ended without doing so; returns how many."""
    left = left_scratch()
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)
