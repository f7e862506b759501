"""One small file for each measurement: written whole or not at all, and only believed if it is whole."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from denograd_engine.bench.grid import Cell

FOLDER = "cells"


@dataclass(frozen=True)
class Result:
    """What came of a cell.

    Attributes:
        figures: By name, see `protocols.measure`; empty if it failed.
        error: What went wrong; None if nothing did.
    """

    figures: dict[str, float]
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether there is nothing to read."""
        return self.error is not None


def path_of(folder: Path, cell: Cell) -> Path:
    """Where a cell's result is kept."""
    return folder / FOLDER / f"{cell.digest}.json"


def write(folder: Path, cell: Cell, result: Result) -> None:
    """Keep a result; a reader sees the earlier file or this one, never a part."""
    finite = {name: value if math.isfinite(value) else None for name, value in result.figures.items()}
    content = {"cell": asdict(cell), "figures": finite, "error": result.error}
    replace(path_of(folder, cell), json.dumps({**content, "sha256": _checksum(content)}, indent=1).encode())


def read(folder: Path, cell: Cell) -> Result | None:
    """The result that is kept of a cell; None if there is none, or it is damaged."""
    try:
        content = json.loads(path_of(folder, cell).read_text(encoding="utf-8"))
        checksum = content.pop("sha256")
        if checksum != _checksum(content):
            return None
        figures = {name: math.nan if value is None else float(value) for name, value in content["figures"].items()}
        return Result(figures, content["error"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(content)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
