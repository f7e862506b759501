"""Which Prefect and which MLflow a run would use: embedded or a server, whether it answers, its version, its clock."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from packaging.version import InvalidVersion, Version

from denograd_engine.errors import ServiceError
from denograd_flows.failures import causes
from denograd_tasks.settings import without_credentials

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

LONGEST = 5
"""Seconds that a server may take to say that it is there."""
WAITS = (1, 2, 4, 8, 15, 30, 30)
"""Seconds between attempts to reach a server that is away: a minute of it, and its start, are waited for."""
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
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    if not address:
        return Used(f"embedded: a temporary server for each run, data in {get_current_settings().home}")
    try:
        with asked_once() as client:
            answer, ahead = _timed(lambda: client.request("GET", "/admin/version"))
    except (httpx.HTTPError, RuntimeError) as error:
        raise ServiceError(
            "the Prefect server does not answer as it should",
            found=without_credentials(str(error).partition("\n")[0])[:200] or type(error).__name__,
            where=without_credentials(address),
            remedy="check PREFECT_API_URL, and that the server is up",
        ) from error
    return _server("prefect", address, str(answer.json()), ahead)


def require_prefect() -> None:
    """Wait for a Prefect server that is away, and say so.

    Raises:
        ServiceError: If it does not come back, or does not answer as it should.
    """
    for at, seconds in enumerate(WAITS):
        try:
            prefect_used()
        except ServiceError as error:
            if not _away(error):
                raise
            if at == 0:
                typer.echo(f"Waiting for the Prefect server, which does not answer: {error.where}", err=True)
            time.sleep(seconds)
        else:
            return
    prefect_used()


@contextmanager
def asked_once() -> Iterator[SyncPrefectClient]:
    """A client of the Prefect API that neither waits for long nor tries again."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(httpx_settings={"timeout": LONGEST}, sync_client=True) as server,
    ):
        yield server


def _away(error: BaseException) -> bool:
    """Whether a server was not reached, or its proxy says so: it may come back."""
    import httpx

    return any(
        one.response.is_server_error
        if isinstance(one, httpx.HTTPStatusError)
        else isinstance(one, httpx.TransportError)
        for one in causes(error)
    )


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
    from denograd_tasks.tracking import client, impatient, tracking_errors

    with impatient(), tracking_errors(address):
        server = client(address)
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
    with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as database:
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
