"""What a backbone can read, checked in one place."""

from __future__ import annotations

from denograd_engine.errors import ConfigError


def series_shape(kind: str, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """The window and the number of columns that a backbone for series reads.

    Args:
        kind: Name of the backbone.
        input_shape: (window, columns).

    Raises:
        ConfigError: If it is the shape of a table's rows.

    >>> series_shape("lstm", (24, 7))
    (24, 7)
    """
    if len(input_shape) != 2:
        raise ConfigError(
            f"backbone {kind!r} reads series, and these data are a table",
            where="backbone.kind",
            remedy="choose 'mlp', or declare the time axis under series",
        )
    return input_shape


def table_shape(kind: str, input_shape: tuple[int, ...]) -> int:
    """The number of columns that a backbone for tables reads.

    Raises:
        ConfigError: If it is the shape of a series' windows.

    >>> table_shape("tabpfn", (7,))
    7
    """
    if len(input_shape) != 1:
        raise ConfigError(
            f"backbone {kind!r} reads tables, and these data are a series",
            where="backbone.kind",
            remedy="choose 'lstm', or leave out series",
        )
    return input_shape[0]
