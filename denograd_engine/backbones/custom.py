"""A backbone of the user's own, by the name of its class or factory.

It is constructed like ours, as `factory(input_shape, outputs, **arguments)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import ConfigError, DenogradError
from denograd_engine.user_code import BACKBONE, described, load, reason

if TYPE_CHECKING:
    from torch import nn


def construct(
    kind: str, input_shape: tuple[int, ...], outputs: int, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A freshly initialised backbone of the user's own.

    Raises:
        ConfigError: If it cannot be found, does not take these arguments, fails, or is no `torch.nn.Module`.
    """
    from torch import nn

    factory = load(kind, BACKBONE)
    try:
        inspect.signature(factory).bind(input_shape, outputs, **(arguments or {}))
    except TypeError as error:
        raise ConfigError(
            f"backbone {kind!r} does not take these arguments",
            expected="a call such as Name(input_shape, outputs, **backbone.arguments)",
            found=reason(error),
            where="backbone.arguments",
        ) from None
    except ValueError:  # some callables do not tell their signature
        pass
    try:
        backbone = factory(input_shape, outputs, **(arguments or {}))
    except DenogradError:
        raise
    except Exception as error:
        raise ConfigError(
            f"backbone {kind!r} cannot be constructed",
            found=described(error),
            where=f"{BACKBONE.where}, for inputs of shape {input_shape} and {outputs} outputs",
            remedy="correct the class or function, or backbone.arguments",
        ) from error
    if not isinstance(backbone, nn.Module):
        raise ConfigError(
            f"backbone {kind!r} is not a network",
            expected="a torch.nn.Module",
            found=f"a {type(backbone).__name__}",
            where=BACKBONE.where,
        )
    return backbone
