"""Size and SHA-256 of files, and the comparison with what a manifest lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO

from fam_runtime.bundle.manifest_parts import FileRecord
from fam_runtime.bundle.paths import confined_path, open_confined, unreadable
from fam_runtime.errors import BundleDamaged

CHUNK_BYTES = 1 << 20

HashProgress = Callable[[int], object]
"""Told how many further bytes have been hashed; what it raises ends the work."""

_FIX = "get the bundle again or export it again with fam-export"


def file_record(path: str | os.PathLike[str]) -> FileRecord:
    """Size and SHA-256 of the file at `path`, for a writer of bundles."""
    with open(path, "rb") as stream:
        return _hashed(stream, None)


def verify_file(
    root: str | os.PathLike[str],
    name: str,
    expected: FileRecord,
    *,
    contents: bool = True,
    progress: HashProgress | None = None,
) -> os.stat_result:
    """Compare a file of a bundle with its record; `contents=False` compares its size only.

    Returns the status of the very file that was compared, by which a later look can tell that it
    is still the same.

    Raises:
        BundlePathRefused: the file is a link or no plain file.
        BundleDamaged: it is missing, or not the file that the manifest lists.
    """
    if not contents:
        status = os.lstat(confined_path(root, name))
        _compare_size(name, status.st_size, expected)
        return status
    with open_confined(root, name) as stream:
        status = os.fstat(stream.fileno())
        _compare_size(name, status.st_size, expected)
        try:
            found = _hashed(stream, progress)
        except OSError as error:
            raise unreadable(name, error) from error
    _compare(name, found, expected)
    return status


def checked_bytes(
    root: str | os.PathLike[str], name: str, expected: FileRecord, *, max_bytes: int
) -> bytes:
    """The content of the file `name` below `root`: the very bytes that were hashed.

    Raises:
        BundlePathRefused, BundleDamaged: as `verify_file`, and above `max_bytes`.
    """
    if expected.bytes > max_bytes:
        raise BundleDamaged(
            f"{name} of the bundle is too large to be read whole",
            got=f"{expected.bytes} bytes",
            expected=f"at most {max_bytes} bytes",
            fix=_FIX,
        )
    with open_confined(root, name) as stream:
        _compare_size(name, os.fstat(stream.fileno()).st_size, expected)
        try:
            data = stream.read(expected.bytes + 1)
        except OSError as error:
            raise unreadable(name, error) from error
    _compare(name, FileRecord(len(data), hashlib.sha256(data).hexdigest()), expected)
    return data


def _hashed(stream: BinaryIO, progress: HashProgress | None) -> FileRecord:
    digest, count = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        count += len(chunk)
        if progress is not None:
            progress(len(chunk))
    return FileRecord(count, digest.hexdigest())


def _compare(name: str, found: FileRecord, expected: FileRecord) -> None:
    _compare_size(name, found.bytes, expected)
    if found.sha256 != expected.sha256:
        raise BundleDamaged(
            f"{name} of the bundle has another content than manifest.json lists",
            got=f"SHA-256 {found.sha256}",
            expected=f"SHA-256 {expected.sha256}",
            fix=_FIX,
        )


def _compare_size(name: str, size: int, expected: FileRecord) -> None:
    if size != expected.bytes:
        word = "truncated" if size < expected.bytes else "longer than listed"
        raise BundleDamaged(
            f"{name} of the bundle is {word}",
            got=f"{size} bytes",
            expected=f"{expected.bytes} bytes",
            fix=_FIX,
        )
