"""Writing bundles so that nobody ever sees a half-written one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from fam_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from fam_runtime.errors import ExportError, storage_error_from

TEMPORARY_SUFFIX = ".partial"

Writer = Callable[[BinaryIO], None]


def write_atomically(path: str | os.PathLike[str], content: bytes | Writer) -> None:
    """Write a file under a temporary name, sync it and rename it to `path`.

    Args:
        path: the file; its folder must exist.
        content: the bytes, or a function that writes them to a stream.

    Raises:
        StorageError: the disk is full or the place may not be written; nothing is left behind.
    """
    final = Path(path)
    temporary = final.with_name(final.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                content(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(final)
        _sync_directory(final.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        needed = len(content) if isinstance(content, bytes) else None
        raise storage_error_from(error, final, needed_bytes=needed) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish_directory(staged: Path, final: Path) -> None:
    """Give a complete staged bundle its final name, in one step.

    Raises:
        ExportError: something is there already.
        StorageError: the place may not be written.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.is_dir() and not any(final.iterdir()):
            final.rmdir()
        if os.path.lexists(final):
            raise ExportError(
                f"{final} exists already",
                expected="a new place, or an empty folder",
                fix="choose another --output",
            )
        staged.rename(final)
        _sync_directory(final.parent)
    except OSError as error:
        raise storage_error_from(error, final) from error


def add_files(root: Path, staged: Path, manifest: Manifest) -> None:
    """Move staged files into the bundle at `root`, then replace its manifest.

    Until the manifest is there a reader ignores the files; after a kill in between, the next
    export replaces them.

    Raises:
        StorageError: the bundle may not be written, or the disk is full.
    """
    data = manifest.to_bytes()
    try:
        for source in sorted(path for path in staged.rglob("*") if path.is_file()):
            name = source.relative_to(staged).as_posix()
            if name not in manifest.files:
                continue
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)
            _sync_directory(target.parent)
    except OSError as error:
        raise storage_error_from(error, root) from error
    write_atomically(root / MANIFEST_NAME, data)


def _sync_directory(path: Path) -> None:
    """A rename is durable once its folder is; Windows cannot open folders and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
