"""`denograd bench` from a file of data to figures and a page."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import clean_environment, command, make_table

OWN = """
from denograd_engine.bench.case import Denoised

def drawn(given, seed):
    names = given.schema.refined
    return Denoised(given.train.assign(**{name: given.train[name] * 0.99 for name in names}), given.test)

def suspicious(given, seed):
    cells = given.train[given.schema.refined]
    return Denoised(given.train, given.test, faults=(cells - cells.mean()).abs() > 2 * cells.std())
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

    assert rows["none"]["imp"] == 0.0
    assert rows["pca"]["imp"] > 0
    assert sorted(row["paper_rank"] for row in rows.values()) == [1.0, 2.0, 3.0]

    again = bench("denograd.yaml", *asked)
    assert again.exit_code == 0
    assert re.search(r"against the truth +features +targets +all cells +downstream +swd +rank", again.stdout)
    assert re.search(r"the paper's protocol +imp % +swd to noisy +rho +rank", again.stdout)
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


def test_faults_found_are_told(bench: Any, tmp_path: Path) -> None:
    asked = ("--kind", "spikes", "--noise", 1, "--method", "own.py:suspicious", "--seeds", 1, "--models", "ridge")
    ran = bench(*asked, "--jobs", 1, "--out", "out")
    assert ran.exit_code == 0, ran.stderr
    assert re.search(r"cells called faulty +precision +recall\s+own.py:suspicious +0\.\d+ +\d\.\d+", ran.stdout)
    page = (tmp_path / "out" / "benchmark.html").read_text()
    assert "Cells called faulty" in page
    assert page.count("<table>") == 6


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


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Any]:
    """The measuring stand in this process, on a folder with two of its data sets, made small."""
    from typer.testing import CliRunner

    random = np.random.default_rng(0)
    factors = random.normal(size=(150, 3))
    pins = pd.DataFrame(factors @ random.normal(size=(3, 39)), columns=[f"C{at}" for at in range(2, 41)])
    pins = pins.assign(k_inf=factors[:, 0], PPPF=factors[:, 1])
    pins.to_parquet(tmp_path / "lattice_physics_test360.parquet")
    hours = np.arange(250)
    waves = {name: np.sin(hours / (5 + at)) for at, name in enumerate(["0", "1", "2", "3", "4", "5"])}
    times = pd.date_range("2020-01-01", periods=len(hours), freq="h")
    pd.DataFrame({"date": times, **waves}).to_parquet(tmp_path / "ECL_6clients.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])
        module = import_module("tests.benchmarks.stand")

        def call(*arguments: object) -> Any:
            result = CliRunner().invoke(
                module.app, [str(tmp_path), "--out", str(tmp_path / "out"), *map(str, arguments)]
            )
            assert result.exception is None, result.exception
            return result

        yield call


def test_the_stand_tells_methods_a_wrong_noise_and_prints_tables_for_each(stand: Any) -> None:
    asked = ("--method", "pca", "--method", "moving_average", "--models", "ridge", "--seeds", 1, "--jobs", 1)
    ran = stand(*asked, "--told", 1, "--told", 2)
    assert "2 noises x 1 seed x methods = 12 cells" in ran.stdout
    assert "electricity, gaussian noise of 0.2 std, said to be 2 times that" in ran.stdout
    assert "over all data sets and noises" in ran.stdout
    printed = stand("--markdown").stdout
    assert printed.count("gaussian noise of 0.2 std\n") == 1
    assert printed.count("gaussian noise of 0.2 std, said to be 2 times that\n") == 1
    assert printed.count("| method | features | target |") == 2
    assert len(re.findall(r"^\| (?:electricity|lattice_physics) \|", printed, re.M)) == 4
    first, second = printed.split("said to be")
    none = "| none | 1.000 | 1.000 | 1.000 | 1.000 | "
    assert none in first
    assert none in second
    again = stand(*asked)
    assert "6 cells were there already" in again.stdout
    assert "✓" not in again.stdout
