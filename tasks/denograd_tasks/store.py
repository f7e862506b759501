"""The publishing root: a folder on local disk or in an object store, written object by object, each atomically.

Nothing that a version names is overwritten: an object is created if it is absent, or it was there already. That holds
on local disk and on object stores alike, and makes the creation of a manifest the commit of a version.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from denograd_engine.errors import DenogradError, ServiceError, StoreError
from denograd_tasks.blocks import DenogradStore, referred

if TYPE_CHECKING:
    from obstore.store import ObjectStore

BLOCK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATIENCE = timedelta(seconds=60)
"""How long requests to an object store that does not answer are repeated."""
PANIC = "PanicException"
"""What obstore raises, outside of the tree of exceptions, for options that it takes for another store's."""
LONGEST_REQUEST = "5 minutes"
"""Unless the environment says otherwise; objects go up in one request, to be created whole or not at all."""


@dataclass(frozen=True)
class Stored:
    """An object as the store lists it.

    Attributes:
        path: Relative to the root.
        bytes: Its size.
        written: When, by the clock of the store.
    """

    path: str
    bytes: int
    written: datetime


def sha256_of(path: Path) -> str:
    """Hex digest of a local file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Store:
    """A publishing root.

    Args:
        root: A local folder, or a URL such as `s3://bucket/prefix`; or `block:NAME`, which knows the credentials that
            otherwise come from the environment.
    """

    def __init__(self, root: str) -> None:
        self.named = root
        block = referred(DenogradStore, root, "publish.root")
        root = block.root if block else root
        self.root = root.rstrip("/")
        self.local = None if re.match(r"[a-z0-9]+://", root) and not root.startswith("file://") else _folder(root)
        self._objects = _connect(self.root, self.local, block)

    def uri(self, path: str) -> str:
        """The address of an object, as a path on local disk or as a URL."""
        return str(self.local / path) if self.local else f"{self.root}/{path}"

    def create(self, path: str, content: Path | bytes) -> bool:
        """Create an object, whole or not at all.

        Returns:
            Whether it was created; False if it was there already, untouched.
        """
        from obstore.exceptions import AlreadyExistsError

        try:
            with _named(self.root):
                self._objects.put(path, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except FileNotFoundError as error:
            raise _unavailable(self.root, error) from error
        return True

    def replace(self, path: str, content: bytes) -> None:
        """Write an object in place of the last one, whole or not at all; for what no version names."""
        with _named(self.root):
            if self.local is None:
                self._objects.put(path, content, use_multipart=False)
                return
            target = self.local / path
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f"{target.name}.{uuid.uuid4()}.new")  # a name that `sweep` leaves alone
            fresh.write_bytes(content)
            fresh.replace(target)

    def read(self, path: str) -> bytes:
        """The bytes of an object.

        Raises:
            StoreError: If there is none.
        """
        try:
            with _named(self.root):
                return bytes(self._objects.get(path).bytes())
        except FileNotFoundError:
            raise StoreError("a stored object is missing", where=self.uri(path)) from None

    def size(self, path: str) -> int | None:
        """Bytes of an object, or None if there is none."""
        try:
            with _named(self.root):
                return int(self._objects.head(path)["size"])
        except FileNotFoundError:
            return None

    def sha256(self, path: str) -> str | None:
        """Hex digest of an object's bytes, streamed; None if there is none."""
        digest = hashlib.sha256()
        try:
            with _named(self.root):
                for block in self._objects.get(path).stream(min_chunk_size=BLOCK):
                    digest.update(memoryview(block))
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def holds(self, path: str, sha256: str) -> bool:
        """Whether an object is there with this digest."""
        return self.sha256(path) == sha256

    def list(self, prefix: str) -> Iterator[str]:
        """Paths of the objects below a folder, ascending."""
        with _named(self.root):
            paths = [entry["path"] for batch in self._objects.list(prefix) for entry in batch]
        yield from sorted(paths)

    def entries(self, prefix: str) -> Sequence[Stored]:
        """The objects below a folder, ascending, with their sizes and times."""
        with _named(self.root):
            found = [
                Stored(entry["path"], entry["size"], entry["last_modified"])
                for batch in self._objects.list(prefix)
                for entry in batch
            ]
        return sorted(found, key=lambda one: one.path)

    def written(self, path: str) -> datetime | None:
        """When an object was written, by the clock of the store; None if there is none."""
        try:
            with _named(self.root):
                written: datetime = self._objects.head(path)["last_modified"]
        except FileNotFoundError:
            return None
        return written

    def clock(self, folder: str) -> datetime:
        """What time it is for the store: that of an object which is written for it, and deleted.

        Args:
            folder: Where to write it.
        """
        path = f"{folder}/clock/{uuid.uuid4()}"
        self.create(path, b"")
        try:
            now = self.written(path)
        finally:
            self.delete(path)
        if now is None:
            raise StoreError("a stored object is missing", where=self.uri(path))
        return now

    def delete(self, path: str) -> None:
        """Remove an object; one that is absent is no error."""
        with suppress(FileNotFoundError), _named(self.root):
            self._objects.delete(path)

    def fetch(self, path: str, to: Path) -> Path:
        """A local copy of an object; on local disk, the object itself.

        Raises:
            StoreError: If there is none.
        """
        if self.local:
            found = self.local / path
            if not found.is_file():
                raise StoreError("a stored object is missing", where=str(found))
            return found
        target = to / Path(path).name
        try:
            with _named(self.root), target.open("wb") as stream:
                for block in self._objects.get(path).stream(min_chunk_size=BLOCK):
                    stream.write(memoryview(block))
        except FileNotFoundError:
            raise StoreError("a stored object is missing", where=self.uri(path)) from None
        return target

    @contextmanager
    def opened(self, path: str) -> Iterator[IO[bytes]]:
        """An object to be read where it is, a part at a time.

        Raises:
            StoreError: If there is none.
        """
        try:
            with _named(self.root):
                if self.local:
                    with (self.local / path).open("rb") as stream:
                        yield stream
                else:
                    with io.BufferedReader(_Remote(self._objects, path), BLOCK) as remote:
                        yield remote
        except FileNotFoundError:
            raise StoreError("a stored object is missing", where=self.uri(path)) from None

    def sweep(self, prefix: str) -> int:
        """Remove what interrupted writes left on local disk, and return how many files that were.

        Only to be called while no other process writes below the prefix.
        """
        if not self.local or not (self.local / prefix).is_dir():
            return 0
        staged = [path for path in (self.local / prefix).rglob("*#*") if re.search(r"#\d+$", path.name)]
        for path in staged:
            path.unlink(missing_ok=True)
        return len(staged)

    def prune(self, prefix: str) -> None:
        """Remove empty folders below the prefix on local disk; the same caution applies."""
        if not self.local:
            return
        for folder, _, _ in os.walk(self.local / prefix, topdown=False):
            with suppress(OSError):  # it is not empty
                Path(folder).rmdir()


