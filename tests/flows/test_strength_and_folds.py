"""A strength that the gates choose, and networks that never saw their rows, through the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

TRAINING = {"epochs": 15, "batch_size": 32, "folds": 2}


def test_both_end_in_a_version_and_the_summary_says_how_far_cells_went(
    denograd: Any, config: Callable[..., Path], table: Path
) -> None:
    path = config(
        backbone={"training": TRAINING}, refine={"max_epochs": 20, "strength": "auto"}, gates={"rho": {"min": 0.999}}
    )
    ran = denograd("run", path, "--json")
    assert ran.code in (0, 3), ran.err
    outcome = ran.json
    assert 0 < outcome["strength"] < 1
    assert outcome["strength_chosen"]
    words = f"{outcome['strength']:g}, chosen on one half of the rows; the gates judge the other half"
    assert f"strength                {words}" in denograd("run", path).out
    observed, refined = pd.read_parquet(table), pd.read_parquet(outcome["path"])
    assert list(refined.columns) == list(observed.columns)
    assert 0.99 < observed["y"].corr(refined["y"]) < 1


def test_a_version_says_it_later(denograd: Any, config: Callable[..., Path]) -> None:
    path = config(refine={"max_epochs": 20, "strength": 0.5})
    assert denograd("run", path).code == 0
    assert "strength                0.5\n" in denograd("show", "readings").out
    whole = config(refine={"max_epochs": 20})
    assert "strength " not in denograd("run", whole).out


def test_folds_of_a_registered_model_are_bad_configuration(denograd: Any, config: Callable[..., Path]) -> None:
    ran = denograd("run", config(backbone={"kind": "models:/readings@champion", "training": {"folds": 3}}))
    assert ran.code == 2
    assert "backbone.training.folds: a registered model is taken as it is" in ran.err
