"""Sizes and SHA-256 of files: what the manifest says of them, and what they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO

from fam_runtime.bundle.manifest_parts import FileRecord
from fam_runtime.bundle.paths import open_confined
from fam_runtime.errors import BundleDamaged

CHUNK_BYTES = 1 << 20

HashProgress = Callable[[int], None]
"""Told how many further bytes have been hashed."""


def file_record(path: str | os.PathLike[str]) -> FileRecord:
    """Size and SHA-256 of the file at `path`."""
    with open(path, "rb") as stream:
        return _record(stream, None)


def verify_file(
    root: str | os.PathLike[str],
    name: str,
    expected: FileRecord,
    *,
    contents: bool = True,
    progress: HashProgress | None = None,
) -> None:
    """Compare a file of a bundle with its record; `contents=False` compares its size only.

    Raises:
        BundlePathRefused: the file is a link or no plain file.
        BundleDamaged: it is missing, or not the file that the manifest lists.
    """
    with open_confined(root, name) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != expected.bytes:
            raise _damaged(name, f"{size} bytes", f"{expected.bytes} bytes")
        if contents:
            got = _record(stream, progress)
            if got.sha256 != expected.sha256:
                raise _damaged(name, f"SHA-256 {got.sha256}", expected.sha256)


def _record(stream: BinaryIO, progress: HashProgress | None) -> FileRecord:
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
        if progress is not None:
            progress(len(chunk))
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def _damaged(name: str, got: str, expected: str) -> BundleDamaged:
    return BundleDamaged(
        f"{name} of the bundle is not the file that was exported",
        got=got,
        expected=expected,
        fix="get the bundle again or export it again with fam-export",
    )
