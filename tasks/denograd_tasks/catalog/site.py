"""The site on local disk: written beside its place, and put there when it is whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from denograd_engine.errors import ConfigError
from denograd_tasks.catalog.pages import INDEX, pages
from denograd_tasks.catalog.reading import holdings, learnt_snapshots
from denograd_tasks.store import Store

MARK = "denograd-catalog"
"""A file that tells a site of ours from a folder of somebody's."""
STYLE = "style.css"


@dataclass(frozen=True)
class Site:
    """What was written.

    Attributes:
        index: Its first page.
        datasets: How many data sets it shows.
        versions: How many versions.
        amiss: What is wrong with manifests, in words, by data set.
    """

    index: str
    datasets: int
    versions: int
    amiss: dict[str, tuple[str, ...]]


def write_site(store: Store, to: Path) -> Site:
    """Write the site in place of the one that was there.

    Args:
        store: The publishing root.
        to: A folder of its own.

    Raises:
        ConfigError: If the folder holds anything else.
        ServiceError: If the store does not answer.
    """
    to = to.expanduser().absolute()
    if to.exists() and not (to / MARK).is_file() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(
            "this is no place for a catalog",
            expected="a new folder, or that of an earlier catalog",
            found="other files" if to.is_dir() else "a file",
            where=str(to),
            remedy="name another folder with --output",
        )
    found = holdings(store)
    learnt = learnt_snapshots(found)
    with _replacing(to) as fresh:
        (fresh / MARK).write_text("This folder is written by `denograd catalog`, and replaced as a whole.\n")
        (fresh / STYLE).write_text(_style(), encoding="utf-8")
        for page in pages(store, found, learnt, to, datetime.now(UTC)):
            path = fresh / page.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page.html, encoding="utf-8")
    return Site(
        index=str(to / INDEX),
        datasets=len(found),
        versions=sum(len(one.versions) for one in found),
        amiss={one.name: one.amiss for one in found if one.amiss},
    )


@contextmanager
def _replacing(to: Path) -> Iterator[Path]:
    """A new folder that takes the place of the one that is there, if nothing goes wrong; the last to finish stays."""
    to.parent.mkdir(parents=True, exist_ok=True)
    _sweep(to)
    own = f".{to.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    fresh, old = (to.with_name(f"{own}.{kind}") for kind in ("new", "old"))
    fresh.mkdir()
    try:
        yield fresh
        while not _put(fresh, to):
            with suppress(FileNotFoundError):
                to.rename(old)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put(fresh: Path, to: Path) -> bool:
    """Whether there was nothing in the way."""
    try:
        fresh.rename(to)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _sweep(to: Path) -> None:
    """Remove what killed processes left."""
    import psutil

    for left in to.parent.glob(f".{to.name}.*"):
        match = re.fullmatch(rf"\.{re.escape(to.name)}\.(\d+)-[0-9a-f]{{8}}\.(?:new|old)", left.name)
        if match and not psutil.pid_exists(int(match.group(1))):
            shutil.rmtree(left, ignore_errors=True)


def _style() -> str:
    """That of the report, and what it has not."""
    report, own = files("denograd_tasks.report_page") / "page.css", files("denograd_tasks.catalog") / "catalog.css"
    return report.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")
