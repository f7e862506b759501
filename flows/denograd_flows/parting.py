"""The end of the command: what Prefect was not told yet is delivered, for as long as that may take."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import cast

import typer

LONGEST = 30
"""Seconds that are waited for a server to take the rest of the events and logs."""


def to_the_end(command: Callable[[], None]) -> None:
    """Call a command, and end the process with it, also where the Prefect server is away.

    At exit Prefect tries to deliver whatever is queued, dozens of items, each of them for minutes.
    """
    try:
        command()
    except BaseException as ended:
        if _delivered():
            raise
        code = ended.code if isinstance(ended, SystemExit) else 1
        if not isinstance(ended, SystemExit):
            traceback.print_exc()
        typer.echo("The Prefect server does not answer: it was not told all of this.", err=True)
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


def _delivered() -> bool:
    """Whether nothing is left to tell a Prefect server; that of this run alone answers, and is ended at exit."""
    if "prefect" not in sys.modules:
        return True
    from prefect.events.worker import EventsWorker
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return True
    try:
        drained = EventsWorker.drain_all(timeout=LONGEST)  # and every other queue: they are in one register
    except KeyboardInterrupt:
        return False
    _, left = cast("tuple[set[Future[bool]], set[Future[bool]]]", drained)
    return not left
