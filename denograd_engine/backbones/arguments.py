"""Checks of the numbers that an architecture is built from."""

from __future__ import annotations

from denograd_engine.errors import ConfigError


def require_positive(**counts: int) -> None:
    """Refuse widths, depths and sizes below 1.

    Raises:
        ConfigError: Naming the first such argument.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(
                f"backbone.arguments.{name} must be at least 1", found=str(count), where=f"backbone.arguments.{name}"
            )


def require_dropout(dropout: float) -> None:
    """Refuse a share that is none.

    Raises:
        ConfigError: If it lies outside 0 to 1, or is 1, which would leave nothing.
    """
    if not 0 <= dropout < 1:
        raise ConfigError(
            "backbone.arguments.dropout must be at least 0 and below 1",
            found=str(dropout),
            where="backbone.arguments.dropout",
        )


def require_span(name: str, steps: int, window: int, remedy: str) -> None:
    """Refuse what spans more steps than a window has.

    Args:
        name: Of the argument that sets the span.
        steps: The span.
        window: Steps of a window.
        remedy: What to change, beside widening the window.

    Raises:
        ConfigError: If it does not fit.
    """
    if steps > window:
        raise ConfigError(
            f"backbone.arguments.{name} reaches beyond the window",
            expected=f"a span of at most {window} steps, the window",
            found=f"{steps} steps",
            where=f"backbone.arguments.{name}",
            remedy=f"{remedy}, or widen series.window to {steps}",
        )


def require_divisor(name: str, part: int, of: str, whole: int) -> None:
    """Refuse a part that does not divide the whole.

    Raises:
        ConfigError: Naming both.
    """
    if whole % part:
        raise ConfigError(
            f"backbone.arguments.{name} must divide {of}",
            expected="one of " + ", ".join(str(one) for one in range(1, min(whole, 64) + 1) if whole % one == 0),
            found=f"{part}, while {of} is {whole}",
            where=f"backbone.arguments.{name}",
        )
