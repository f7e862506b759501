"""Published releases of the PyPI package `denograd`, each in its own folder, to compare with.

They are never installed into the environment, and nothing of theirs is distributed with this project.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

BENCH = Path(__file__).resolve().parents[2] / ".bench"


def installed(version: str) -> Path:
    """The folder that holds this release; it is downloaded the first time.

    Raises:
        SystemExit: If pip cannot install it.
    """
    folder = _folder(version)
    if is_installed(version):
        return folder
    BENCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BENCH) as scratch:
        target = Path(scratch) / "target"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        command = [*pip, "--no-deps", "--target", str(target), f"denograd=={version}"]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"pip could not install denograd {version} into {folder}")
        target.rename(folder)
    return folder


def is_installed(version: str) -> bool:
    """Whether this release is there already."""
    return _folder(version).is_dir()


def _folder(version: str) -> Path:
    return BENCH / f"denograd-{version}"


@contextmanager
def imported(version: str) -> Iterator[ModuleType]:
    """The release's module, importable only within; afterwards the interpreter knows nothing of it."""
    folder = str(installed(version))
    aside = _taken()
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        module = importlib.import_module("denograd")
        if not str(module.__file__).startswith(folder):
            raise ImportError(f"denograd was imported from {module.__file__}, not from {folder}")
        yield module
    finally:
        sys.path.remove(folder)
        _taken()
        sys.modules.update(aside)


def _taken() -> dict[str, ModuleType]:
    """Take every module of that name out of the interpreter."""
    names = [name for name in sys.modules if name.partition(".")[0] == "denograd"]
    return {name: sys.modules.pop(name) for name in names}
