"""A stranger's machine: the wheel with its lock in an empty environment, and the demonstration there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support import clean_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an empty environment outside the repository, with the built wheel and the demo's extra."""
    folder = tmp_path_factory.mktemp("stranger")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    _run(str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), f"{wheel}[demo]")
    return python.parent


def test_the_demo_publishes_all_and_shows_both_rules_side_by_side(installed: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [str(installed / "denograd"), "demo", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(tmp_path / "home"),
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    outcomes = json.loads(ran.stdout)
    assert [(one["dataset"], one["rule"]) for one in outcomes] == [
        ("demo-nuclei", "posterior"),
        ("demo-nuclei-denograd", "denograd"),
        ("demo-weather", "posterior"),
        ("demo-weather-denograd", "denograd"),
    ]
    for outcome in outcomes:
        assert outcome["status"] == "published"
        assert all(gate["passed"] for gate in outcome["gates"] if gate["severity"] == "error")
        assert outcome["noise_removed"]["noise removed, target"] > 0.2
        features = outcome["noise_removed"]["noise removed, features"]
        assert features > 0.15 if outcome["rule"] == "posterior" else abs(features) < 0.1
        assert Path(outcome["report"]).stat().st_size > 50_000
    stages = [line for line in ran.stderr.splitlines() if line.strip()]
    assert all(line.lstrip().startswith(("✓", "A table", "A series")) for line in stages), ran.stderr


def test_the_wheel_is_a_prefect_collection_with_nothing_of_the_tests(installed: Path) -> None:
    probe = (
        "from importlib.metadata import entry_points, files\n"
        "names = [e.load().__name__ for e in entry_points(group='prefect.collections') if e.name == 'denograd_tasks']\n"
        "tops = sorted({str(f).split('/')[0] for f in files('prefect-denograd') if '.dist-info' not in str(f)})\n"
        "print(names, [top for top in tops if not top.startswith('..')])\n"
    )
    done = _run(str(installed / "python"), "-W", "ignore", "-c", probe)
    assert done.strip() == "['denograd_tasks'] ['denograd_engine', 'denograd_flows', 'denograd_tasks']"


def _run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, cwd="/", env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
