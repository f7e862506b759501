"""A PostgreSQL cluster of one's own, in a folder, reachable from this machine alone."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from denograd_engine.errors import ConfigError, ServiceError
from infra.processes import Account, Interrupted, pause

OWNER = "denograd"
PACKAGED = Path("/usr/lib/postgresql")
"""Where Debian leaves the programs of each version, outside of PATH."""
LONGEST_SOCKET = 90
"""Letters of a folder in which the system still takes a socket."""
UNPRIVILEGED = ("postgres", "nobody")
"""Who may own the cluster if root asks for one: PostgreSQL refuses to run as root."""


def programs() -> Path:
    """The folder of PostgreSQL's server programs.

    Raises:
        ConfigError: If they are not installed.
    """
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    packaged = [path.parent for path in PACKAGED.glob("*/bin/initdb")]
    if not packaged:
        raise ConfigError(
            "PostgreSQL is not installed",
            expected=f"initdb and postgres in PATH, or below {PACKAGED}",
            remedy="apt-get install postgresql (or your system's package); or use SQLite: make stack DATABASE=sqlite",
        )
    return max(packaged, key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))])


def account() -> Account | None:
    """Whom the cluster belongs to; None is who runs this."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(known[name] for name in UNPRIVILEGED if name in known)
    return Account(entry.pw_uid, entry.pw_gid)


class Cluster:
    """A cluster in a folder.

    Args:
        folder: Of the data, the password and the socket.
        port: Where it listens on the loopback interface.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.account = account()

    @property
    def command(self) -> list[str]:
        """What runs it."""
        socket = self.folder if len(str(self.folder)) <= LONGEST_SOCKET else ""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": socket}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(programs() / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *settings]

    def address(self, database: str, driver: str = "") -> str:
        """The URL of a database, with its password.

        Args:
            database: Its name.
            driver: SQLAlchemy's suffix, such as `+asyncpg`.
        """
        password = (self.folder / "password").read_text().strip()
        return f"postgresql{driver}://{OWNER}:{password}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Create the cluster unless it is there: as a whole or not at all.

        Raises:
            ConfigError: If PostgreSQL is not installed, or its account cannot reach the folder.
            ServiceError: If it cannot be created.
            Interrupted: If the user asked to stop.
        """
        data, fresh, password = (self.folder / name for name in ("data", "data.new", "password"))
        if data.exists():
            return
        self._require_reachable()
        shutil.rmtree(fresh, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        if self.account is not None:
            for path in (self.folder, password):
                os.chown(path, self.account.user, self.account.group)
        self._run_initdb(fresh, password)
        fresh.rename(data)

    def databases(self, *names: str) -> bool:
        """Create the databases that are not there; returns False while the server does not answer."""
        import psycopg
        from psycopg import sql

        try:
            with psycopg.connect(self.address("postgres"), autocommit=True, connect_timeout=5) as connection:
                there = {name for (name,) in connection.execute("select datname from pg_database")}
                for name in names:
                    if name not in there:
                        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        except psycopg.OperationalError:
            return False
        return True

    def _require_reachable(self) -> None:
        closed = [path for path in self.folder.parents if path.exists() and not path.stat().st_mode & 0o001]
        if self.account is not None and closed:
            raise ConfigError(
                "PostgreSQL does not run as root, and its own account cannot reach the folder",
                expected="folders that everybody may pass through",
                found=str(closed[-1]),
                remedy="make stack STACK=/var/lib/denograd-stack, or make stack DATABASE=sqlite, or another user",
            )

    def _run_initdb(self, data: Path, password: Path) -> None:
        whom = {"user": self.account.user, "group": self.account.group, "extra_groups": []} if self.account else {}
        command = [programs() / "initdb", "-D", data, "-U", OWNER, "-A", "scram-sha-256", "--pwfile", password]
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                [*map(str, command), "-E", "UTF8", "--locale=C"],
                stdout=said,
                stderr=said,
                cwd=self.folder,
                **whom,  # type: ignore[call-overload]
            )
            try:
                while process.poll() is None:
                    pause()
            except Interrupted:
                process.terminate()
                process.wait()
                raise
            if process.returncode:
                said.seek(0)
                raise ServiceError(
                    "the PostgreSQL cluster cannot be created",
                    found=said.read().strip().rpartition("\n")[2],
                    where=str(self.folder),
                )
