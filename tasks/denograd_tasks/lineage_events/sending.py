"""Where events go: to a file in the home folder, one a line, and to a receiver if there is one.

A receiver is spoken to from a thread of its own, in order. One that is away costs a run no time while it works, and two
seconds at its end at most; after the first event that it does not take, it is left alone, with one warning.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from denograd_tasks.blocks import referred
from denograd_tasks.home import home
from denograd_tasks.lineage_events.settings import LineageSettings
from denograd_tasks.settings import without_credentials

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import RunEvent
    from openlineage.client.transport import Transport

PATIENCE = 2.0
"""Seconds for a receiver to take an event, and for all of them once the run is done."""


def events_file(dataset: str) -> Path:
    """Where the events of a data set's runs are kept."""
    return home() / "lineage" / f"{dataset}.jsonl"


class Sender:
    """Passes events on.

    Args:
        dataset: The data set.
        settings: Of the receiver.
        warn: Told once what went wrong.

    Attributes:
        file: Where events are kept.
        mark: A file that is there while a run has no end yet.
        url: Of the receiver; None without one.
    """

    def __init__(self, dataset: str, settings: LineageSettings, warn: Callable[[str], None]) -> None:
        logging.getLogger("openlineage").setLevel(logging.CRITICAL)
        self.file, self.warn = events_file(dataset), warn
        self.mark = self.file.with_suffix(".running")
        self.url = settings.url or os.environ.get("OPENLINEAGE_URL")
        self._settings = settings
        self._events: queue.SimpleQueue[RunEvent | None] = queue.SimpleQueue()
        self._failed: str | None = None
        self._kept = _client(_to_file(self.file))
        self._thread = threading.Thread(target=self._deliver, name="lineage", daemon=True)
        if self.url:
            self._thread.start()

    def send(self, event: RunEvent) -> None:
        """Keep an event, and have it delivered."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._kept.emit(event)
        if self.url:
            self._events.put(event)

    def close(self) -> None:
        """Wait for what is under way, not for long, and say if it did not arrive."""
        if not self.url:
            return
        self._events.put(None)
        self._thread.join(PATIENCE)
        failed = f"no answer within {PATIENCE:g} s" if self._thread.is_alive() else self._failed
        if failed:
            address = without_credentials(self.url)
            self.warn(f"lineage events did not reach {address} ({failed}); they are in {self.file}")

    def _deliver(self) -> None:
        client: OpenLineageClient | None = None
        while (event := self._events.get()) is not None:
            if self._failed:
                continue
            try:
                client = client or _client(_to_receiver(str(self.url), self._settings))
                client.emit(event)
            except Exception as error:  # whatever requests, urllib3 or a block make of it
                self._failed = _reason(error)
        if client is not None:
            client.close()


def _client(transport: Transport) -> OpenLineageClient:
    """A client that names the repository of the working folder without the credentials in its address."""
    from openlineage.client import OpenLineageClient
    from openlineage.client.git import get_git_repo_url

    address = get_git_repo_url()
    location = {} if address is None else {"disabled": False, "repo_url": without_credentials(address)}
    return OpenLineageClient(transport=transport, config={"facets": {"source_code_location": location}})


def _to_file(path: Path) -> Transport:
    from openlineage.client.transport.file import FileConfig, FileTransport

    return FileTransport(FileConfig(str(path), append=True))


def _to_receiver(url: str, settings: LineageSettings) -> Transport:
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

    key = os.environ.get("OPENLINEAGE_API_KEY")
    if settings.api_key is not None:
        from prefect.blocks.system import Secret

        secret: Secret[str] | None = referred(Secret, settings.api_key, "lineage.api_key")
        key = None if secret is None else str(secret.get())
    return HttpTransport(
        HttpConfig(
            url=f"{url.rstrip('/')}/",
            endpoint=os.environ.get("OPENLINEAGE_ENDPOINT", "api/v1/lineage"),
            timeout=PATIENCE,
            auth=ApiKeyTokenProvider({"apiKey": key}) if key else TokenProvider({}),
            retry={"total": 0},
        )
    )


def _reason(error: Exception) -> str:
    """What went wrong, in a word or two: texts of errors may hold what was sent."""
    response = getattr(error, "response", None)
    return type(error).__name__ if response is None else f"status {response.status_code}"
