"""The command ends, and says so, where the server that it would tell how it went is away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import clean_environment

TELLS = """
import sys
from prefect.events import emit_event
from denograd_flows import parting

def command():
    emit_event(event="test", resource={"prefect.resource.id": "test"})
    raise SystemExit(int(sys.argv[1])) if sys.argv[1:] else KeyError("it broke")

parting.LONGEST = 0.5
parting.to_the_end(command)
"""


@pytest.mark.parametrize("code", [3, None], ids=["refused", "broken"])
def test_what_cannot_be_told_is_left_and_the_exit_code_stays(code: int | None, tmp_path: Path) -> None:
    arguments = [] if code is None else [str(code)]
    done = subprocess.run(
        [sys.executable, "-c", TELLS, *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(tmp_path) | {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        timeout=120,
        check=False,
    )
    assert done.returncode == (1 if code is None else code)
    assert done.stderr.endswith("The Prefect server does not answer: it was not told all of this.\n")
    assert ("KeyError" in done.stderr) == (code is None)
