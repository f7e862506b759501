"""Versions that grow, are named, run again, gone back to and given up, by the commands that a person uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import make_table

REASON = "the second delivery was of another sensor"


@pytest.fixture
def arrive(config: Callable[..., Path], tmp_path: Path, denograd: Any) -> Callable[..., Any]:
    """Runs in mode append on a source with these rows."""

    def run(first: int, last: int) -> Any:
        whole = make_table(400).assign(serial=np.arange(400))
        whole.iloc[first:last].to_parquet(tmp_path / "readings.parquet", index=False)
        columns = {"target": ["y"], "key": ["serial"]}
        ran = denograd(
            "run", config(mode="append", columns=columns, gates={"std_ratio": {"severity": "warning"}}), "--json"
        )
        assert ran.code == 0, ran.err
        return ran.json

    return run


def published(denograd: Any, name: str) -> pd.DataFrame:
    return pd.read_parquet(denograd("path", name).out.strip())


def test_what_arrives_after_a_rollback_joins_what_was_gone_back_to(denograd: Any, arrive: Callable[..., Any]) -> None:
    arrive(0, 250)
    arrive(250, 300)
    ran = denograd("rollback", "readings@1", "--reason", REASON)
    assert ran.code == 0, ran.err
    assert (ran.out.strip(), ran.err) == ("readings@3 has the content of readings@1", "")
    again = denograd("rollback", "readings@1", "--reason", REASON, "--json").json
    assert (again["version"], again["already"]) == (3, True)
    pd.testing.assert_frame_equal(published(denograd, "readings"), published(denograd, "readings@1"))
    assert f"rolled back: to readings@1 by {again_by(denograd)}" in denograd("lineage", "readings").out
    assert REASON in denograd("show", "readings").out
    assert "back to @1" in denograd("versions").out

    outcome = arrive(300, 360)
    assert (outcome["version"], outcome["rows"]) == (4, 310)
    assert outcome["appended"] == {"parent": 3, "added": 60, "corrected": 0, "revisited": 0, "settled": 0}
    grown = published(denograd, "readings")
    assert grown["serial"].tolist() == [*range(250), *range(300, 360)]
    pd.testing.assert_frame_equal(grown.iloc[:250], published(denograd, "readings@1"), check_exact=True)
    assert denograd("reproduce", "readings@4", "--json").json["outcome"] == "identical"
    assert denograd("verify", "readings", "--all").code == 0

    everything = arrive(0, 400)
    assert (everything["version"], everything["rows"]) == (5, 400)
    assert everything["appended"]["added"] == 90


def again_by(denograd: Any) -> str:
    by: str = denograd("show", "readings", "--json").json["rolled_back"]["by"]
    return by


def test_a_version_is_named_and_kept_and_the_others_are_given_up(
    denograd: Any, config: Callable[..., Path], home: Path
) -> None:
    def with_tau(tau: float) -> Path:
        return config(refine={"max_epochs": 20, "tau": tau}, publish={"retention": 1})

    assert denograd("run", with_tau(0.1)).code == 0
    assert denograd("tag", "readings", "quarterly-report").out == "readings@1 is tagged quarterly-report\n"
    assert denograd("run", with_tau(0.2)).code == 0
    ran = denograd("run", with_tau(0.3), "--model", "readings@unheard-of")
    assert "there is no model 'models:/readings@unheard-of' in the registry" in ran.err
    third = denograd("run", with_tau(0.3), "--model", "readings@quarterly-report", "--json").json
    assert (third["version"], third["model"]) == (3, "models:/readings/1")
    for command in (["show"], ["lineage"], ["path"], ["report"], ["verify"], ["reproduce"]):
        assert denograd(*command, "readings@quarterly-report").code == 0, command
    assert denograd("diff", "readings@quarterly-report", "readings@3", "--json").json["first"] == "readings@1"
    listed = denograd("versions", "readings", "--json").json
    assert [row["tags"] for row in listed] == [["quarterly-report"], [], []]
    ran = denograd("tag", "readings@3", "quarterly-report")
    assert ran.code == 2
    assert "readings@1 has the tag" in ran.err

    root = home / "published" / "readings"
    before = sorted(path for path in root.rglob("*") if path.is_file())
    would = denograd("gc", "readings", "--dry-run", "--json").json["datasets"][0]
    assert (would["versions"], would["kinds"]) == ([2], {"data": 1, "evidence": 1})
    assert sorted(path for path in root.rglob("*") if path.is_file()) == before
    freed = denograd("gc", "readings")
    assert "readings: freed 2 files" in freed.out
    assert "the data of @2 by retention" in freed.out
    assert denograd("gc", "readings", "--json").json["datasets"][0]["files"] == 0
    assert [row["data"] for row in denograd("versions", "--json").json] == [True, False, True]
    assert denograd("versions").out.count("data removed") == 1

    verified = denograd("verify", "readings", "--all")
    assert verified.code == 0
    assert "version 2 gave up 3 tables" in verified.out
    because = ["--reason", REASON]
    for command in (
        ["path", "readings@2"],
        ["diff", "readings@2", "readings@3"],
        ["reproduce", "readings@2"],
        ["rollback", "readings@2", *because],
    ):
        ran = denograd(*command)
        assert ran.code == 1
        assert "were removed by retention" in ran.err
    for command in ("show", "lineage", "report"):
        assert denograd(command, "readings@2").code == 0
    assert "not looked into" in denograd("cell", "readings@3", "--row", "0", "--column", "y").out

    again = denograd("run", with_tau(0.2), "--json").json
    assert (again["version"], "refine" in again["reused"]) == (4, False)
    assert denograd("verify", "readings", "--all").code == 0
    assert denograd("tag", "readings", "quarterly-report", "--delete").code == 0
    assert denograd("gc", "readings", "--json").json["datasets"][0]["versions"] == [1, 3]
    assert denograd("verify", "readings", "--all").code == 0


def test_a_version_that_comes_out_otherwise_is_told_column_by_column(
    denograd: Any, config: Callable[..., Path], home: Path
) -> None:
    from denograd_tasks.store import sha256_of
    from denograd_tasks.versions import canonical, sealed

    assert denograd("run", config()).code == 0
    ran = denograd("reproduce", "readings")
    assert ran.code == 0, ran.err
    assert "✓ identical, byte for byte: 2 tables" in ran.out
    assert "✓ Refine" in ran.out

    manifest = home / "published" / "readings" / "versions" / "00000001.json"
    content = json.loads(manifest.read_text())
    data = home / "published" / content["files"][0]["path"]
    frame = pd.read_parquet(data)
    frame.loc[:9, "y"] += 5.0
    frame.to_parquet(data, index=False)
    content["files"][0]["sha256"] = sha256_of(data)
    content["environment"]["packages"]["torch"] = "2.0.0"
    manifest.write_bytes(canonical(sealed(content)))
    ran = denograd("reproduce", "readings")
    assert ran.code == 4
    for words in ("✗ different", "part-00000.parquet", "y ", "torch: 2.0.0 then"):
        assert words in ran.out
    ran = denograd("reproduce", "readings", "--json")
    assert (ran.code, ran.json["outcome"]) == (4, "different")
    assert ran.json["tables"][0]["columns"][0]["cells"] == 10


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["rollback", "readings", "--reason", "x"], "what to go back to"),
        (["rollback", "readings@1", "--reason", " "], "needs a reason"),
        (["tag", "readings", "a", "--move", "--delete"], "moved or deleted"),
        (["reproduce", "Readings!"], "no name of a version"),
    ],
)
def test_what_cannot_be_asked_for_is_bad_input(denograd: Any, arguments: list[str], problem: str) -> None:
    ran = denograd(*arguments)
    assert ran.code == 2
    assert problem in ran.err


@pytest.mark.slow
def test_with_other_instructions_and_more_threads_it_comes_out_within_the_tolerance(
    denograd: Any, process: Any, config: Callable[..., Path]
) -> None:
    assert denograd("run", config()).code == 0
    ran = process("reproduce", "readings", "--json", ATEN_CPU_CAPABILITY="default", OMP_NUM_THREADS="2")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert "instructions" in {one["what"] for one in found["differences"]}
    assert found["outcome"] in ("identical", "within tolerance")
