"""One Prefect API for a whole session, and the order of the tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support import ignored_leaks

LONGEST = (
    "test_append.py",
    "test_stack.py",
    "test_interruptions.py",
    "test_installation.py",
    "test_deploy.py",
    "test_command.py",
    "test_backbones_and_rules.py",
)
"""Files that come first, so that parallel workers end together."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs hand that on to all they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect API with a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with ExitStack() as stack:
        with ignored_leaks():
            stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        yield
        with ignored_leaks():
            stack.close()
