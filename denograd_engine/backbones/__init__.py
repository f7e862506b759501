"""The networks that learn the data, by name. A new one is a file here and a line in the registry.

A backbone is a `torch.nn.Module`, constructed as `cls(input_shape, outputs, **arguments)`. It maps standardised inputs
of shape (items, *input_shape) to (items, outputs), in the type of its weights. In evaluation mode an item's output
depends on no other item, and it is smooth in the input, which refinement moves along its gradient. It can be exported
by `torch.export` for any number of items, and comes back the same from its arguments and `state_dict`.

Three things are optional:

    scan(steps, starts)     For series: predictions, shape (windows, outputs), of the windows that begin at `starts`,
                            shape (windows,), in one series `steps`, shape (steps, columns). They are what `forward`
                            gives for the gathered windows, but all that overlapping windows share is computed once.
                            Differentiable with respect to `steps`. How many windows go into one call is the caller's
                            business.
    linear = True           Beside `scan`: outputs are a linear map of the window, with the same gradient everywhere.
    condition(x, y)         For networks that come trained: reads the data, shapes (items, *input_shape) and
                            (items, outputs), in place of gradient descent on the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from denograd_engine.backbones import custom
from denograd_engine.errors import ConfigError
from denograd_engine.user_code import is_custom

if TYPE_CHECKING:
    from torch import nn

REGISTRY: Mapping[str, str] = {
    "mlp": "denograd_engine.backbones.mlp:MLP",
    "lstm": "denograd_engine.backbones.lstm:LSTM",
    "gru": "denograd_engine.backbones.gru:GRU",
    "cnn": "denograd_engine.backbones.cnn:CNN",
    "cnn_lstm": "denograd_engine.backbones.cnn_lstm:CNNLSTM",
    "transformer": "denograd_engine.backbones.transformer:Transformer",
    "dlinear": "denograd_engine.backbones.dlinear:DLinear",
    "xlstm": "denograd_engine.backbones.xlstm:XLSTM",
    "tabpfn": "denograd_engine.backbones.tabpfn:TabPFN",
}
"""Class of each backbone, as module:name. Constructed as `cls(input_shape, outputs, **arguments)`."""

DEFAULTS: Mapping[str, str] = {"table": "mlp", "series": "lstm"}


def build(
    kind: str, input_shape: tuple[int, ...], outputs: int, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A freshly initialised backbone.

    Args:
        kind: A name of `REGISTRY`, or a class or factory of the user's own, such as `mypkg.nets:MyNet`.
        input_shape: (columns,) for tables, (window, columns) for series.
        outputs: Number of targets.
        arguments: Keyword arguments of the architecture.

    Raises:
        ConfigError: If the name is unknown, an argument is, or the backbone cannot read this shape.
    """
    if kind not in REGISTRY:
        if is_custom(kind):
            return custom.construct(kind, input_shape, outputs, arguments)
        near = get_close_matches(kind, REGISTRY, n=1)
        raise ConfigError(
            f"there is no backbone {kind!r}",
            expected=f"{' or '.join(REGISTRY)}, or a class such as mypkg.nets:MyNet",
            where="backbone.kind",
            remedy=f"did you mean {near[0]!r}?" if near else None,
        )
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
