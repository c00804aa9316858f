"""Writing bundles so that nobody ever sees a half-written one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from fam_runtime.bundle.integrity import CHUNK_BYTES
from fam_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from fam_runtime.bundle.manifest_parts import FileRecord
from fam_runtime.bundle.reader import read_manifest
from fam_runtime.errors import ExportError, storage_error_from

TEMPORARY_SUFFIX = ".partial"
"""Ends the temporary name of a file that is being written."""

_TEMPORARY_NAME_CHARACTERS = 32
_TAKEN_ERRNOS = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR})
_NO_DIRECTORY_SYNC_ERRNOS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF})

Writer = Callable[[BinaryIO], None]


def write_atomically(
    path: str | os.PathLike[str], content: bytes | Writer, *, private: bool = False
) -> None:
    """Write a file under a temporary name of its own, sync it and rename it to `path`.

    Two processes may write the same file: the last one to finish wins, and the file is whole.

    Args:
        path: the file; its folder must exist.
        content: the bytes, or a function that writes them to a stream.
        private: for this user only, whatever the umask.

    Raises:
        StorageError: the disk is full or the place may not be written; nothing is left behind.
    """
    final = Path(path)
    token = secrets.token_hex(4)
    name = f"{final.name[:_TEMPORARY_NAME_CHARACTERS]}.{token}{TEMPORARY_SUFFIX}"
    temporary = final.with_name(name)
    try:
        with temporary.open("xb") as stream:  # x: never through a link that somebody put there
            if private:
                os.fchmod(stream.fileno(), 0o600)
            if isinstance(content, bytes):
                stream.write(content)
            else:
                content(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(final)
        _sync_directory(final.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        needed = len(content) if isinstance(content, bytes) else None
        raise storage_error_from(error, final, needed_bytes=needed) from error


def remove_temporary_files(root: Path) -> None:
    """Remove what a writer that was killed left under temporary names; for the only writer."""
    for file in root.rglob(f"*{TEMPORARY_SUFFIX}"):
        if file.is_file() and not file.is_symlink():
            file.unlink(missing_ok=True)


def publish_directory(staged: Path, final: Path) -> None:
    """Give a complete staged bundle its final name, in one step.

    Raises:
        ExportError: something is there already.
        StorageError: the place may not be written.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.is_dir() and not final.is_symlink() and not any(final.iterdir()):
            final.rmdir()
        if os.path.lexists(final):
            raise _taken(final)
        staged.rename(final)
        _sync_directory(final.parent)
    except OSError as error:
        if error.errno in _TAKEN_ERRNOS and os.path.lexists(final):
            raise _taken(final) from error
        raise storage_error_from(error, final) from error


def add_files(root: Path, staged: Path, manifest: Manifest) -> None:
    """Move staged files into the bundle at `root`, then replace its manifest.

    Until the manifest is there a reader ignores the files; after a kill in between, the next
    export replaces them. Files that the bundle lists already stay as they are.

    Raises:
        ExportError: `manifest` would change a published file, or lists one that is nowhere;
            nothing was moved.
        BundleError: there is no readable bundle at `root`.
        StorageError: the bundle may not be written, or the disk is full.
    """
    data = manifest.to_bytes()
    published = Manifest.from_bytes(read_manifest(root)).files
    _check_only_adds(published, manifest.files)
    added = sorted(name for name in manifest.files if name not in published)
    for name in added:
        _check_staged(staged / name, name, manifest.files[name])
    try:
        for name in added:
            _move(staged / name, root / name)
    except OSError as error:
        raise storage_error_from(error, root) from error
    write_atomically(root / MANIFEST_NAME, data)


def _check_only_adds(old: Mapping[str, FileRecord], new: Mapping[str, FileRecord]) -> None:
    """A reader may hold the old manifest: what it lists must never change under it."""
    for name, record in old.items():
        if new.get(name) != record:
            raise ExportError(
                f"{name} is published and cannot be changed or left out",
                got=new.get(name),
                expected=str(record),
                fix="choose another --output",
            )


def _check_staged(path: Path, name: str, record: FileRecord) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != record.bytes:
        raise ExportError(
            f"{name} is not staged as the new manifest lists it",
            got="no file" if size is None else f"{size} bytes",
            expected=f"{record.bytes} bytes",
            fix="this is a mistake of the program that writes the bundle",
        )


def _move(source: Path, target: Path) -> None:
    """Give `source` the name `target`; across disks, by a copy that is whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as stream:
            write_atomically(target, lambda to: _copy(stream, to))
        source.unlink()
    _sync_directory(target.parent)


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)


def _taken(final: Path) -> ExportError:
    return ExportError(
        f"{final} exists already",
        expected="a new place, or an empty folder",
        fix="choose another --output",
    )


def _sync_directory(path: Path) -> None:
    """A rename is durable once its folder is synced, on systems and disks that can do that."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC_ERRNOS:
            raise
