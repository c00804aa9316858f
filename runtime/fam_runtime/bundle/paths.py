"""Names of files in a bundle, and the way from a name to a file that cannot leave the bundle."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from fam_runtime.errors import BundleDamaged, BundlePathRefused

MAX_NAME_CHARACTERS = 512
"""Longer names cannot be opened on every system."""

MAX_COMPONENT_BYTES = 255
"""Longer components (in UTF-8) cannot be created on the common file systems."""

_FORBIDDEN_CHARACTERS = frozenset("\\:")
_REPARSE_POINT = 0x400  # Windows: junctions and other links that S_ISLNK does not show
_CAN_OPEN_AT = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


def check_name(name: str) -> str:
    """`name`, if it is a relative path that stays in the bundle (bundle_format.md, Paths).

    Raises:
        BundlePathRefused: if it is not.
    """
    reason = _objection(name)
    if reason:
        raise BundlePathRefused(
            f"the bundle names a file in a way that is not allowed: {reason}",
            got=name,
            expected="a relative path with '/' that stays inside the bundle",
            fix="do not use this bundle",
        )
    return name


def _objection(name: str) -> str:
    """Why `name` is refused, or an empty text."""
    if not name or len(name) > MAX_NAME_CHARACTERS:
        return f"it is empty or longer than {MAX_NAME_CHARACTERS} characters"
    if name.startswith("/"):
        return "it is absolute"
    if not name.isprintable() or _FORBIDDEN_CHARACTERS & set(name):
        return "it holds a backslash, a colon or a control character"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"it has the component {part!r}"
        if len(part.encode()) > MAX_COMPONENT_BYTES:
            return f"a component is longer than {MAX_COMPONENT_BYTES} bytes"
        if part[-1] in ". ":
            return "a component ends with a dot or a space"
    return ""


def confined_path(root: str | os.PathLike[str], name: str) -> Path:
    """The path of the plain file `name` below `root`.

    `root` itself may be reached through links: the user chose it. Below it every component is
    looked at without following links.

    Raises:
        BundlePathRefused: for a name or a file that bundle_format.md forbids.
        BundleDamaged: when there is no such file.
    """
    parts = check_name(name).split("/")
    path = Path(root)
    for i, part in enumerate(parts):
        path = path / part
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise _missing(name) from None
        except OSError as error:
            raise unreadable(name, error) from error
        _check_component(status, "/".join(parts[: i + 1]), last=i == len(parts) - 1)
    return path


def open_confined(root: str | os.PathLike[str], name: str) -> BinaryIO:
    """The plain file `name` below `root`, open for reading, checked on the open descriptor.

    Between the check of a path and its use somebody could swap a component; where the system
    can open relative to a directory without following links, that is what is done.

    Raises:
        BundlePathRefused, BundleDamaged: as `confined_path`.
    """
    path = confined_path(root, name)
    if not _CAN_OPEN_AT:
        return _open_and_compare(path, name)
    parts = name.split("/")
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unreadable(name, error) from error
    try:
        for part in parts[:-1]:
            below = _open_at(part, os.O_DIRECTORY, directory, name)
            os.close(directory)
            directory = below
        descriptor = _open_at(parts[-1], os.O_NONBLOCK, directory, name)
    finally:
        os.close(directory)
    return _checked_stream(descriptor, name)


def _open_at(part: str, flags: int, directory: int, name: str) -> int:
    try:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=directory)
    except FileNotFoundError:
        raise _missing(name) from None
    except PermissionError as error:
        raise unreadable(name, error) from error
    except OSError as error:
        raise _refused(name, "changed while it was opened", str(error.strerror)) from None


def _open_and_compare(path: Path, name: str) -> BinaryIO:
    before = os.lstat(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise unreadable(name, error) from error
    if not os.path.samestat(before, os.fstat(descriptor)):
        os.close(descriptor)
        raise _refused(name, "changed while it was opened", "another file")
    return _checked_stream(descriptor, name)


def _checked_stream(descriptor: int, name: str) -> BinaryIO:
    try:
        _check_component(os.fstat(descriptor), name, last=True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_component(status: os.stat_result, name: str, *, last: bool) -> None:
    """Refuse links, and anything but directories on the way to one plain file."""
    if stat.S_ISLNK(status.st_mode) or getattr(status, "st_file_attributes", 0) & _REPARSE_POINT:
        raise _refused(name, "is a link", "a symbolic link")
    if not last:
        if not stat.S_ISDIR(status.st_mode):
            raise _refused(name, "is on the way to a file", "no directory")
        return
    if not stat.S_ISREG(status.st_mode):
        raise _refused(name, "is not a plain file", _KINDS.get(stat.S_IFMT(status.st_mode), "?"))
    if status.st_nlink > 1:
        raise _refused(name, "has further names (hard links)", f"{status.st_nlink} names")


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def unreadable(name: str, error: OSError) -> BundleDamaged:
    """The error for a file of a bundle that is there but cannot be read."""
    return BundleDamaged(
        f"{name} of the bundle cannot be read",
        got=error.strerror or str(error),
        expected="a file that this user may read, on a working disk",
        fix="change the permissions of the bundle's files, or get the bundle again",
    )


def _missing(name: str) -> BundleDamaged:
    return BundleDamaged(
        f"{name} is missing from the bundle",
        expected="every file that manifest.json lists",
        fix="get the bundle again or export it again with fam-export",
    )


def _refused(name: str, what: str, got: str) -> BundlePathRefused:
    return BundlePathRefused(
        f"{name} of the bundle {what}",
        got=got,
        expected="a plain file with one name, in plain directories",
        fix="copy the bundle so that its files are real copies (cp -rL), if you trust its source",
    )