class _Remote(io.RawIOBase):
    """An object of a remote store as Python's own files are."""

    def __init__(self, objects: ObjectStore, path: str) -> None:
        from obstore import open_reader

        self._reader = open_reader(objects, path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = memoryview(self._reader.read(len(buffer)))
        buffer[: len(read)] = read
        return len(read)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


def open_store(root: str) -> Store:
    """The store at this root."""
    return Store(root)


def _folder(root: str) -> Path:
    return Path(root.removeprefix("file://")).expanduser().absolute()


def _connect(root: str, local: Path | None, block: DenogradStore | None) -> ObjectStore:
    from obstore.store import LocalStore, from_url

    for cloud in ("AWS", "AZURE", "GOOGLE"):  # client options in code would discard those in the environment
        os.environ.setdefault(f"{cloud}_TIMEOUT", LONGEST_REQUEST)
    try:
        if local is not None:
            return LocalStore(local, mkdir=True)
        config: Any = block.options.get_secret_value() if block and block.options else None
        plain: Any = {"allow_http": True, "timeout": LONGEST_REQUEST} if block and block.allow_http else None
        return from_url(root, config=config, client_options=plain, retry_config={"retry_timeout": PATIENCE})
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise StoreError(
            "the publishing root cannot be opened",
            expected="a local folder, or a URL such as s3://bucket/prefix",
            found=f"{root}: {_reason(error)}",
            where="publish.root",
        ) from None


class _named:  # noqa: N801
    """Turns a store's transport errors into one that names the store."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, FileNotFoundError):
            return
        from obstore.exceptions import AlreadyExistsError, BaseError

        if isinstance(error, BaseError) and not isinstance(error, AlreadyExistsError):
            raise _unavailable(self.root, error) from error


def no_room(where: str, found: str | None) -> StoreError:
    """The error of a disk that is full, or of a quota or limit that is reached."""
    return StoreError(
        "a file could not be written: there is no room",
        found=found,
        where=where,
        remedy="make room, and run again: it goes on after the last finished stage",
    )


def _unavailable(root: str, error: BaseException) -> DenogradError:
    if any(f"(os error {code})" in str(error) for code in FULL):
        return no_room(root, _reason(error))
    return ServiceError(
        "the publishing store does not answer as it should",
        found=_reason(error),
        where=root,
        remedy="check that the store is reachable and that the credentials in the environment may write",
    )


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300] or type(error).__name__
