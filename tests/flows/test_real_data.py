"""Real data from end to end, through the command: init, run, and what was published against what came in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest


@dataclass(frozen=True)
class Source:
    """A data set, and how little training is enough to see the whole way work."""

    file: str
    init: list[str]
    settings: str = "backbone: {training: {epochs: 12}}\nrefine: {max_epochs: 20}\ngates: {harm: {max: null}}\n"
    moving: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)


SOURCES = [
    Source("house_prices.parquet", ["-t", "price", "--table"],
           moving=["price", "sqft_living"], frozen=["zipcode", "date", "id"]),
    Source("parkinsons.parquet", ["-t", "total_UPDRS", "-t", "motor_UPDRS"],
           moving=["total_UPDRS", "HNR"], frozen=["age", "sex"]),
    Source("support2.parquet", ["-t", "totcst"], moving=["totcst", "charges"], frozen=["race", "dzgroup", "urine"]),
    Source(
        "ETTh1.parquet",
        ["-t", "OT"],
        "backbone: {training: {epochs: 4}}\nrefine: {max_epochs: 5}\n",
        moving=["OT", "HUFL"],
        frozen=["date"],
    ),
    Source(
        "WTH.parquet",
        ["-t", "WetBulbCelsius"],
        "backbone: {kind: mlp, training: {epochs: 3}}\nrefine: {max_epochs: 5}\n",
        moving=["WetBulbCelsius"],
        frozen=["date"],
    ),
]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.file.split(".")[0])
def test_real_data_become_a_version(
    source: Source, denograd: Any, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    data = shared(source.file)
    assert denograd("init", data, *source.init).code == 0
    config = tmp_path / "denograd.yaml"
    config.write_text(re.sub(r"^# (backbone|refine):.*\n", "", config.read_text(), flags=re.M) + source.settings)

    ran = denograd("run", config, "--json")

    assert ran.code == 0, ran.err
    observed = pd.read_parquet(data)
    refined = pd.read_parquet(ran.json["path"])
    assert list(refined.columns) == list(observed.columns)
    assert len(refined) == len(observed)
    pd.testing.assert_frame_equal(refined.isna(), observed.isna())
    for name in source.moving:
        assert refined[name].dtype == observed[name].dtype
        assert not refined[name].equals(observed[name]), name
    for name in source.frozen:
        pd.testing.assert_series_equal(refined[name], observed[name])
    assert all(gate["passed"] for gate in ran.json["gates"] if gate["severity"] == "error")


def test_repeated_time_stamps_in_real_data_are_named(
    denograd: Any, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    data = shared("daily_climate.parquet")
    assert denograd("init", data, "-t", "meantemp", "--time", "date").code == 0
    ran = denograd("run", tmp_path / "denograd.yaml")
    assert ran.code == 2
    assert "2017-01-01" in ran.err


def test_trading_days_get_a_gap_that_spans_weekends(
    denograd: Any, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    data = shared("microsoft_stock.parquet")
    assert denograd("init", data, "-t", "Close", "--time", "Date").code == 0
    config = tmp_path / "denograd.yaml"
    assert re.search(r"^  max_gap: \d+h", config.read_text(), flags=re.M)
    plain = config.read_text() + "backbone: {training: {epochs: 2}}\nrefine: {max_epochs: 2}\n"
    config.write_text(plain + "gates: {skill: {min: null, severity: warning}}\n")
    ran = denograd("run", config, "--json")
    assert ran.code in (0, 3), ran.err
