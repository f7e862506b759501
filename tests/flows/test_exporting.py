"""The command `export`, on a version in the default root."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from support import clean_environment, command, make_table

from denograd_tasks.home import default_root
from denograd_tasks.store import open_store
from denograd_tasks.tables import put_table
from denograd_tasks.versions import commit


@pytest.fixture
def published(home: Path) -> pd.DataFrame:
    """The data of readings@1."""
    frame = make_table(400)
    store = open_store(default_root())
    file = put_table(store, pa.Table.from_pandas(frame), "readings/data/x/part-00000.parquet")
    commit(store, "readings", {"identity": "x", "files": [{**file.model_dump(), "rows": len(frame)}]})
    return frame


def test_a_version_is_exported_for_readers_outside(denograd: Any, published: pd.DataFrame, tmp_path: Path) -> None:
    ran = denograd("export", "readings", "--to", "csv")
    assert ran.code == 0, ran.err
    assert ran.out.strip() == "readings@1: 400 rows x 6 columns in readings@1.csv"
    read = pd.read_csv(tmp_path / "readings@1.csv", dtype={"b": "float32"})
    pd.testing.assert_frame_equal(read, published, check_exact=True, check_dtype=False)
    taken = denograd("export", "readings@1", "--to", "csv", "--json")
    assert taken.code == 2
    assert "in the place" in taken.json["problem"]
    assert denograd("export", "readings@1", "--to", "csv", "--force").code == 0
    place = tmp_path / "two.arrow"
    chosen = ("--columns", "y", "--columns", "a", "--output", place)
    plain = denograd("export", "readings", "--to", "arrow", *chosen, "--json").json
    assert (plain["path"], plain["columns"], plain["rows"]) == (str(place), ["y", "a"], 400)
    for version in (0, 1):
        ran = denograd("export", "readings", "--to", "delta")
        assert ran.out.strip().endswith(f"in readings, version {version} of the Delta table")
    assert denograd("export", "readings@7", "--to", "csv").code == 1


@pytest.mark.parametrize("arguments", [["readings"], ["readings", "--to", "xls"]], ids=["none", "unknown"])
def test_a_format_is_required(denograd: Any, arguments: list[str]) -> None:
    assert denograd("export", *arguments).code == 2


def test_without_the_extra_the_remedy_is_named(published: pd.DataFrame, home: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "deltalake.py").write_text("raise ImportError")
    done = subprocess.run(
        command("export", "readings", "--to", "delta"),
        env=clean_environment(home) | {"PYTHONPATH": str(hidden)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "prefect-denograd[delta]" in done.stderr
