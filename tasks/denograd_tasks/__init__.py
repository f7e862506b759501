"""The stages of a cleaning run as Prefect tasks, for your own flows.

    from denograd_tasks import ingest, check_input, train_backbone, refine, check_fidelity, report, publish, quarantine

Also the entry point that makes this a Prefect collection, and the blocks in it. Other names are imported on first use:
importing the package brings Prefect, but neither torch nor MLflow nor Great Expectations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import prefect as prefect

from denograd_tasks.blocks import DenogradStore as DenogradStore
from denograd_tasks.blocks import DenogradTracking as DenogradTracking

if TYPE_CHECKING:
    from denograd_tasks.settings import Settings as Settings
    from denograd_tasks.settings import load_settings as load_settings
    from denograd_tasks.stages.check_fidelity import check_fidelity as check_fidelity
    from denograd_tasks.stages.check_input import check_input as check_input
    from denograd_tasks.stages.ingest import ingest as ingest
    from denograd_tasks.stages.publish import publish as publish
    from denograd_tasks.stages.publish import quarantine as quarantine
    from denograd_tasks.stages.refine import refine as refine
    from denograd_tasks.stages.report import report as report
    from denograd_tasks.stages.train_backbone import train_backbone as train_backbone

_HOME = {
    "Settings": "settings",
    "check_fidelity": "stages.check_fidelity",
    "check_input": "stages.check_input",
    "ingest": "stages.ingest",
    "load_settings": "settings",
    "publish": "stages.publish",
    "quarantine": "stages.publish",
    "refine": "stages.refine",
    "report": "stages.report",
    "train_backbone": "stages.train_backbone",
}

__all__ = ["DenogradStore", "DenogradTracking", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
