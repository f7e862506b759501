"""The command that writes the catalog, on roots that are there and that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roots import publish_made_up

from denograd_tasks.store import Store


def test_it_writes_a_site_beside_the_default_root_and_says_where(denograd: Any, home: Path) -> None:
    store = Store(str(home / "published"))
    publish_made_up(store, "boilers", 3)
    index = home / "catalog" / "index.html"
    ran = denograd("catalog")
    assert (ran.code, ran.out.strip()) == (0, f"{index}: 1 data set, 3 versions")
    assert 'href="../../../published/boilers/' in (home / "catalog/datasets/boilers/3.html").read_text()
    assert denograd("catalog", "--json").json == {"index": str(index), "datasets": 1, "versions": 3, "amiss": {}}


def test_it_tells_of_a_damaged_manifest_and_of_a_folder_that_is_taken(
    denograd: Any, home: Path, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "root"))
    publish_made_up(store, "boilers", 2)
    (tmp_path / "root/boilers/versions/00000001.json").write_bytes(b"{")
    ran = denograd("catalog", "--root", tmp_path / "root", "--output", tmp_path / "public")
    assert ran.code == 0
    assert "boilers: the manifest of version 1 cannot be read; see: denograd verify boilers --all" in ran.err
    assert (tmp_path / "public/datasets/boilers/2.html").is_file()
    ran = denograd("catalog", "--root", tmp_path / "root", "--output", tmp_path / "root")
    assert ran.code == 2
    assert "this is no place for a catalog" in ran.err
