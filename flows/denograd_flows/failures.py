"""What goes wrong around a run, told by name: a full disk, a Prefect server that went away."""

from __future__ import annotations

import errno

from denograd_engine.errors import ServiceError, StoreError
from denograd_tasks.settings import without_credentials

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def named(error: Exception) -> Exception:
    """The error as one of this project's where its cause is known; else itself."""
    if isinstance(error, OSError) and error.errno in FULL:
        from denograd_tasks.home import home

        return StoreError(
            "a file could not be written: there is no room",
            found=error.strerror,
            where=str(error.filename or home()),
            remedy="make room, and run again: it goes on after the last finished stage",
        )
    import httpx

    if isinstance(error, httpx.TransportError):
        from prefect.settings import get_current_settings

        return ServiceError(
            "the Prefect server went away",
            found=type(error).__name__,
            where=without_credentials(get_current_settings().api.url or "the temporary server of this run"),
            remedy="see that it is up, and run again: it goes on after the last finished stage",
        )
    return error
