"""The errors a user can meet: one small tree, each printed as `what | got | expected | fix`.

This file imports the standard library only, so that every package can raise from it.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import ClassVar

_MAX_VALUE_CHARACTERS = 200
"""A value is shown in a message up to this length: a message stays one readable line."""

_PERMISSION_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
)


class FamError(Exception):
    """Base of every error of the toolkit.

    Args:
        what: the artefact and what is wrong with it.
        got: the value that was found, left out of the text when None.
        expected: what would have been right.
        fix: what to do about it.
    """

    exit_code: ClassVar[int] = 1
    """Exit status of a command line that stops with this error."""

    def __init__(
        self, what: str, *, got: object | None = None, expected: str = "", fix: str = ""
    ) -> None:
        super().__init__(what)  # args stay (what,): an error crosses a process boundary unchanged
        self.what = what
        self.got = got
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        parts = [self.what]
        if self.got is not None:
            parts.append(f"got {_shortened(repr(self.got))}")
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.fix:
            parts.append(self.fix)
        return " | ".join(_on_one_line(part) for part in parts)


class InvalidRequest(FamError):
    """An argument of the user cannot be used."""

    exit_code = 2


class TargetNotBuilt(InvalidRequest):
    """The bundle has no graph for the size that was asked for."""


class BundleError(FamError):
    """A bundle cannot be used."""

    exit_code = 3


class BundleNotFound(BundleError):
    """There is no bundle at this path."""


class BundleDamaged(BundleError):
    """A file is missing, truncated or altered, or the manifest breaks the format."""


class BundlePathRefused(BundleError):
    """A name in a bundle leaves its root, or leads to something that is not a plain file."""


class BundleVersionUnsupported(BundleError):
    """The bundle was written in a newer format than this package reads."""


class CheckpointError(FamError):
    """A checkpoint is missing, unsafe or of a kind that is not supported."""

    exit_code = 4


class ExportError(FamError):
    """A checkpoint could not be turned into a bundle."""

    exit_code = 5


class ParityError(ExportError):
    """An exported graph does not compute what the PyTorch module computes."""


class StorageError(FamError):
    """The disk is full, or a place may not be written (any tool that writes can meet this)."""

    exit_code = 6


class BackendError(FamError):
    """The library that runs the graphs is missing or failed; `fix` says what to pip install."""

    exit_code = 7


class OutOfMemory(BackendError):
    """Graphs, buffers or what a library takes do not fit in memory."""


class NumericError(FamError):
    """A picture or a tensor holds NaN or infinity."""

    exit_code = 8


class Cancelled(FamError):
    """The user, or a callback of theirs, stopped the work."""

    exit_code = 130


def is_disk_full(error: OSError) -> bool:
    """Whether `error` says that no space, or no more of a user's share of it, is left."""
    return error.errno in _FULL_ERRNOS


def storage_error_from(
    error: OSError, path: str | os.PathLike[str], *, needed_bytes: int | None = None
) -> StorageError:
    """The StorageError that tells a user what `error`, met while writing `path`, means.

    `needed_bytes` is how much still had to be written, if that is known.
    """
    if error.errno in _FULL_ERRNOS:
        expected = "" if needed_bytes is None else f"{needed_bytes} bytes free"
        free = _free_bytes(Path(path))
        return StorageError(
            f"no space left on the disk while writing {os.fspath(path)}",
            got=None if free is None else f"{free} bytes free",
            expected=expected,
            fix="free some space or choose another place; nothing half-written was left behind",
        )
    if error.errno in _PERMISSION_ERRNOS:
        return StorageError(
            f"{os.fspath(path)} cannot be written",
            got=error.strerror,
            expected="a place this user may write to",
            fix="choose another place or change its permissions",
        )
    return StorageError(
        f"writing {os.fspath(path)} failed",
        got=error.strerror or str(error),
        expected="a working disk",
    )


def _free_bytes(path: Path) -> int | None:
    """Free bytes on the disk of `path`, or of its nearest parent that exists."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def _shortened(text: str) -> str:
    if len(text) <= _MAX_VALUE_CHARACTERS:
        return text
    return f"{text[:_MAX_VALUE_CHARACTERS]}... ({len(text)} characters)"


def _on_one_line(text: str) -> str:
    """`text` without line breaks and terminal control characters (values may be hostile)."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
