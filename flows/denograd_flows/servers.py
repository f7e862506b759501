"""Which Prefect and which MLflow a run would use: embedded or a server, whether it answers, its version, its clock."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from denograd_engine.errors import ServiceError
from denograd_tasks.settings import without_credentials

LONGEST = 5
"""Seconds that a server may take to answer."""
WAITS = (1, 2, 4)
"""Seconds between attempts to reach a server that is away."""
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Used:
    """What would be used.

    Attributes:
        detail: Embedded or a server, where, and its version, for people; without credentials.
        outdated: Whether the server is older than what is installed here.
        ahead: Seconds that its clock is ahead of ours, give or take one; None if it is embedded or does not say.
    """

    detail: str
    outdated: bool = False
    ahead: float | None = None


def prefect_used() -> Used:
    """The Prefect API.

    Raises:
        ServiceError: If the server does not answer.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    if not address:
        return Used(f"embedded: a temporary server for each run, data in {get_current_settings().home}")
    try:
        with get_client(httpx_settings={"timeout": LONGEST}, sync_client=True) as client:
            answer, ahead = _timed(lambda: client.request("GET", "/admin/version"))
    except (httpx.HTTPError, RuntimeError) as error:
        raise ServiceError(
            "the Prefect server does not answer as it should",
            found=without_credentials(str(error).partition("\n")[0])[:200] or type(error).__name__,
            where=without_credentials(address),
            remedy="check PREFECT_API_URL, and that the server is up",
        ) from None
    return _server("prefect", address, str(answer.json()), ahead)


def require_prefect() -> None:
    """Wait a little for a Prefect server that is away.

    Raises:
        ServiceError: If it does not come back.
    """
    for seconds in WAITS:
        try:
            prefect_used()
        except ServiceError:
            time.sleep(seconds)
        else:
            return
    prefect_used()


def mlflow_used(uri: str) -> Used:
    """The tracking server or store.

    Args:
        uri: As in the configuration.

    Raises:
        ServiceError: If it does not answer.
    """
    from denograd_tasks.tracking import address_of

    address = address_of(uri)
    found = _embedded(address) if address.startswith(SQLITE) else _mlflow(address)
    return found if address == uri else replace(found, detail=f"{uri}: {found.detail}")


def _mlflow(address: str) -> Used:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(LONGEST))
    from denograd_tasks.tracking import client, tracking_errors

    server = client(address)
    with tracking_errors(address):
        experiments = len(server.search_experiments())
        if not address.startswith("http"):
            return Used(f"database {without_credentials(address)}, answers, {experiments} experiments")
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        answer, ahead = _timed(lambda: http_request(get_default_host_creds(address), "/version", "GET"))
    return _server("mlflow", address, answer.text.strip(), ahead, f", {experiments} experiments")


def _embedded(uri: str) -> Used:
    path = uri.removeprefix(SQLITE)
    if not Path(path).exists():
        return Used(f"embedded: {uri}, not created yet")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        runs = database.execute("select count(*) from runs").fetchone()[0]
    return Used(f"embedded: {uri}, {runs} runs")


def _server(package: str, address: str, theirs: str, ahead: float | None, more: str = "") -> Used:
    ours, found = version(package), f"server {without_credentials(address)}, answers"
    try:
        outdated = Version(theirs) < Version(ours)
    except InvalidVersion:
        return Used(f"{found}, does not say its version{more}", ahead=ahead)
    return Used(f"{found}, version {theirs}{f', older than ours, {ours}' if outdated else ''}{more}", outdated, ahead)


def _timed(ask: Callable[[], Any]) -> tuple[Any, float | None]:
    """An HTTP answer, and how far the clock of the server is ahead of ours."""
    before = time.time()
    answer = ask()
    asked_at = (before + time.time()) / 2
    said = answer.headers.get("date")
    return answer, None if said is None else parsedate_to_datetime(said).timestamp() + 0.5 - asked_at
