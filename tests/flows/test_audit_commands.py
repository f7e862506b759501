"""An auditor's commands, on what an ordinary run published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest


@pytest.fixture
def two_versions(denograd: Any, config: Callable[..., Path]) -> list[dict[str, Any]]:
    """The outcomes of two runs; the configuration stays in the working folder."""
    first = denograd("run", config(), "--json").json
    return [first, denograd("run", config(refine={"max_epochs": 20, "tau": 0.2}), "--json").json]


def test_two_versions_are_audited(
    denograd: Any, two_versions: list[dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    first, second = two_versions

    ran = denograd("lineage", "readings@2")
    assert ran.code == 0
    for words in (
        "readings@2: published",
        f"manifest: {second['manifest']}",
        f"snapshot: {second['snapshot']}",
        f"model: {second['model']}",
        "✓ swd",
        "at most 0.15, error",
        "✓ rows 400",
        "tau: 0.2",
        "triggered by: command",
        "prefect-denograd",
        "parent: readings@1, published 20",
        first["manifest"],
    ):
        assert words in ran.out
    assert denograd("lineage", "readings", "--json").json["parent"]["digest"] == first["manifest"]

    ran = denograd("verify", "readings", "--all", "--expect-head", second["manifest"])
    assert ran.code == 0, ran.out
    assert "everything is as it was published" in ran.out
    assert second["manifest"] in ran.out

    observed, refined = pd.read_parquet(tmp_path / "readings.parquet"), pd.read_parquet(second["path"])
    moved = {column: int((refined[column] != observed[column]).sum()) for column in observed}
    ran = denograd("diff", "readings@2", "--source", "--to", tmp_path / "moved.csv")
    assert ran.code == 0, ran.err
    assert f"{sum(moved.values()):,} cells of {second['moved']:,} rows" in ran.out
    assert len(pd.read_csv(tmp_path / "moved.csv")) == second["moved"]
    plain = denograd("diff", "readings@1", "readings@2", "--where", "site = 'north'", "--json").json
    assert plain["matched"] == int((observed["site"] == "north").sum())
    assert {column["name"] for column in plain["columns"] if column["changed"]} <= {"a", "b", "c", "y"}

    ran = denograd("cell", "readings@2", "--row", "7", "--column", "y")
    assert ran.code == 0, ran.err
    assert str(refined["y"][7]) in ran.out
    plain = denograd("cell", "readings@2", "--row", "7", "--column", "y", "--json").json
    assert (plain["observed"], plain["refined"]) == (observed["y"][7], refined["y"][7])

    damaged = Path(first["path"]) / "part-00000.parquet"
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    assert denograd("verify", "readings@2").code == 0
    ran = denograd("verify", "readings@1")
    assert ran.code == 4
    assert f"✗ changed: {damaged.relative_to(home / 'published')}" in ran.out
    ran = denograd("verify", "readings", "--all", "--json")
    assert ran.code == 4
    (finding,) = ran.json["findings"]
    assert (finding["version"], finding["kind"]) == (1, "changed")


def test_the_root_is_that_of_the_configuration_in_this_folder(
    denograd: Any, config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = denograd("run", config(publish={"root": "elsewhere"}), "--json")
    assert ran.code == 0, ran.err
    assert denograd("verify", "readings").code == 0
    assert denograd("path", "readings").out.strip().startswith(str(tmp_path / "elsewhere"))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert denograd("verify", "readings").code == 1
    assert denograd("verify", "readings", "--root", tmp_path / "elsewhere").code == 0


def test_a_run_signs_what_it_publishes(denograd: Any, config: Callable[..., Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)

    ran = denograd("run", config(publish={"sign_with": "key.pem"}))
    assert ran.code == 2
    assert "key.pem: No such file" in ran.err
    assert not list(tmp_path.rglob("versions/*"))

    (tmp_path / "key.pem").write_bytes(pem)
    assert denograd("run", config(publish={"sign_with": "key.pem"})).code == 0
    ran = denograd("verify", "readings", "--public-key", "public.pem")
    assert ran.code == 0, ran.out
    assert "every version" in ran.out
    (signature,) = tmp_path.rglob("versions/*.sig")
    signature.unlink()
    ran = denograd("verify", "readings", "--public-key", "public.pem", "--json")
    assert (ran.code, ran.json["signed"]) == (4, False)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["diff", "readings@1"], "two tables are compared"),
        (["diff", "readings@1", "readings@2", "--source"], "two tables are compared"),
        (["cell", "readings", "--column", "y", "--key", "id"], "this names no row"),
        (["verify", "Readings!"], "no name of a version"),
        (["verify", "readings", "--public-key", "nowhere.pem"], "the key cannot be read"),
    ],
)
def test_what_makes_no_question_is_bad_input(denograd: Any, arguments: list[str], problem: str) -> None:
    ran = denograd(*arguments)
    assert ran.code == 2
    assert problem in ran.err
    assert problem in denograd(*arguments, "--json").json["problem"]


def test_they_need_no_server_and_no_network(process: Any, tmp_path: Path) -> None:
    """A root that holds nothing is told so; nothing else is made beside it."""
    ran = process("verify", "readings", "--json", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert ran.code == 1
    assert "no published data set" in json.loads(ran.out)["problem"]
