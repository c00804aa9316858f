"""Processes of this machine: which belong to a server, and whether they have ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by the time it started."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The one that has this number now; None if there is none, or it has ended."""
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    def arguments(self) -> list[str]:
        """Its command line; empty when it has ended."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_text("utf-8", "replace").split("\0")[:-1]
        return []

    def cpu_seconds(self) -> float:
        """What it has taken of the processors; 0 when it has ended."""
        fields = _stat(self.pid) if self.is_alive() else None
        return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def kill(self) -> None:
        """SIGKILL, if it is still the same process."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third, the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def children_of(pid: int) -> list[Process]:
    """The processes that it started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        process = Process.of(int(entry.name)) if fields and int(fields[1]) == pid else None
        if process is not None:
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def wait_until(is_true: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it became true in that time."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
