"""Prefect flows over the `denograd_tasks`, and the `denograd` command.

from denograd_flows import clean
from denograd_tasks import load_settings

result = clean(load_settings("denograd.yaml"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denograd_flows.clean_flow import clean as clean
    from denograd_flows.outcome import Outcome as Outcome

_HOME = {"clean": "clean_flow", "Outcome": "outcome"}

__all__ = [*_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
