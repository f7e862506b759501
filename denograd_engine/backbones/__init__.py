"""The networks that learn the data, by name. A new one is a file here and a line in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

REGISTRY: Mapping[str, str] = {
    "mlp": "denograd_engine.backbones.mlp:MLP",
    "lstm": "denograd_engine.backbones.lstm:LSTM",
}
"""Class of each backbone, as module:name. Constructed as `cls(input_shape, outputs, **arguments)`."""

DEFAULTS: Mapping[str, str] = {"table": "mlp", "series": "lstm"}


def build(
    kind: str, input_shape: tuple[int, ...], outputs: int, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A freshly initialised backbone.

    Args:
        kind: A name of `REGISTRY`.
        input_shape: (columns,) for tables, (window, columns) for series.
        outputs: Number of targets.
        arguments: Keyword arguments of the architecture.

    Raises:
        ConfigError: If the name is unknown, an argument is, or the backbone cannot read this shape.
    """
    if kind not in REGISTRY:
        raise ConfigError(f"there is no backbone {kind!r}", expected=" or ".join(REGISTRY), where="backbone.kind")
    module, name = REGISTRY[kind].split(":")
    architecture = getattr(import_module(module), name)
    try:
        backbone: nn.Module = architecture(input_shape, outputs, **(arguments or {}))
    except TypeError as error:
        raise ConfigError(
            f"backbone {kind!r} does not take these arguments",
            found=str(error).split("__init__() ")[-1],
            where="backbone.arguments",
        ) from None
    return backbone
