"""Everything that can be wrong with input or configuration: one clear message, exit code 2, nothing published."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest


def _frame(rows: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(rows, 2))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": x.sum(axis=1) + 1234.5678})


def _series(rows: int = 300) -> pd.DataFrame:
    frame = _frame(rows)
    frame.insert(0, "time", pd.date_range("2024-01-01", periods=rows, freq="h"))
    return frame


def _edited(frame: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    return frame.assign(**columns)


def _with_cell(frame: pd.DataFrame, column: str, value: Any, row: int = 7) -> pd.DataFrame:
    frame.loc[row, column] = value
    return frame


@dataclass(frozen=True)
class Case:
    """A mistake, and what the message must say."""

    name: str
    says: list[str]
    data: Callable[[], pd.DataFrame] | None = _frame
    config: dict[str, Any] = field(default_factory=dict)
    raw: str | None = None
    file: str = "data.parquet"
    bytes: bytes | None = None


SERIES = {"series": {"time": "time", "window": 12}}

CASES = [
    Case("unknown key", ["refine.taw", "did you mean 'tau'"], config={"refine": {"taw": 0.1}}),
    Case("unknown section", ["refin", "did you mean 'refine'"], config={"refin": {"tau": 0.1}}),
    Case("unknown gate", ["gates.sdw", "did you mean 'swd'"], config={"gates": {"sdw": {"max": 1}}}),
    Case("wrong type", ["refine.tau", "valid number"], config={"refine": {"tau": "small"}}),
    Case("out of range", ["refine.tau", "above 0"], config={"refine": {"tau": -1}}),
    Case("unknown backbone", ["backbone.kind", "mlp"], config={"backbone": {"kind": "resnet"}}),
    Case("unknown argument", ["does not take", "depth"], config={"backbone": {"arguments": {"depth": 3}}}),
    Case("recurrent on a table", ["lstm", "table"], config={"backbone": {"kind": "lstm"}}),
    Case("bad data set name", ["dataset"], config={"dataset": "My Data!"}),
    Case("no target", ["columns.target", "required"], config={"columns": {}}),
    Case("no source", ["source", "required"], raw='{"dataset": "d", "columns": {"target": "y"}}'),
    Case("not YAML", ["not valid YAML", "line"], raw="dataset: [unclosed"),
    Case("empty configuration", ["empty"], raw=""),
    Case("code in YAML", ["not valid YAML"], raw="dataset: !!python/object/apply:os.system ['touch owned']"),
    Case("no GPU", ["device"], config={"device": "cuda:99"}),
    Case("unknown device", ["device"], config={"device": "tpu"}),
    Case("source absent", ["does not exist"], data=None),
    Case("unknown format", [".txt"], file="data.txt", bytes=b"a,b\n1,2\n"),
    Case("damaged Parquet", ["cannot be read"], bytes=b"PAR1 this is not Parquet PAR1"),
    Case("empty CSV", ["cannot be read"], file="data.csv", bytes=b""),
    Case("ragged CSV", ["cannot be read"], file="data.csv", bytes=b"a,b,y\n1,2,3\n4,5\n"),
    Case("repeated names", ["more than once", "'a'"], file="data.csv", bytes=b"a,a,y\n" + b"1,2,3\n" * 100),
    Case("absent target", ["'z'", "data"], config={"columns": {"target": "z"}}),
    Case("misspelt column", ["did you mean 'a'"], config={"columns": {"target": "y", "frozen": ["A"]}}),
    Case("one class", ["does not hold classes", "found: 1"], data=lambda: _edited(_frame(), y="high")),
    Case("text for a number", ["not numeric"], data=lambda: _edited(_frame(), y="high"),
         config={"columns": {"target": "y", "task": "regression"}}),
    Case("numbers with the loss of classes", ["does not fit the targets", "criterion"],
         config={"backbone": {"training": {"criterion": "cross_entropy"}}}),
    Case("two roles", ["two roles"], config={"columns": {"target": "y", "feature": ["a"], "frozen": ["a"]}}),
    Case("infinite value", ["infinite", "row 7"], data=lambda: _with_cell(_frame(), "b", np.inf)),
    Case("constant target", ["constant"], data=lambda: _edited(_frame(), y=5.5)),
    Case("constant feature", ["constant"], data=lambda: _edited(_frame(), a=2.5),
         config={"columns": {"target": "y", "feature": ["a"]}}),
    Case("all missing", ["no values", "ignored"], data=lambda: _edited(_frame(), a=np.nan)),
    Case("mostly missing", ["misses too many"],
         data=lambda: _edited(_frame(), a=_frame()["a"].where(_frame()["a"] > 1))),
    Case("too few rows", ["too few rows", "50"], data=lambda: _frame(20)),
    Case("too few known targets", ["too few rows"],
         data=lambda: _edited(_frame(), y=_frame()["y"].where(_frame().index < 30)),
         config={"input": {"max_missing": 1}}),
    Case("inverted bounds", ["no room"], config={"columns": {"target": "y", "bounds": {"a": [3, 1]}}}),
    Case("bounds on frozen", ["never changes"],
         config={"columns": {"target": "y", "frozen": ["a"], "bounds": {"a": [0, 1]}}}),
    Case("no time column", ["'time'"], config=SERIES),
    Case("unsorted time", ["ascending", "2024-01-13"], data=lambda: _series().iloc[::-1], config=SERIES),
    Case("repeated time", ["repeats", "2024-01-01 06:00:00"],
         data=lambda: _with_cell(_series(), "time", pd.Timestamp("2024-01-01 06:00")), config=SERIES),
    Case("missing time", ["missing", "row 7"], data=lambda: _with_cell(_series(), "time", pd.NaT), config=SERIES),
    Case("time as text", ["not a time axis"], data=lambda: _edited(_series(), time=_series()["time"].astype(str)),
         config=SERIES),
    Case("window longer than the series", ["long enough"], data=_series,
         config={"series": {"time": "time", "window": 500}}),
    Case("bad gap", ["series.max_gap"], data=_series, config={"series": {"time": "time", "max_gap": "often"}}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_clear_message_and_nothing_published(case: Case, denograd: Any, tmp_path: Path, home: Path) -> None:
    source = tmp_path / case.file
    if case.bytes is not None:
        source.write_bytes(case.bytes)
    elif case.data is not None:
        case.data().to_parquet(source, index=False)
    config = tmp_path / "denograd.yaml"
    plain = {"dataset": "readings", "source": str(source), "columns": {"target": "y"}, **case.config}
    config.write_text(case.raw if case.raw is not None else json.dumps(plain))

    ran = denograd("run", config)

    assert ran.code == 2, ran.err
    for words in case.says:
        assert words in ran.err
    assert "Traceback" not in ran.err
    assert "1234.5" not in ran.err, "a cell's value leaked into the message"
    assert not list(home.rglob("versions/*.json"))
    assert not (tmp_path / "owned").exists()


def test_the_configuration_itself_may_be_absent(denograd: Any, tmp_path: Path) -> None:
    ran = denograd("run", tmp_path / "nowhere.yaml")
    assert ran.code == 2
    assert "denograd init" in ran.err


def test_bad_input_is_one_json_object_too(denograd: Any, tmp_path: Path) -> None:
    ran = denograd("run", tmp_path / "nowhere.yaml", "--json")
    assert ran.code == 2
    assert ran.json["exit_code"] == 2
    assert ran.json["error"] == "ConfigError"


@pytest.mark.parametrize("name", ["nothing", "nothing@1", "no such!", "@3"])
def test_versions_that_do_not_exist_are_named(denograd: Any, name: str) -> None:
    for look in ("show", "path", "report"):
        ran = denograd(look, name)
        assert ran.code in (1, 2)
        assert "Error:" in ran.err
