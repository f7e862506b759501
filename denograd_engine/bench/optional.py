"""Libraries that only the measuring stand needs, imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from denograd_engine.errors import ConfigError


def library(name: str) -> Any:
    """The module of this name.

    Raises:
        ConfigError: If it is not installed; names the extra that brings it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"the benchmark needs the package {name.partition('.')[0]}, which cannot be imported",
            found=str(error),
            remedy="pip install 'prefect-denograd[bench]'",
        ) from None
