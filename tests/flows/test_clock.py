"""A clock that jumps back by a day between two runs: versions, audit, watch and gc go by other things."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from support import make_table

DAY = timedelta(days=1)


def set_back(folder: Path) -> None:
    """Store files as a machine would have written them whose clock is a day behind."""
    for path in folder.rglob("*"):
        if path.is_file():
            at = path.stat().st_mtime - DAY.total_seconds()
            os.utime(path, (at, at))


@pytest.mark.parametrize("jump", [-DAY, pytest.param(DAY, marks=pytest.mark.slow)], ids=["back", "ahead"])
def test_a_jump_of_a_day_between_two_runs_does_no_harm(
    jump: timedelta, denograd: Any, config: Callable[..., Path], table: Path, home: Path
) -> None:
    path, root = config(backbone={"training": {"epochs": 3}}, refine={"max_epochs": 3}), home / "published"
    first = denograd("run", path, "--json")
    assert first.code == 0, first.err
    assert denograd("watch", path).code == 0
    if jump > timedelta():
        set_back(root)
    with time_machine.travel(datetime.now(UTC) + jump, tick=True):
        make_table(500).to_parquet(table, index=False)
        second = denograd("run", path, "--json")
        assert second.code == 0, second.err
        assert second.json["version"] == 2
        assert denograd("verify", "readings", "--all").code == 0
        assert denograd("gc", "--all", "--json").json["datasets"][0]["files"] == 0
    created = [
        datetime.fromisoformat(json.loads(one.read_text())["created"])
        for one in sorted((root / "readings" / "versions").glob("*.json"))
    ]
    assert abs(created[1] - created[0] - jump) < timedelta(hours=1)
    assert denograd("verify", "readings", "--all").code == 0
    assert denograd("watch", path).code == 0
