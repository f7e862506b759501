"""Writing a backbone as files that run nothing when they are read, in MLflow's layout.

`torch.export` is tried first. What it gives must predict and descend as the network itself does, for other numbers of
items than it was traced with; where it does not, the weights are kept in safetensors, and the network must come back
whole from its kind and arguments.
"""

from __future__ import annotations

import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denograd_engine.backbones import REGISTRY
from denograd_engine.errors import ConfigError, DenogradError
from denograd_tasks.inert import TRACING, load_program
from denograd_tasks.models import ARCHITECTURE, PROGRAM, SCALING, WEIGHTS, encoder_json, rebuild
from denograd_tasks.records import Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

    from denograd_engine.frames import Encoder

TRACED = 2
"""Items that a network is traced with."""
FLAVOR = "denograd"


@dataclass(frozen=True)
class Export:
    """The files of a backbone.

    Attributes:
        folder: A model in MLflow's layout, with scaling and architecture.
        weights: The file in it that holds the weights.
        architecture: With the way in which it comes back.
    """

    folder: Path
    weights: Path
    architecture: Architecture


def export(module: nn.Module, encoder: Encoder, architecture: Architecture, inputs: Tensor, folder: Path) -> Export:
    """Write a backbone.

    Args:
        module: Frozen, in evaluation mode, on the CPU; the list of them where the architecture has folds.
        encoder: Its scaling.
        architecture: What it is.
        inputs: A few items, more than `TRACED`, that every way back is tried with.
        folder: To be made.

    Raises:
        ConfigError: If nothing brings this network back as it is.
    """
    with TRACING:
        if architecture.folds is not None:
            return _export_folds(module, encoder, architecture, inputs, folder)
        return _export_one(module, encoder, architecture, inputs, folder)


def _export_one(
    module: nn.Module, encoder: Encoder, architecture: Architecture, inputs: Tensor, folder: Path
) -> Export:
    """Write a program where the network can be followed, else its weights."""
    reason = _write_program(module, inputs, folder)
    ours = architecture.kind in REGISTRY
    if reason is None and not ours:
        architecture = architecture.model_copy(update={"rebuilt": False})
    else:
        found = _differs(module, inputs, lambda: rebuild(architecture, module.state_dict()))
        architecture = architecture.model_copy(update={"rebuilt": found is None})
        if reason is not None and found is not None:
            raise ConfigError(
                f"backbone {architecture.kind!r} cannot be exported",
                expected="a forward pass that torch.export can follow, or one that kind and arguments bring back",
                found=f"{reason}; constructed again: {found}",
                where="backbone.kind",
                remedy="keep everything that training changes in parameters and buffers",
            )
    if reason is not None:
        shutil.rmtree(folder, ignore_errors=True)
        _write_weights(module, module, inputs, folder)
    return _described(folder, PROGRAM if reason is None else WEIGHTS, encoder, architecture)


def _export_folds(
    module: nn.Module, encoder: Encoder, architecture: Architecture, inputs: Tensor, folder: Path
) -> Export:
    """Write the networks of all folds as the tensors of one; each must come back from kind and arguments."""
    alone = architecture.model_copy(update={"folds": None})
    for network in module.children():
        found = _differs(network, inputs, partial(rebuild, alone, network.state_dict()))
        if found is not None:
            raise ConfigError(
                f"backbone {architecture.kind!r} cannot be exported in folds",
                expected="a network that kind and arguments bring back",
                found=found,
                where="backbone.training.folds",
                remedy="keep everything that training changes in parameters and buffers, or remove folds",
            )
    _write_weights(module, next(module.children()), inputs, folder)
    return _described(folder, WEIGHTS, encoder, architecture)


def _described(folder: Path, weights: str, encoder: Encoder, architecture: Architecture) -> Export:
    """The files with scaling and architecture beside them."""
    (folder / SCALING).write_bytes(encoder_json(encoder))
    (folder / ARCHITECTURE).write_bytes(architecture.to_json())
    return Export(folder, folder / "data" / weights, architecture)


def _write_program(module: nn.Module, inputs: Tensor, folder: Path) -> str | None:
    """Write a program with MLflow; returns why there is none."""
    import mlflow
    import torch

    example = inputs[:TRACED].numpy()
    try:
        with _quiet():
            mlflow.pytorch.save_model(
                module,
                path=str(folder),
                serialization_format="pt2",
                signature=_signature(module, inputs),
                input_example=example,
                pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            )
    except Exception as error:  # whatever tracing a network of the user's makes torch raise
        return _brief(error)
    return _differs(module, inputs, lambda: load_program(folder / "data" / PROGRAM).module())


def _write_weights(module: nn.Module, called: nn.Module, inputs: Tensor, folder: Path) -> None:
    from mlflow.models import Model
    from safetensors.torch import save_file

    (folder / "data").mkdir(parents=True)
    weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in module.state_dict().items()}
    save_file(weights, folder / "data" / WEIGHTS)
    described = Model(signature=_signature(called, inputs))
    described.add_flavor(FLAVOR, data=f"data/{WEIGHTS}", architecture=ARCHITECTURE, scaling=SCALING)
    described.save(str(folder / "MLmodel"))


def _signature(module: nn.Module, inputs: Tensor) -> Any:
    import torch
    from mlflow.models import infer_signature

    with torch.no_grad():
        return infer_signature(inputs[:TRACED].numpy(), module(inputs[:TRACED]).numpy())


def _differs(module: nn.Module, inputs: Tensor, bring_back: Callable[[], nn.Module]) -> str | None:
    """How what comes back differs from the network, for one item and for several; None if it does not."""
    import torch

    from denograd_engine.devices import frozen

    try:
        with _quiet():
            other = bring_back()
            for some in (inputs[:1], inputs):
                with frozen(other, inputs.device) as lent:
                    pairs = zip(_derived(module, some), _derived(lent, some), strict=True)
                    if not all(torch.allclose(*pair, rtol=1e-4, atol=1e-5, equal_nan=True) for pair in pairs):
                        return "other predictions or gradients"
    except DenogradError as error:
        return error.problem
    except Exception as error:  # whatever a program traced for another number of items makes torch raise
        return _brief(error)
    return None


def _derived(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    with torch.enable_grad():
        x = inputs.clone().requires_grad_()
        predicted = module(x)
        (gradient,) = torch.autograd.grad(predicted.square().sum(), x)
    return predicted.detach(), gradient


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing reports at length what it could not follow, in warnings, in logs, and on stderr itself."""
    noisy = [logging.getLogger(name) for name in ("torch", "torch.export", "torch.fx", "mlflow")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
