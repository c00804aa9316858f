"""Where a repository is written: one writer at a time, and a folder for what is not yet whole."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fam_runtime.bundle.publish import TEMPORARY_SUFFIX
from fam_runtime.errors import InvalidRequest, StorageError, storage_error_from

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle

LOCK_NAME = ".fam-triton.lock"
"""In the repository while it is written; Triton takes folders for models, and no files."""

_PROBE_NAME = ".fam-triton.probe"


def resolved_root(output: str | os.PathLike[str], source: Bundle) -> Path:
    """The repository's folder, without links.

    Raises:
        InvalidRequest: it is a file, the root of the file system, or in the bundle.
    """
    root = Path(os.path.realpath(output))
    inside = root.is_relative_to(source.root.resolve())
    is_file = any(path.exists() and not path.is_dir() for path in (root, *root.parents))
    if inside or is_file or root == root.parent:
        raise InvalidRequest(
            "the model repository cannot be there",
            got=os.fspath(output),
            expected="a folder of its own, outside the bundle, and not below a file",
            fix="--output model_repository",
        )
    return root


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Be the only one that writes to the repository, which is made where it is missing.

    A writer that was killed holds nothing: the system releases its lock.

    Raises:
        OSError: it cannot be written to.
    """
    made = not root.exists()
    descriptor = _locked(root)
    try:
        yield
    finally:
        (root / LOCK_NAME).unlink(missing_ok=True)
        if made:
            with suppress(OSError):
                root.rmdir()  # nothing was published
        os.close(descriptor)


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """A folder from which whole models can be moved into the repository; for the only writer.

    It lies beside the repository, since a server would take it for a model. Where nothing can be
    moved in from there, as into a mounted volume, it has to be in the repository. What a writer
    that was killed left in such folders is removed.

    Raises:
        OSError: there is no place for it.
    """
    _remove_stale(root)
    name = f"{_prefix(root)}{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    beside = root.with_name(name)
    folder = beside if _can_move(beside, root) else root / name
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def storage_error(error: OSError, root: Path) -> StorageError:
    """What `error`, met while the repository was written, means."""
    if error.errno == errno.EXDEV:
        return StorageError(
            f"models cannot be moved into {root} at once",
            got=error.strerror,
            expected="all folders of a repository on one disk",
            fix="unmount what is mounted below it, or use another --output",
        )
    if error.errno == errno.ENOTDIR:
        return StorageError(
            f"{error.filename or root} is a file",
            got=error.strerror,
            expected="a folder",
            fix="remove it, or use another --output",
        )
    return storage_error_from(error, root)


def _locked(root: Path) -> int:
    """A descriptor that holds the lock; closing it gives the lock back."""
    path = root / LOCK_NAME
    while True:
        root.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # another writer has just removed the folder that it made for nothing
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_same(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the writer before removed this file: the lock is another one now


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _prefix(root: Path) -> str:
    return f".{root.name[:64]}.fam-triton-"


def _remove_stale(root: Path) -> None:
    stale = re.compile(re.escape(_prefix(root)) + r"[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX))
    for place in (root.parent, root):
        with suppress(OSError):  # a parent that cannot be listed has none of ours
            for folder in [entry for entry in place.iterdir() if stale.fullmatch(entry.name)]:
                if not folder.is_symlink():
                    shutil.rmtree(folder, ignore_errors=True)
    (root / _PROBE_NAME).unlink(missing_ok=True)


def _can_move(beside: Path, root: Path) -> bool:
    """Whether `beside` can be made, and a file moved from there into the repository."""
    try:
        beside.mkdir()
    except OSError:
        return False
    probe, moved = beside / _PROBE_NAME, root / _PROBE_NAME
    try:
        probe.touch()
        probe.rename(moved)
        moved.unlink()
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        return False
    return True
