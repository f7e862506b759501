"""`denograd bench` from a file of data to figures and a page."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import clean_environment, command, make_table

OWN = """
from denograd_engine.bench.case import Denoised

def drawn(given, seed):
    names = given.schema.refined
    return Denoised(given.train.assign(**{name: given.train[name] * 0.99 for name in names}), given.test)
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command in this process, on a small table as CSV; it sets up the environment, which is put back."""
    from typer.testing import CliRunner

    from denograd_flows.cli import app

    make_table(200).to_csv(tmp_path / "readings.csv", index=False)
    plain = {"dataset": "readings", "source": "readings.csv", "columns": {"target": ["y"]}}
    (tmp_path / "denograd.yaml").write_text(json.dumps(plain))
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("DENOGRAD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("denograd_flows.environment.prepare", lambda verbose: None)

    def call(*arguments: object) -> Any:
        result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def test_from_a_table_to_a_page(bench: Any, tmp_path: Path) -> None:
    asked = ("--method", "pca", "--method", "own.py:drawn", "--seeds", 2, "--models", "ridge,knn", "--jobs", 1)
    ran = bench("denograd.yaml", *asked, "--json")
    assert ran.exit_code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["status"] == "done"
    assert found["cells"] == {"computed": 6, "reused": 0, "failed": 0}
    rows = {row["method"]: row for row in found["methods"]}
    assert rows["none"]["recovery_cells"] == rows["none"]["downstream"] == 1.0
    assert 0 < rows["pca"]["recovery_cells"] < 1
    assert 0 < rows["own.py:drawn"]["recovery_cells"] < 1
    assert found["winner"] == "pca"
    assert "140 rows to refine, 60 to test on" in ran.stderr

    long = pd.read_parquet(found["results"])
    assert {"clean_test", "paper", "imp", "swd_ratio", "ceiling"} <= set(long["measure"])
    assert Path(found["page"]).parent == tmp_path / "home" / "bench" / "readings"

    again = bench("denograd.yaml", *asked)
    assert again.exit_code == 0
    assert "6 cells were there already" in again.stdout
    assert "pca recovered most" in again.stdout


def test_the_page_holds_its_tables_and_nothing_from_outside(bench: Any, tmp_path: Path) -> None:
    ran = bench("--method", "pca", "--method", "knn", "--seeds", 2, "--models", "ridge", "--jobs", 1, "--out", "out")
    assert ran.exit_code == 0, ran.stderr
    page = (tmp_path / "out" / "benchmark.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    for text in (
        "In short",
        "Truth protocol",
        "The paper",
        "flatters whatever smooths",
        "Friedman",
        "trained on clean",
    ):
        assert text in page, text
    assert page.count("<table>") == 5
    assert page.count("<svg") == 6
    assert not re.search(r"(?:src|href)=\"(?!#)|url\((?!#)|@import|<script|https?://(?!www\.w3\.org)", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--method", "denogradd"), "there is no method 'denogradd'"),
        (("--kind", "pink"), "there is no noise of kind 'pink'"),
        (("--models", "ridgee"), "there is no downstream model 'ridgee'"),
        (("absent.yaml",), "the configuration cannot be read"),
        (("--method", "absent.py:mine"), "the file of the method cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(bench: Any, asked: tuple[str, ...], words: str) -> None:
    ran = bench(*asked)
    assert ran.exit_code == 2
    assert words in ran.stderr


def test_a_failing_method_is_told_and_is_no_success(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def broken(given, seed):\n    return given.absent\n")
    ran = bench("--method", "own.py:broken", "--seeds", 1, "--models", "ridge", "--jobs", 1, "--json")
    assert ran.exit_code == 1
    found = json.loads(ran.stdout)
    assert found["status"] == "failed"
    assert found["winner"] is None
    assert "no attribute 'absent'" in found["failures"][0]["error"]


def test_help_has_an_example(bench: Any) -> None:
    assert "denograd bench denograd.yaml" in bench("--help").stdout


def test_as_a_process_side_by_side(bench: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        command("bench", "--method", "pca", "--seeds", 1, "--models", "ridge", "--jobs", 2, "--json"),
        capture_output=True,
        text=True,
        env=clean_environment(tmp_path / "home"),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"]["computed"] == 2
