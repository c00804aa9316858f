"""How much memory is free, as the system says and as the process's container allows."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_LIMIT_V1 = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2^63."""


def free_memory_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say.

    That is MemAvailable, which counts the files that the kernel caches as free, or less where a
    cgroup limits the process.

    Args:
        root: where /proc and /sys are.
    """
    available = _available(root / "proc/meminfo")
    if available is None:
        available = _unused_pages()
    rooms = [available, *_cgroup_rooms(root)]
    known = [max(room, 0) for room in rooms if room is not None]
    return min(known, default=None)


def _available(meminfo: Path) -> int | None:
    for line in _text(meminfo).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[:1] and value.split()[0].isdecimal():
            return int(value.split()[0]) * 1024
    return None


def _unused_pages() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _cgroup_rooms(root: Path) -> list[int | None]:
    """What each cgroup above the process still has, version 2 and 1."""
    rooms = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        rooms += [_room(mount / folder, *names) for folder in (inside, *inside.parents)]
    return rooms


def _room(folder: Path, limit_name: str, used_name: str) -> int | None:
    limit, used = _text(folder / limit_name).strip(), _text(folder / used_name).strip()
    if not (limit.isdecimal() and used.isdecimal()) or int(limit) > _LIMIT_V1:
        return None
    return int(limit) - int(used) + _cached_bytes(folder)


def _cached_bytes(folder: Path) -> int:
    """Files that the kernel holds for the group, such as a bundle just hashed, and can drop."""
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdecimal():
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""
