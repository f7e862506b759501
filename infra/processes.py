"""Processes that outlive the command that starts them and are ended by another: exactly those, with their children.

Each has a mark in its environment, which its children inherit, also those in process groups of their own. Unlike a
number, which the kernel gives out again, a mark never comes to mean another process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from denograd_engine.errors import DenogradError, ServiceError

MARK = "DENOGRAD_STACK"
LONGEST_START = 180
"""Seconds until a service that does not answer is given up."""
LONGEST_END = 30
"""Seconds until a process that was asked to end is killed."""
LINES = 5
"""Of the log of a service that failed, which the message repeats."""

stopping = threading.Event()
"""Set by the signals that ask to stop: work is left at points where nothing is lost track of."""


class Interrupted(DenogradError):
    """The user asked to stop."""


def pause(seconds: float = 0.2) -> None:
    """Wait a little.

    Raises:
        Interrupted: If the user asked to stop.
    """
    if stopping.wait(seconds):
        raise Interrupted("interrupted")


@dataclass(frozen=True)
class Account:
    """Whom a process runs as."""

    user: int
    group: int


class Processes:
    """The processes that belong to a folder, by name.

    Args:
        folder: Their records are below `run`, and what they print below `logs`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> Path:
        """What a process printed, in all its runs."""
        return self.folder / "logs" / f"{name}.log"

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        address: str,
        account: Account | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start a process that goes on when this one ends.

        Args:
            name: Of its record and log.
            command: What to run.
            environment: All of its variables.
            address: Where it will answer.
            account: Whom it runs as; None is who runs this.
            cwd: Its working folder.
        """
        mark, record = f"{name}-{uuid.uuid4()}", self._record(name)
        for file in (record, self.log(name)):
            file.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"mark": mark, "address": address}))
        whom = {"user": account.user, "group": account.group, "extra_groups": []} if account else {}
        with self.log(name).open("ab") as log:
            self._children[name] = subprocess.Popen(
                command,
                env={**environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=cwd,
                **whom,  # type: ignore[call-overload]
            )

    def address(self, name: str) -> str | None:
        """Where a process answers; None if it does not run."""
        return self._recorded(name)["address"] if self._members(name) else None

    def wait(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until a service answers.

        Raises:
            ServiceError: If its process ends, or it does not answer in time.
            Interrupted: If the user asked to stop.
        """
        until = time.monotonic() + LONGEST_START
        while not ready():
            if not self._members(name):
                raise self._failed(name, f"{name} ended while it started")
            if time.monotonic() > until:
                raise self._failed(name, f"{name} did not answer within {LONGEST_START} seconds")
            pause()

    def send(self, name: str, what: signal.Signals) -> None:
        """Send a process and its children a signal."""
        for process in self._members(name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(what)

    def end(self, name: str, by: signal.Signals = signal.SIGTERM) -> bool:
        """End a process and its children; those that do not end when asked are killed. Returns whether any ran."""
        found = self._members(name)
        for how in (by, signal.SIGKILL):
            self.send(name, how)
            until = time.monotonic() + LONGEST_END
            while self._members(name) and time.monotonic() < until:
                time.sleep(0.1)
        self._record(name).unlink(missing_ok=True)
        if name in self._children:
            self._children.pop(name).wait(LONGEST_END)
        return bool(found)

    def _record(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.json"

    def _recorded(self, name: str) -> dict[str, str]:
        try:
            recorded: dict[str, str] = json.loads(self._record(name).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return recorded

    def _members(self, name: str) -> list[psutil.Process]:
        """What runs with the mark of this name's record."""
        if name in self._children:
            self._children[name].poll()  # one that has ended is gone only when its parent has asked
        mark, found = self._recorded(name).get("mark"), []
        for process in psutil.process_iter() if mark else ():
            try:
                if process.environ().get(MARK) == mark and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _failed(self, name: str, problem: str) -> ServiceError:
        last = self.log(name).read_text(errors="replace").strip().splitlines()[-LINES:]
        return ServiceError(problem, found="\n    ".join(last)[-1000:] or None, where=str(self.log(name)))
