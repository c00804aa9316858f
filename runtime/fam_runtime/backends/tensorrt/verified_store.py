"""Files with a record of their size and SHA-256 beside them, in a folder of this user's alone.

What is kept here is native code or steers its making, so nothing is given to a library before it
has been compared with its record, and nothing is taken from a folder that somebody else may write.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fam_runtime.bundle import write_atomically
from fam_runtime.errors import BackendError, storage_error_from

RECORD_SUFFIX = ".json"
_LOCK_SUFFIX = ".lock"
_MAX_RECORD_BYTES = 1 << 20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Damaged(Exception):
    """A file is not what its record says; the text is a clause for a sentence."""


@dataclass(frozen=True)
class StoredFile:
    """A file that was read.

    Attributes:
        data: its content, mapped; a buffer.
        details: what the writer recorded besides.
    """

    data: Any
    details: Mapping[str, Any]


class VerifiedStore:
    """A folder of such files.

    Args:
        root: the folder; made when it is first needed, for this user only.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, content: Any, details: Mapping[str, Any]) -> None:
        """Write a file, and its record last; a reader sees the old one, none, or this one.

        Args:
            name: relative to the root.
            content: a buffer of bytes.
            details: JSON types to record.

        Raises:
            StorageError: the disk is full, or the place may not be written.
            BackendError: the folder is not safe.
        """
        path = self._made(name)
        view = memoryview(content).cast("B")
        record = {
            "bytes": view.nbytes,
            "sha256": hashlib.sha256(view).hexdigest(),
            "details": dict(details),
        }
        with _storage_errors(path):
            _record_of(path).unlink(missing_ok=True)
        write_atomically(path, lambda stream: _write_all(stream, view), private=True)
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        write_atomically(_record_of(path), text.encode(), private=True)

    def read(self, name: str) -> StoredFile | None:
        """A file whose bytes are those that were written; None if there is none.

        Raises:
            Damaged: it is truncated, altered, not this user's, or its record cannot be read.
            BackendError: the folder is not safe.
        """
        path = self.root / name
        record = self.record(name)
        if record is None:
            return None
        try:
            data = _mapped(path)
        except FileNotFoundError:
            return None
        if len(data) != record["bytes"]:
            raise Damaged(f"{path.name} has {len(data)} bytes, and {record['bytes']} were written")
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise Damaged(f"{path.name} was altered after it was written")
        return StoredFile(data, record["details"])

    def record(self, name: str) -> dict[str, Any] | None:
        """The record of a file, which may still be damaged itself; None if there is none.

        Raises:
            Damaged: the record cannot be read.
            BackendError: the folder is not safe.
        """
        if not self._check_folders(name):
            return None
        path = _record_of(self.root / name)
        try:
            data = _mapped(path)
            if len(data) > _MAX_RECORD_BYTES:
                raise ValueError("too large")
            return _checked_record(json.loads(bytes(data)))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise Damaged(f"{path.name} cannot be read ({error})") from error

    def names(self, pattern: str) -> list[str]:
        """Names of the files that have a record, whose name fits the glob `pattern`."""
        found = self.root.glob(pattern + RECORD_SUFFIX)
        return sorted(
            path.relative_to(self.root).as_posix().removesuffix(RECORD_SUFFIX) for path in found
        )

    @contextlib.contextmanager
    def locked(self, name: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Be the only process that makes the file `name`, for the length of a block.

        Args:
            name: the file.
            on_wait: called when another process holds it, before waiting.

        Raises:
            StorageError: the place may not be written.
        """
        path = self._made(name + _LOCK_SUFFIX)
        with _storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def check(self) -> None:
        """Make sure that files can be written, before the work that makes them.

        Raises:
            StorageError: the place may not be written.
            BackendError: the folder is not safe, or none.
        """
        probe = self._made(".probe")
        write_atomically(probe, b"", private=True)
        probe.unlink(missing_ok=True)

    def _made(self, name: str) -> Path:
        """The path of `name`, in folders that exist and are this user's alone."""
        path = self.root / name
        if self.root.exists() and not self.root.is_dir():
            raise BackendError(
                f"the engine cache {self.root} is no folder",
                expected="a folder, or the name of one to make",
                fix="give another one by --cache-dir",
            )
        with _storage_errors(path):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for folder in self._folders(name):
                folder.mkdir(mode=0o700, exist_ok=True)
        self._check_folders(name)
        return path

    def _check_folders(self, name: str) -> bool:
        """Whether the folders of `name` are there; each must be this user's alone to write.

        Raises:
            BackendError: one is not.
        """
        for folder in self._folders(name):
            try:
                # The root may be a link of the user's own; nothing below it may.
                status = folder.stat() if folder == self.root else folder.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            others = status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS
            if others or not stat.S_ISDIR(status.st_mode):
                raise BackendError(
                    f"the engine cache {folder} is not safe: engines are native code",
                    got=f"owner {status.st_uid}, mode {stat.filemode(status.st_mode)}",
                    expected="a folder of this user's that nobody else may write to",
                    fix=f"chmod -R go-w {self.root}, or give another folder by --cache-dir",
                )
        return True

    def _folders(self, name: str) -> list[Path]:
        """From the root down to the folder of `name`."""
        below = [self.root / parent for parent in Path(name).parents if parent != Path()]
        return [self.root, *reversed(below)]


def _checked_record(record: Any) -> dict[str, Any]:
    types = {"bytes": int, "sha256": str, "details": dict}
    if not isinstance(record, dict) or any(
        type(record.get(name)) is not kind for name, kind in types.items()
    ):
        raise ValueError("it is no record")
    return record


def _write_all(stream: BinaryIO, view: memoryview) -> None:
    stream.write(view)


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + RECORD_SUFFIX)


def _mapped(path: Path) -> Any:
    """The content of a plain file of this user's.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is another user's, a link, or may be written by others.
    """
    try:
        # Without waiting for a writer, where a pipe stands in the file's place.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
            raise Damaged(f"{path.name} may be written by others")
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            return b""
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error_from(error, path) from error
