"""Whether the machine has something else to do, while all contestants wait."""

from __future__ import annotations

import time
from pathlib import Path

LOOK_SECONDS = 0.5
BUSY_SHARE = 0.1
"""From here on times say more about the others: a contestant with a thread per core waits for the
one that shares its core."""

_IDLE = slice(3, 5)
"""Idle and waiting for a disk, of the fields of /proc/stat."""


def busy_share(seconds: float = LOOK_SECONDS) -> float:
    """Share of all processors that was taken during the next `seconds`, by neighbours too."""
    before = _ticks()
    time.sleep(seconds)
    passed = [after - earlier for after, earlier in zip(_ticks(), before, strict=True)]
    total = sum(passed)
    return 1 - sum(passed[_IDLE]) / total if total else 0.0


def _ticks() -> list[int]:
    """Of all processors, by what they did: user, nice, system, idle, iowait, irq, softirq, steal.

    What guests took, the last two fields, is in the first two already.
    """
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    return [int(field) for field in first.split()[1:9]]
