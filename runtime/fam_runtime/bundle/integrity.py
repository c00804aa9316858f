"""Size and SHA-256 of files, and the comparison with what a manifest lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from fam_runtime.bundle.manifest_parts import FileRecord
from fam_runtime.bundle.paths import confined_path, open_confined
from fam_runtime.errors import BundleDamaged

Progress = Callable[[str, int, int], None]
"""Called as `progress(file name, bytes done, bytes in all)`; what it raises ends the work."""

_CHUNK_BYTES = 4 * 1024 * 1024


def file_record(path: str | os.PathLike[str], *, progress: Progress | None = None) -> FileRecord:
    """The record of the file at `path`, for a writer of bundles.

    `progress` gets the file's name and its bytes.
    """
    name = Path(path).name
    with open(path, "rb") as stream:
        total = os.fstat(stream.fileno()).st_size
        report = None if progress is None else _reporter(progress, name, 0, total)
        return _hashed(stream, report)


def check_size(root: Path, name: str, record: FileRecord) -> None:
    """Compare the size of the file `name` below `root` with `record`.

    Raises:
        BundlePathRefused: if it is no plain file inside `root`.
        BundleDamaged: if it is missing or its size differs.
    """
    size = os.lstat(confined_path(root, name)).st_size
    if size != record.bytes:
        raise _wrong_size(name, size, record)


def check_content(
    root: Path, name: str, record: FileRecord, *, on_bytes: Callable[[int], None] | None = None
) -> os.stat_result:
    """Compare size and SHA-256 of the file `name` below `root` with `record`.

    `on_bytes` is called with the bytes hashed so far. Returns the status of the file that was
    hashed, by which a later look can tell that it is still the same.

    Raises:
        BundlePathRefused, BundleDamaged: as `check_size`, and for another content.
    """
    with open_confined(root, name) as stream:
        status = os.fstat(stream.fileno())
        if status.st_size != record.bytes:
            raise _wrong_size(name, status.st_size, record)
        _compare(name, _hashed(stream, on_bytes), record)
        return status


def checked_bytes(root: Path, name: str, record: FileRecord, *, max_bytes: int) -> bytes:
    """The content of the file `name` below `root`: the very bytes that were hashed.

    Raises:
        BundlePathRefused, BundleDamaged: as `check_content`, and above `max_bytes`.
    """
    with open_confined(root, name) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != record.bytes:
            raise _wrong_size(name, size, record)
        if size > max_bytes:
            raise BundleDamaged(
                f"{name} of the bundle is too large to be read whole",
                got=f"{size} bytes",
                expected=f"at most {max_bytes} bytes",
            )
        data = stream.read(max_bytes + 1)
    _compare(name, FileRecord(len(data), hashlib.sha256(data).hexdigest()), record)
    return data


def check_files(
    root: Path, files: Mapping[str, FileRecord], *, progress: Progress | None = None
) -> dict[str, os.stat_result]:
    """`check_content` for every file; `progress` counts over all of them together."""
    for name, record in files.items():  # sizes first: a truncated copy is told at once
        check_size(root, name, record)
    total, done = sum(record.bytes for record in files.values()), 0
    statuses = {}
    for name, record in files.items():
        report = None if progress is None else _reporter(progress, name, done, total)
        statuses[name] = check_content(root, name, record, on_bytes=report)
        done += record.bytes
    return statuses


def _reporter(progress: Progress, name: str, before: int, total: int) -> Callable[[int], None]:
    return lambda count: progress(name, before + count, total)


def _hashed(stream: BinaryIO, on_bytes: Callable[[int], None] | None) -> FileRecord:
    digest, count = hashlib.sha256(), 0
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    while read := stream.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(view[:read])
        count += read
        if on_bytes is not None:
            on_bytes(count)
    return FileRecord(count, digest.hexdigest())


def _compare(name: str, found: FileRecord, record: FileRecord) -> None:
    if found.bytes != record.bytes:
        raise _wrong_size(name, found.bytes, record)
    if found.sha256 != record.sha256:
        raise BundleDamaged(
            f"{name} of the bundle has another content than manifest.json lists",
            got=f"sha256 {found.sha256}",
            expected=f"sha256 {record.sha256}",
            fix="get the bundle again or export it again with fam-export",
        )


def _wrong_size(name: str, size: int, record: FileRecord) -> BundleDamaged:
    word = "truncated" if size < record.bytes else "longer than listed"
    return BundleDamaged(
        f"{name} of the bundle is {word}",
        got=f"{size} bytes",
        expected=f"{record.bytes} bytes",
        fix="get the bundle again or export it again with fam-export",
    )
