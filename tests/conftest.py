"""The order of the tests: the longest files first, so that parallel workers end together."""

from __future__ import annotations

import pytest

LONGEST = ("test_interruptions.py", "test_installation.py", "test_demo.py", "test_command.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
