"""Memory of the process that asks, as Linux counts it."""

from __future__ import annotations

from pathlib import Path


def peak_memory_bytes() -> int:
    """Peak resident memory of this process; getrusage would count its parent's before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
