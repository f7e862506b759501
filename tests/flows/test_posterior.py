"""The rule `posterior` through the command: from declared noise to a version, and how it is talked about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

QUICK = {"folds": 2, "fewest_steps": 20, "most_steps": 40, "hidden": 16}


@pytest.fixture
def noisy(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration for three measurements of one thing, with declared noise and changes."""
    generator = np.random.default_rng(0)
    signal = generator.normal(size=300)
    columns = {name: signal + 0.3 * generator.normal(size=300) for name in ("a", "b", "y")}
    pd.DataFrame(columns).to_parquet(tmp_path / "measured.parquet", index=False)

    def write(refine: dict[str, Any] | None = None, **changes: Any) -> Path:
        plain = {
            "dataset": "measured",
            "source": str(tmp_path / "measured.parquet"),
            "columns": {"target": "y", "noise": {"a": 0.3, "b": 0.3, "y": 0.3}},
            "refine": {"arguments": QUICK} if refine is None else refine,
            **changes,
        }
        path = tmp_path / "denograd.yaml"
        path.write_text(json.dumps(plain))
        return path

    return write


def test_declared_noise_leads_to_a_version_and_the_summary_says_how(denograd: Any, noisy: Callable[..., Path]) -> None:
    planned = denograd("run", noisy(), "--dry-run").out
    assert "rule posterior (columns.noise declares that of 3 columns)" in " ".join(planned.split())
    ran = denograd("run", noisy())
    assert ran.code == 0, ran.err
    for words in (
        "published as version 1",
        "posterior: columns.noise declares that of 3 columns",
        "rows moved              300 of 300 (100%)",
        "of the way to what its context says, in the mean",
        "noise left, estimated",
        "(most in ",
    ):
        assert words in ran.out
    for words in ("residual", "held-out R2", "tau", "outside the gate", "epochs"):
        assert words not in ran.out
    shown = denograd("show", "measured").out
    assert "posterior: columns.noise declares that of 3 columns" in shown
    assert "noise left, estimated" in shown
    assert "correction" in shown


def test_scripts_get_the_same_facts(denograd: Any, noisy: Callable[..., Path]) -> None:
    result = denograd("run", noisy(refine={"arguments": QUICK, "uncertainty": True}), "--json").json
    assert (result["status"], result["rule"]) == ("published", "posterior")
    assert set(result["noise_left"]) == {"a", "b", "y"} == set(result["skill"])
    assert 0 < result["step"] < 1
    refined = pd.read_parquet(denograd("path", "measured").out.strip())
    assert list(refined.columns) == ["a", "b", "y", "a__std", "b__std", "y__std"]
    assert (refined[["a__std", "b__std", "y__std"]] > 0).all(axis=None)
    again = denograd("run", noisy(refine={"arguments": QUICK, "uncertainty": True}), "--json").json
    assert again["status"] == "already_published"
    other = denograd("run", noisy(refine={"rule": "denograd", "max_epochs": 5}), "--json").json
    assert (other["rule"], other["noise_left"], other["step"]) == ("denograd", None, None)
    assert other["reused"] == ["ingest"]


@pytest.mark.parametrize(
    ("refine", "words"),
    [
        ({"tau": 0.2}, "refine.tau: this setting has no meaning for rule posterior"),
        ({"arguments": {"fold": 3}}, "did you mean 'folds'?"),
        ({"rule": "denograd", "uncertainty": True}, "refine.uncertainty: only rule posterior"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    refine: dict[str, Any], words: str, denograd: Any, noisy: Callable[..., Path], home: Path
) -> None:
    ran = denograd("run", noisy(refine=refine))
    assert ran.code == 2
    assert words in ran.err
    assert not (home / "published").exists()


def test_the_written_configuration_tells_of_it(denograd: Any, noisy: Callable[..., Path], tmp_path: Path) -> None:
    noisy()
    (tmp_path / "denograd.yaml").unlink()
    assert denograd("init", tmp_path / "measured.parquet", "--target", "y").code == 0
    path = tmp_path / "denograd.yaml"
    written = path.read_text()
    (hint,) = [line for line in written.splitlines() if line.startswith("# refine: {rule: posterior")]
    noise = next(line for line in written.splitlines() if line.startswith("  # noise: "))
    for line in (hint, noise):
        written = written.replace(line, line.replace("# ", "", 1))
    path.write_text(written)
    planned = denograd("run", path, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert "rule posterior (set in refine.rule)" in planned.json[3]["detail"]
