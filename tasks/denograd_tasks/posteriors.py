"""The exported posterior model: its tensors in safetensors, everything else as JSON. Loading it executes nothing."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import ConfigError, ServiceError
from denograd_tasks.home import scratch
from denograd_tasks.models import SCALING, WEIGHTS, damaged, encoder_json, tensors_digest, weights_in
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_bytes, put_file

if TYPE_CHECKING:
    from denograd_engine.posterior.model import Posterior
    from denograd_tasks.records import File, TrainedBackbone
    from denograd_tasks.store import Store

DESCRIPTION = "posterior.json"
FLAVOR = "denograd"


def write_model(model: Posterior, folder: Path) -> str:
    """Write a model in MLflow's layout.

    Args:
        model: Fitted.
        folder: To be made.

    Returns:
        sha256 over its description, its scaling and every tensor by name, type, shape and bytes.
    """
    from mlflow.models import Model
    from safetensors.torch import save_file

    from denograd_engine.posterior.saving import to_plain

    plain, tensors = to_plain(model)
    described, scaling = _json(plain), encoder_json(model.encoder)
    (folder / "data").mkdir(parents=True)
    save_file({name: values.clone() for name, values in tensors.items()}, folder / "data" / WEIGHTS)
    (folder / DESCRIPTION).write_bytes(described)
    (folder / SCALING).write_bytes(scaling)
    layout = Model()
    layout.add_flavor(FLAVOR, data=f"data/{WEIGHTS}", posterior=DESCRIPTION, scaling=SCALING)
    layout.save(str(folder / "MLmodel"))
    return tensors_digest(described + scaling, tensors)


def put_model(store: Store, folder: Path, inside: str) -> tuple[File, ...]:
    """Copy what `write_model` wrote into the store, the tensors first."""
    described = (put_bytes(store, (folder / name).read_bytes(), f"{inside}/{name}") for name in (SCALING, DESCRIPTION))
    return put_file(store, folder / "data" / WEIGHTS, f"{inside}/{WEIGHTS}"), *described


def load_posterior(record: TrainedBackbone, device: str) -> Posterior:
    """The model of a record, from the publishing root.

    Raises:
        StoreError: If its files are gone, or are not those of the record.
        ConfigError: If there is no such device.
    """
    from denograd_engine.devices import resolve_device
    from denograd_engine.frames import Encoder
    from denograd_engine.posterior.saving import from_plain

    store, on, found = open_store(record.root), resolve_device(device), None
    described, scaling = (store.read(record.file(name).path) for name in (DESCRIPTION, SCALING))
    try:
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            tensors = weights_in(store.fetch(record.weights.path, Path(folder)))
        found = tensors_digest(described + scaling, tensors)
        if found == record.digest:
            return from_plain(_plain(described), tensors, Encoder.from_dict(json.loads(scaling)), on)
    except (ServiceError, ConfigError):
        raise
    except Exception as error:  # whatever a damaged file makes torch or json raise
        raise damaged(record, found) from error
    raise damaged(record, found)


def read_model(folder: Path) -> Posterior:
    """A model that `write_model` wrote, on the CPU, from wherever its tensors are below the folder.

    Raises:
        StoreError, ConfigError: If it is damaged.
    """
    import torch

    from denograd_engine.frames import Encoder
    from denograd_engine.posterior.saving import from_plain

    tensors = weights_in(next(folder.rglob(WEIGHTS)))
    encoder = Encoder.from_dict(json.loads((folder / SCALING).read_bytes()))
    return from_plain(_plain((folder / DESCRIPTION).read_bytes()), tensors, encoder, torch.device("cpu"))


def _json(plain: dict[str, Any]) -> bytes:
    """As JSON, which has no word for what is not a number; columns stay in the data's order."""
    columns = {name: {key: _known(value) for key, value in one.items()} for name, one in plain["columns"].items()}
    return json.dumps(plain | {"columns": columns}, indent=1, allow_nan=False).encode()


def _known(value: float | str | None) -> float | str | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def _plain(described: bytes) -> dict[str, Any]:
    """What `_json` wrote."""
    plain = dict(json.loads(described))
    for column in plain["columns"].values():
        column["skill"] = math.nan if column["skill"] is None else column["skill"]
    return plain
