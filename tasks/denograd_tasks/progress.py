"""Who wants to know how far a run is: a terminal, usually. Stages tell; one listener at a time is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """Told what happens, in order."""

    def started(self, stage: str) -> None:
        """A stage begins."""

    def advanced(self, stage: str, share: float, text: str) -> None:
        """A running stage has come this far, 0 to 1."""

    def finished(self, stage: str, text: str, reused: bool) -> None:
        """A stage is done, or its earlier result was reused."""

    def warned(self, text: str) -> None:
        """Something beside the work went wrong, which goes on."""


class _Silent:
    def started(self, stage: str) -> None: ...

    def advanced(self, stage: str, share: float, text: str) -> None: ...

    def finished(self, stage: str, text: str, reused: bool) -> None: ...

    def warned(self, text: str) -> None: ...


_listener: Listener = _Silent()


def listener() -> Listener:
    """Whoever listens now."""
    return _listener


@contextmanager
def listening(to: Listener) -> Iterator[None]:
    """Tell this listener until the end of the block."""
    global _listener  # noqa: PLW0603
    before, _listener = _listener, to
    try:
        yield
    finally:
        _listener = before
