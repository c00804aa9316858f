"""Memory of processes, as Linux counts it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FIELDS = ("VmHWM", "RssAnon", "RssFile")


def peak_memory_bytes() -> int:
    """Peak resident memory of this process; getrusage would count its parent's before exec."""
    return memory_fields("self")["VmHWM"]


def memory_fields(process: int | str) -> dict[str, int]:
    """:data:`FIELDS` of a process in bytes; empty for one that has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    values = (line.split() for line in status.splitlines())
    return {v[0].rstrip(":"): int(v[1]) * 1024 for v in values if v and v[0].rstrip(":") in FIELDS}


def children_running(process: int, module: str) -> Iterator[int]:
    """Children of `process` that were started as ``python -m module``, or with one of its parts."""
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = file.read_text(encoding="ascii").split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            try:
                command = Path(f"/proc/{child}/cmdline").read_text("utf-8").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            # A child that is not yet a program of its own bears its parent's command.
            if any(f"{word}.".startswith(f"{module}.") for word in command):
                yield int(child)


@dataclass
class MemoryPeaks:
    """Largest figures seen, in bytes.

    Attributes:
        resident: of the process; the kernel's own record, so nothing is missed between two looks.
        anonymous, file_backed: what it allocated, and what it mapped from files; each at its own
            moment, as often as was looked.
        check: resident, of its largest child that compares numbers.
    """

    resident: int = 0
    anonymous: int = 0
    file_backed: int = 0
    check: int = 0

    def look(self, process: int, check_module: str | None = None) -> dict[str, int]:
        """Take the figures of now into account, and return those of the process.

        Args:
            process: its number.
            check_module: of its children that compare numbers; None: it has none.
        """
        now = memory_fields(process)
        self.resident = max(self.resident, now.get("VmHWM", 0))
        self.anonymous = max(self.anonymous, now.get("RssAnon", 0))
        self.file_backed = max(self.file_backed, now.get("RssFile", 0))
        if check_module is not None:
            for child in children_running(process, check_module):
                self.check = max(self.check, memory_fields(child).get("VmHWM", 0))
        return now
