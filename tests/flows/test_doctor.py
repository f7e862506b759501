"""What the doctor says of the servers in use: embedded or not, whether they answer, version, clock; and no secrets."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

AWAY = "http://ada:Nobody-may-read-this@127.0.0.1:9"


@contextmanager
def answering(said: str, ahead: float = 0, statuses: Sequence[int] = (200,)) -> Iterator[str]:
    """A Prefect API that says its version, whose clock may be wrong, and which answers the first requests otherwise."""
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(time.time() + ahead)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/api"
    try:
        with temporary_settings({PREFECT_API_URL: address}):
            yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def found(ran: Any) -> dict[str, dict[str, Any]]:
    return {one["what"]: one for one in ran.json}


def test_what_is_embedded_is_below_the_home_folder(process: Callable[..., Any], home: Path) -> None:
    ran = process("doctor", "--json")
    assert ran.code == 0, ran.err
    looked = found(ran)
    assert looked["prefect"]["detail"] == f"embedded: a temporary server for each run, data in {home / 'prefect'}"
    assert looked["tracking"]["detail"] == f"embedded: sqlite:///{home / 'mlflow' / 'mlflow.db'}, not created yet"
    assert "clocks" not in looked


def test_a_server_is_named_with_its_version(denograd: Any) -> None:
    with answering(version("prefect")) as address:
        looked = found(denograd("doctor", "--json"))
    assert looked["prefect"]["detail"] == f"server {address}, answers, version {version('prefect')}"
    assert not looked["prefect"]["warning"]
    assert looked["clocks"] == {
        "what": "clocks",
        "ok": True,
        "detail": "prefect within 30 s of ours",
        "warning": False,
    }


def test_an_older_server_is_a_warning(denograd: Any) -> None:
    with answering("3.0.1"):
        ran = denograd("doctor", "--json")
    assert ran.code == 0
    assert found(ran)["prefect"]["warning"]
    assert f"version 3.0.1, older than ours, {version('prefect')}" in found(ran)["prefect"]["detail"]


def test_a_server_that_does_not_say_its_version_is_in_use_all_the_same(denograd: Any) -> None:
    with answering("no version"):
        looked = found(denograd("doctor", "--json"))
    assert looked["prefect"]["detail"].endswith("answers, does not say its version")


@pytest.mark.parametrize(("ahead", "said"), [(120, "s ahead of this machine"), (-120, "s behind this machine")])
def test_clocks_that_differ_are_a_warning(denograd: Any, ahead: float, said: str) -> None:
    with answering(version("prefect"), ahead):
        ran = denograd("doctor")
    assert ran.code == 0
    assert said in ran.out
    assert re.search(r"^ ! clocks  ", ran.out, flags=re.M)


@pytest.mark.parametrize("ahead", [25, -25])
def test_clocks_may_differ_a_little(denograd: Any, ahead: float) -> None:
    with answering(version("prefect"), ahead):
        assert not found(denograd("doctor", "--json"))["clocks"]["warning"]


def test_servers_that_are_away_are_named_without_credentials(denograd: Any, config: Callable[..., Path]) -> None:
    with temporary_settings({PREFECT_API_URL: f"{AWAY}/api"}):
        ran = denograd("doctor", config(tracking={"uri": AWAY}), "--json")
    assert ran.code == 1
    wrong = [one for one in ran.json if not one["ok"]]
    assert [one["what"] for one in wrong] == ["tracking", "prefect"]
    assert all("http://127.0.0.1:9" in one["detail"] for one in wrong)
    assert "Nobody" not in ran.out + ran.err


def test_a_server_that_comes_back_is_waited_for_and_the_user_told(
    denograd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("denograd_flows.servers.WAITS", (0, 0, 0))
    with answering(version("prefect"), statuses=(503, 503, 200)) as address:
        ran = denograd("gc", "--all")
    assert ran.code == 0, ran.err
    assert ran.err == f"Waiting for the Prefect server, which does not answer: {address}\n"


def test_a_server_that_refuses_is_not_waited_for(denograd: Any, config: Callable[..., Path]) -> None:
    with answering("", statuses=(401,)):
        ran = denograd("run", config())
    assert ran.code == 1
    assert "the Prefect server does not answer as it should" in ran.err
    assert "Waiting" not in ran.err


def test_a_run_says_that_prefect_is_away(
    denograd: Any, config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("denograd_flows.servers.WAITS", (0, 0))
    with temporary_settings({PREFECT_API_URL: f"{AWAY}/api"}):
        ran = denograd("run", config())
    assert ran.code == 1
    assert "the Prefect server does not answer as it should" in ran.err
    assert "http://127.0.0.1:9/api" in ran.err
    assert "Nobody" not in ran.out + ran.err
