"""The exported backbone: a torch.export program, and the scaling as JSON. Loading executes no pickle."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from denograd_engine.errors import ServiceError, StoreError
from denograd_tasks.home import scratch
from denograd_tasks.records import TrainedBackbone
from denograd_tasks.store import open_store

if TYPE_CHECKING:
    from torch import nn

    from denograd_engine.frames import Encoder
    from denograd_engine.training import Backbone

PROGRAM = "model.pt2"
SCALING = "encoder.json"


def encoder_json(encoder: Encoder) -> bytes:
    """The scaling in canonical JSON."""
    return json.dumps(encoder.to_dict(), sort_keys=True, indent=1).encode()


def weights_digest(module: nn.Module, encoder: Encoder) -> str:
    """sha256 over every weight and buffer by name, type, shape and bytes, and the scaling."""
    digest = hashlib.sha256(encoder_json(encoder))
    for name, weight in sorted(module.state_dict().items()):
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
        found = weights_digest(exported.module, exported.encoder)
    except ServiceError:
        raise
    except Exception:  # whatever a damaged file makes torch or json raise
        found = None
    if found != record.digest:
        raise StoreError(
            "the exported model is damaged",
            expected=f"weights and scaling with the digest {record.digest}",
            found=found or "no readable model",
            where=open_store(record.root).uri(record.file(PROGRAM).path.rsplit("/", 1)[0]),
            remedy="move it away and run again, and it is written anew",
        )


def load_backbone(record: TrainedBackbone, device: str) -> Backbone:
    """The backbone of a record, from the publishing root.

    Raises:
        StoreError: If its files are gone.
    """
    import torch

    from denograd_engine.devices import resolve_device
    from denograd_engine.frames import Encoder
    from denograd_engine.training import Backbone

    store = open_store(record.root)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(store.fetch(record.file(PROGRAM).path, Path(folder)))
    target = resolve_device(device)
    if target.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, target)
    encoder = Encoder.from_dict(json.loads(store.read(record.file(SCALING).path)))
    return Backbone(program.module(), encoder, record.skill, record.residual_scale)
