"""What goes wrong around a run, told by name: a full disk, a Prefect server that went away."""

from __future__ import annotations

from collections.abc import Iterator

from denograd_engine.errors import DenogradError, ServiceError
from denograd_tasks.home import home
from denograd_tasks.settings import without_credentials
from denograd_tasks.store import FULL, no_room


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def named(error: Exception) -> Exception:
    """The error as one of this project's where its cause is known; else itself."""
    import httpx

    if isinstance(error, DenogradError):
        return error
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in FULL:
            return no_room(str(cause.filename or home()), cause.strerror)
        if isinstance(cause, httpx.TransportError):
            return _away(cause)
    return error


def _away(error: Exception) -> ServiceError:
    from prefect.settings import get_current_settings

    return ServiceError(
        "the Prefect server went away",
        found=type(error).__name__,
        where=without_credentials(get_current_settings().api.url or "the temporary server of this run"),
        remedy="see that it is up, and run again: it goes on after the last finished stage",
    )
