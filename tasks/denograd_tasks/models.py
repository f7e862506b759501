"""The exported backbone: its weights, its scaling and its architecture. Loading executes no pickle.

The weights are in a program of `torch.export`, or where that cannot follow a network, in safetensors. Our own networks
are constructed again and take the weights out of either; a user's network runs as its program, so that reading it back
needs none of the user's code, and is constructed again where there is no program. The networks of several folds are
always in safetensors, one beside the other, and constructed again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from denograd_engine.errors import ConfigError, ServiceError, StoreError
from denograd_engine.user_code import BACKBONE, is_custom, source_digest
from denograd_tasks.home import scratch
from denograd_tasks.inert import TRACING, load_program
from denograd_tasks.records import Architecture, TrainedBackbone
from denograd_tasks.store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from denograd_engine.frames import Encoder
    from denograd_engine.training import Backbone

PROGRAM = "model.pt2"
WEIGHTS = "model.safetensors"
SCALING = "encoder.json"
ARCHITECTURE = "architecture.json"


def encoder_json(encoder: Encoder) -> bytes:
    """The scaling in canonical JSON."""
    return json.dumps(encoder.to_dict(), sort_keys=True, indent=1).encode()


def weights_digest(module: nn.Module, encoder: Encoder, architecture: Architecture) -> str:
    """sha256 over architecture and scaling, and every weight and buffer by name, type, shape and bytes."""
    return tensors_digest(architecture.to_json() + encoder_json(encoder), module.state_dict())


def tensors_digest(described: bytes, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over a description and named tensors."""
    digest = hashlib.sha256(described)
    for name, weight in sorted(tensors.items()):
        array = weight.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def require_weights(record: TrainedBackbone) -> None:
    """Read the export back: an earlier one of the same weights may have been there, whole or not.

    Raises:
        StoreError: If it does not hold the weights and the scaling of the record.
    """
    try:
        exported = load_backbone(record, "cpu")
        found = weights_digest(exported.module, exported.encoder, record.architecture)
    except (ServiceError, ConfigError):
        raise
    except Exception:  # whatever a damaged file makes torch or json raise
        found = None
    if found != record.digest:
        raise damaged(record, found)


def damaged(record: TrainedBackbone, found: str | None) -> StoreError:
    """The error of an export that does not hold what its record says.

    Args:
        record: Of the export.
        found: The digest of what it holds; None if nothing in it can be read.
    """
    return StoreError(
        "the exported model is damaged",
        expected=f"weights and scaling with the digest {record.digest}",
        found=found or "no readable model",
        where=open_store(record.root).uri(record.weights.path.rsplit("/", 1)[0]),
        remedy="move it away and run again, and it is written anew",
    )


def load_backbone(record: TrainedBackbone, device: str) -> Backbone:
    """The backbone of a record, from the publishing root.

    Raises:
        StoreError: If its files are gone, or hold anything that loading them would run.
        ConfigError: If the user's code that is needed to construct it has changed or is gone.
    """
    from denograd_engine.frames import Encoder
    from denograd_engine.training import Backbone

    store = open_store(record.root)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        module = load_module(store.fetch(record.weights.path, Path(folder)), record.architecture, device)
    encoder = Encoder.from_dict(json.loads(store.read(record.file(SCALING).path)))
    return Backbone(module, encoder, record.skill, record.residual_scale, criterion=record.architecture.criterion)


def load_module(path: Path, architecture: Architecture, device: str) -> nn.Module:
    """The network whose weights are in this file."""
    if path.name.endswith(".safetensors"):
        return rebuild(architecture, weights_in(path))
    with TRACING:
        program = load_program(path)
        if architecture.rebuilt:
            return rebuild(architecture, program.state_dict)
        return _placed(program, device)


def rebuild(architecture: Architecture, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network constructed again, with these weights, in evaluation mode; with folds, the list of them.

    Raises:
        ConfigError: If the user's code has changed since, or is gone.
        StoreError: If the weights are those of another network.
    """
    import torch

    from denograd_engine.backbones import build

    if architecture.folds is not None:
        alone = architecture.model_copy(update={"folds": None})
        parts = (_of_fold(weights, number) for number in range(architecture.folds))
        return torch.nn.ModuleList([rebuild(alone, part) for part in parts]).eval()
    if is_custom(architecture.kind) and source_digest(architecture.kind, BACKBONE) != architecture.source:
        raise ConfigError(
            f"the source of backbone {architecture.kind!r} has changed since it was trained",
            where="backbone.kind",
            remedy="run again, and it is trained anew",
        )
    with torch.random.fork_rng(devices=[]):
        module = build(architecture.kind, architecture.input_shape, architecture.outputs, architecture.arguments)
    for name, buffer in list(module.named_buffers()):
        if name in weights and weights[name].shape != buffer.shape:  # it grew with what the network was shown
            owner, _, last = name.rpartition(".")
            setattr(module.get_submodule(owner), last, torch.empty_like(weights[name]))
    floating = (weight.dtype for weight in weights.values() if weight.is_floating_point())
    try:
        module.to(next(floating, torch.get_default_dtype())).load_state_dict(dict(weights))
    except RuntimeError as error:
        raise StoreError(
            "the weights do not fit the network", found=str(error).splitlines()[0][:200], where=architecture.kind
        ) from None
    return module.eval()


def _of_fold(weights: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    prefix = f"{number}."
    return {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}


def weights_in(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        StoreError: If it is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise StoreError("the weights cannot be read", found=str(error)[:200], where=str(path)) from None


def _placed(program: ExportedProgram, device: str) -> nn.Module:
    from denograd_engine.devices import resolve_device

    target = resolve_device(device)
    if target.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, target)
    return program.module()
