"""Every backbone, rule, task and criterion by its name in the configuration, on real data, through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import tabpfn_checkpoint

LITTLE = """
backbone: {{kind: {kind}, arguments: {arguments}, training: {{epochs: 2}}}}
refine: {refine}
gates:
  skill: {{severity: warning}}
  harm: {{severity: warning}}
  swd: {{severity: warning}}
  rho: {{severity: warning}}
  mean_drift: {{severity: warning}}
  std_ratio: {{severity: warning}}
  correlation_change: {{severity: warning}}
"""
"""Too little training for good models: the gates may complain."""
STEPS = "{max_epochs: 3}"


def slow(value: str) -> Any:
    """A case that only `make test-all` runs: its parts have tests of their own in the engine."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture
def series(shared: Callable[[str], Path], tmp_path: Path) -> Path:
    """The first weeks of a transformer's load and oil temperature."""
    pd.read_parquet(shared("ETTh1.parquet")).head(600).to_parquet(tmp_path / "ett.parquet")
    return tmp_path / "ett.parquet"


@pytest.fixture
def table(shared: Callable[[str], Path], tmp_path: Path) -> Path:
    """Some recordings of voices."""
    whole = pd.read_parquet(shared("parkinsons.parquet"))
    whole.sample(400, random_state=0).to_parquet(tmp_path / "voices.parquet")
    return tmp_path / "voices.parquet"


def published(denograd: Any, data: Path, columns: str, settings: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run, see that the same comes out again, and read what was published."""
    config = data.parent / "denograd.yaml"
    config.write_text(f"dataset: tried\nsource: {data}\ncolumns: {columns}\n{settings}")
    ran = denograd("run", config, "--json")
    assert ran.code == 0, ran.err
    assert denograd("reproduce", "tried", "--json").json["outcome"] == "identical"
    return ran.json, pd.read_parquet(ran.json["path"])


def kind_of(result: dict[str, Any]) -> str:
    """The backbone that the manifest names."""
    manifest = json.loads((Path(result["path"]).parents[1] / "versions" / "00000001.json").read_text())
    kind: str = manifest["model"]["architecture"]["kind"]
    return kind


OTHERS = ("gru", "cnn", "cnn_lstm", "dlinear", "xlstm")
VOICES = "{target: [total_UPDRS, motor_UPDRS], noise: {total_UPDRS: 2.0, HNR: 1.0}}"
OIL = "{target: OT}"
AXIS = "series: {time: date, window: 12}\n"


@pytest.mark.parametrize("kind", ["lstm", "transformer", "mlp", *map(slow, OTHERS)])
def test_a_series_is_refined_with_each_backbone(kind: str, denograd: Any, series: Path) -> None:
    small = {"transformer": "{width: 16, layers: 1}", "xlstm": "{width: 16}"}.get(kind, "{}")
    settings = AXIS + LITTLE.format(kind=kind, arguments=small, refine=STEPS)
    result, refined = published(denograd, series, OIL, settings)
    assert kind_of(result) == kind
    observed = pd.read_parquet(series)
    assert not refined["OT"].equals(observed["OT"])
    pd.testing.assert_series_equal(refined["date"], observed["date"])


@pytest.mark.parametrize("kind", ["mlp", "transformer", "tabpfn"])
def test_a_table_is_refined_with_each_backbone(kind: str, denograd: Any, table: Path, tmp_path: Path) -> None:
    arguments = {"transformer": "{width: 16, layers: 1}"}.get(kind, "{}")
    if kind == "tabpfn":
        arguments = f"{{weights: {tabpfn_checkpoint(tmp_path)}, context: 40}}"
    result, refined = published(denograd, table, VOICES, LITTLE.format(kind=kind, arguments=arguments, refine=STEPS))
    assert kind_of(result) == kind
    assert not refined["total_UPDRS"].equals(pd.read_parquet(table)["total_UPDRS"])


@pytest.mark.parametrize(
    "refine",
    [
        "{rule: gauss_newton}",
        slow("{rule: gauss_newton, arguments: {anchored: false}, eta: 1.0}"),
        "{rule: proximal, arguments: {s2: 0.5}, max_epochs: 20}",
        "{smoothing: {kind: smoothgrad, samples: 2}, max_epochs: 2}",
        slow("{rule: gauss_newton, smoothing: {kind: fusiongrad, samples: 2}, max_epochs: 2}"),
    ],
)
@pytest.mark.parametrize("form", ["table", "series"])
def test_each_rule_refines_tables_and_series(
    refine: str, form: str, denograd: Any, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(form)
    kind, columns, axis = ("mlp", VOICES, "") if form == "table" else ("cnn", OIL, AXIS)
    settings = axis + LITTLE.format(kind=kind, arguments="{}", refine=refine)
    result, refined = published(denograd, data, columns, settings)
    assert result["moved"] > 0
    assert len(refined) == len(pd.read_parquet(data))


def test_classes_stay_and_what_speaks_against_them_moves(
    denograd: Any, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    data = tmp_path / "packets.parquet"
    pd.read_parquet(shared("rt_iot2022.parquet")).sample(4000, random_state=0).to_parquet(data)
    settings = "backbone: {training: {epochs: 8}}\nrefine: {max_epochs: 20}\ngates: {harm: {max: null}}\n"
    result, refined = published(denograd, data, "{target: Attack_type, ignored: ['Unnamed: 0']}", settings)
    observed = pd.read_parquet(data)
    assert observed["Attack_type"].nunique() >= 10
    pd.testing.assert_series_equal(refined["Attack_type"].reset_index(drop=True),
                                   observed["Attack_type"].reset_index(drop=True))  # fmt: skip
    assert result["skill"]["Attack_type"] > 0.5
    assert 0 < result["moved"] < len(observed)


def test_several_horizons_targets_apart_and_a_loss_of_the_users(denograd: Any, series: Path, tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text("def cosh(p, y):\n    return (p - y).cosh().log().mean()\n")
    settings = (
        "series: {time: date, window: 12, future: [1, 6], stride: 2, targets_as_inputs: false, flatten: true}\n"
        "backbone: {kind: mlp, training: {epochs: 2, criterion: losses.py:cosh}}\n"
        "refine: {max_epochs: 3}\n"
        "gates: {skill: {severity: warning}, harm: {severity: warning}, std_ratio: {severity: warning}}\n"
    )
    result, _ = published(denograd, series, "{target: [OT, HUFL]}", settings)
    assert sorted(result["skill"]) == ["HUFL+1", "HUFL+6", "OT+1", "OT+6"]
