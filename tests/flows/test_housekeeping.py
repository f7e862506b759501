"""gc, quarantine and release, on what an ordinary run refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from denograd_flows.exclusion import alone
from denograd_flows.failures import named

REASON = "the sensor was replaced: the step is real"
OLD = 10 * 86_400


def age(folder: Path) -> None:
    """Make every object ten days older, which is the clock of a store on local disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            at = path.stat().st_mtime - OLD
            os.utime(path, (at, at))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_refused_result_is_listed_kept_released_and_then_cleared_away(
    denograd: Any, config: Callable[..., Path], home: Path
) -> None:
    root = home / "published"
    assert denograd("quarantine", "readings").out.strip() == "Nothing of readings is in quarantine."
    assert denograd("run", config(gates={"swd": {"max": 1e-9}})).code == 3
    (refused,) = denograd("quarantine", "readings", "--json").json
    assert [gate["name"] for gate in refused["failed"]] == ["swd"]
    assert (refused["rows"], refused["version"]) == (400, None)
    listed = denograd("quarantine", "readings").out
    assert refused["attempt"] in listed
    assert "400 rows, refused by swd" in listed

    age(root)
    before = files(root)
    freed = denograd("gc", "readings", "--json").json
    assert freed["datasets"][0]["files"] == 0
    assert files(root) == before

    ran = denograd("release", "readings", refused["attempt"][:6], "--reason", REASON)
    assert ran.code == 0, ran.err
    assert f"{refused['attempt']} released as readings@1, against swd" in ran.out
    again = denograd("release", "readings", refused["attempt"], "--reason", "another", "--json").json
    assert (again["version"], again["already"]) == (1, True)
    assert "released as version 1" in denograd("quarantine", "readings").out
    repeated = config(gates={"swd": {"max": 1e-9}})
    assert "it was released as version 1" in denograd("run", repeated, "--dry-run").out
    outcome = denograd("run", repeated, "--json")
    assert (outcome.code, outcome.json["status"], outcome.json["version"]) == (0, "released", 1)
    assert outcome.json["path"] == str(root / "readings" / "data" / refused["attempt"])
    assert files(root) - before <= {one for one in files(root) if "/versions/" in one or "/data/" in one}

    released = denograd("show", "readings", "--json").json["released"]
    assert released["reason"] == REASON
    assert not next(gate for gate in denograd("lineage", "readings", "--json").json["gates"] if gate["name"] == "swd")[
        "passed"
    ]
    for name in ("lineage", "show"):
        assert REASON in denograd(name, "readings").out
    report = denograd("report", "readings")
    assert REASON in report.err
    assert Path(report.out.strip()).is_file()
    assert denograd("verify", "readings", "--all").code == 0

    would = denograd("gc", "--all", "--quarantine", "0", "--dry-run", "--json").json
    assert not would["deleted"]
    assert would["datasets"][0]["kinds"] == {"quarantine": 4}
    assert "readings: freed 4 files" in denograd("gc", "--all", "--quarantine", "0").out
    assert denograd("verify", "readings", "--all").code == 0
    assert not (root / "readings" / "quarantine").exists()


def test_what_a_run_left_is_freed_once_it_is_old_and_computed_anew_afterwards(
    denograd: Any, config: Callable[..., Path], home: Path
) -> None:
    root = home / "published"
    assert denograd("run", config()).code == 0
    (root / "readings" / "versions" / "00000001.json").unlink()
    assert denograd("gc", "readings", "--json").json["datasets"][0]["files"] == 0
    age(root)
    before = files(root)
    with alone("readings", wait=False):
        assert denograd("gc", "readings", "--json").json["datasets"][0]["busy"]
    assert files(root) == before
    ran = denograd("run", config())
    assert ran.code == 1
    assert "older than 7 days" in ran.err
    assert "run again" in ran.err
    assert denograd("gc", "--all").code == 0
    outcome = denograd("run", config(), "--json").json
    assert (outcome["version"], outcome["status"]) == (1, "published")
    assert denograd("verify", "readings").code == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["gc"], "what to look after"),
        (["gc", "readings", "--all"], "what to look after"),
        (["release", "readings", "abc", "--reason", " "], "needs a reason"),
        (["release", "readings", "abc", "--reason", "x"], "no refused result"),
    ],
)
def test_what_makes_no_request_is_bad_input(denograd: Any, arguments: list[str], problem: str) -> None:
    ran = denograd(*arguments)
    assert ran.code == 2
    assert problem in ran.err


def test_a_prefect_server_that_went_away_is_named() -> None:
    error = httpx.ConnectError("refused")
    wrapped = RuntimeError("Failed to reach API")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        assert "Prefect server went away" in str(named(one))
    unknown = ValueError("else")
    assert named(unknown) is unknown
