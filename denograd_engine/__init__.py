"""Refinement of noisy tables and series by a network trained on them: the science, on plain frames.

    schema = infer_schema(frame, target="price")
    backbone = train(frame, schema)
    result = refine(frame, backbone)
    result.frame, result.rows, result.totals

Names are imported on first use, so that importing the package brings neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denograd_engine.columns import Column as Column
    from denograd_engine.columns import Role as Role
    from denograd_engine.compat import DenoGrad as DenoGrad
    from denograd_engine.crossfit import train_folds as train_folds
    from denograd_engine.evaluate import Recovery as Recovery
    from denograd_engine.evaluate import recovery as recovery
    from denograd_engine.fidelity import Fidelity as Fidelity
    from denograd_engine.fidelity import measure_fidelity as measure_fidelity
    from denograd_engine.frames import Encoder as Encoder
    from denograd_engine.noise import add_gaussian_noise as add_gaussian_noise
    from denograd_engine.refinement import Refinement as Refinement
    from denograd_engine.refinement import Refining as Refining
    from denograd_engine.refinement import refine as refine
    from denograd_engine.schema import Schema as Schema
    from denograd_engine.schema import Series as Series
    from denograd_engine.schema import infer_schema as infer_schema
    from denograd_engine.smoothing import Smoothing as Smoothing
    from denograd_engine.training import Backbone as Backbone
    from denograd_engine.training import Training as Training
    from denograd_engine.training import assess as assess
    from denograd_engine.training import train as train

__version__ = "0.1.0"

_HOME = {
    "Backbone": "training",
    "Column": "columns",
    "DenoGrad": "compat",
    "Encoder": "frames",
    "Fidelity": "fidelity",
    "Recovery": "evaluate",
    "Refinement": "refinement",
    "Refining": "refinement",
    "Role": "columns",
    "Schema": "schema",
    "Series": "schema",
    "Smoothing": "smoothing",
    "Training": "training",
    "add_gaussian_noise": "noise",
    "assess": "training",
    "infer_schema": "schema",
    "measure_fidelity": "fidelity",
    "recovery": "evaluate",
    "refine": "refinement",
    "train": "training",
    "train_folds": "crossfit",
}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
