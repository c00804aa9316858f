"""``fam-export`` as users start it, watched from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fam_bench.process_memory import MemoryPeaks
from fam_runtime.errors import ExportError

CHECK_MODULE = "fam_export.parity"
"""The numeric check of large graphs, in a process of its own."""

LOOK_EVERY_S = 0.05
STANDARD_ERROR = 2


@dataclass(frozen=True)
class ExportCommand:
    """An export to run.

    Attributes:
        model: checkpoint.
        output: of the bundle.
        scale: of the target.
        dtype: of the bundle.
        loras: as ``--lora`` takes them.
        config: of a single file whose architecture was not published.
        quiet: no progress bars.
    """

    model: Path
    output: Path
    scale: str = "2"
    dtype: str = "fp16"
    loras: tuple[str, ...] = ()
    config: Path | None = None
    quiet: bool = False

    @property
    def report(self) -> Path:
        """Where the exporter writes its seconds per stage."""
        return self.output.with_name(f"{self.output.name}.report.json")

    def argv(self) -> list[str]:
        """The command line."""
        arguments = ["--model", str(self.model), "--scale", self.scale, "--dtype", self.dtype]
        arguments += ["--output", str(self.output), "--report", str(self.report)]
        for lora in self.loras:
            arguments += ["--lora", lora]
        if self.config is not None:
            arguments += ["--config", str(self.config)]
        if self.quiet:
            arguments.append("--quiet")
        return [sys.executable, "-m", "fam_export.cli", *arguments]


@dataclass(frozen=True)
class ExportRun:
    """What an export took.

    Attributes:
        seconds: from start to end of its process.
        memory: peaks.
        stages: ``name``, ``seconds`` and whether an earlier run had done it, per stage.
    """

    seconds: float
    memory: MemoryPeaks
    stages: Sequence[Mapping[str, Any]]


def run_export(command: ExportCommand) -> ExportRun:
    """Run an export to its end.

    Raises:
        ExportError: it failed.
    """
    command.report.unlink(missing_ok=True)
    memory, begun = MemoryPeaks(), time.monotonic()
    with _started(command) as process:
        while process.poll() is None:
            memory.look(process.pid, CHECK_MODULE)
            time.sleep(LOOK_EVERY_S)
        seconds = time.monotonic() - begun
    if process.returncode != 0:
        raise ExportError(
            f"the export to {command.output} failed",
            got=f"exit status {process.returncode}",
            expected="a bundle",
            fix="read what it said above",
        )
    report = json.loads(command.report.read_text(encoding="utf-8"))
    # What the process says of itself, if it does, cannot be too early.
    memory.resident = max(memory.resident, int(report.get("peak_memory_bytes") or 0))
    return ExportRun(seconds, memory, report["stages"])


def kill_export(command: ExportCommand, after_s: float) -> bool:
    """Start an export and kill it, with its children, after some seconds.

    Returns:
        Whether it was killed; False: it had ended by then.

    Raises:
        ExportError: it failed before it could be killed.
    """
    with _started(command) as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            return True  # leaving the block kills it
    if process.returncode != 0:
        raise ExportError(
            f"an export to {command.output}, which continued a killed one, failed",
            got=f"exit status {process.returncode}",
            expected="a bundle",
            fix="this is a defect of the exporter; please report it",
        )
    return False


@contextmanager
def _started(command: ExportCommand) -> Iterator[subprocess.Popen[bytes]]:
    """The export in a process group of its own, which is gone when the block is left.

    A terminal's Ctrl-C does not reach it there; leaving the block by that exception kills it.
    """
    process = subprocess.Popen(command.argv(), stdout=STANDARD_ERROR, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            # Not reaped yet, so the number is still this group's.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
