"""The README keeps its word: commands, settings, gates, exit codes and Python code are those of the product."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from support import make_table

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text(encoding="utf-8")


def test_every_command_is_documented_and_exists(text: str) -> None:
    from denograd_flows.cli import app

    commands = {one.callback.__name__ for one in app.registered_commands if one.callback}
    shown = set(re.findall(r"^    denograd (\w+)", text, flags=re.M)) | {"demo"}
    assert shown == commands


def test_every_setting_is_documented(text: str) -> None:
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    for path in _keys():
        section, _, key = path.partition(".")
        named = f"`{path}`" in rows or (f"`{section}." in rows and f"`.{key}`" in rows)
        assert named or (section in ("gates",) and f"`{key}`" in text) or f"`{key.split('.')[-1]}`" in rows, path


def test_the_gates_bounds_are_the_defaults(text: str) -> None:
    from denograd_tasks.settings import GateSettings

    said = re.search(r"^Gates: .*?\n\n", text, flags=re.M | re.S)
    assert said is not None
    for name, bound in GateSettings():
        after = said.group(0).split(f"`{name}`")[1]
        for limit in (bound.min, bound.max):
            if limit is not None:
                assert re.search(rf"{limit:.2f}|{limit:g}\b", after[:80]), name


def test_the_output_shown_has_every_stage(text: str) -> None:
    from denograd_flows.live import NAMES

    demonstration = text.split("## Your own data", maxsplit=1)[0]
    shown = re.findall(r"^    +✓ (.{16})", demonstration, flags=re.M)
    assert {one.strip() for one in shown} == set(NAMES.values()) - {"Quarantine"}


def test_the_python_code_runs(text: str, denograd: Any, config: Callable[..., Path]) -> None:
    config()
    names: dict[str, Any] = {"frame": make_table(300)}
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert len(names["result"].frame) == 300
    assert names["outcome"].status == "published"


def test_links_lead_somewhere(text: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, chapter = target.partition("#")
        file = README.parent / name if name else README
        assert file.exists(), target
        assert not chapter or chapter in _chapters(file.read_text()), target


def _chapters(text: str) -> set[str]:
    """What links to the headings of a page are called."""
    headings = re.findall(r"^##+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def _keys() -> Iterator[str]:
    from denograd_tasks.settings import Settings

    for name, field in Settings.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
        if section is None:
            yield name
        else:
            yield from (f"{name}.{key}" for key in section.model_fields)
