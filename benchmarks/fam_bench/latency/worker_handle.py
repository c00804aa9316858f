"""A worker seen from the benchmark: started, asked, and ended whatever it does."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fam_bench.latency.units import WorkerJob

SECONDS_TO_CLOSE = 60
_LAST_WORDS = 300
KILLED = -9


class WorkerFailed(Exception):
    """A unit cannot be measured.

    Args:
        reason: in a line.
        out_of_memory: it might with less beside it.
    """

    def __init__(self, reason: str, *, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.out_of_memory = reason, out_of_memory


class WorkerHandle:
    """One worker process.

    Args:
        job: what it is for.
        log: file for what its libraries print.
        timeout_s: how long an answer may take.
    """

    def __init__(self, job: WorkerJob, log: Path, timeout_s: float) -> None:
        self.peak_host_bytes = 0
        self._log, self._timeout_s = log, timeout_s
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fam_bench.latency.worker", json.dumps(asdict(job))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, what: str, **arguments: int) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            WorkerFailed: it failed, ended, or did not answer in time; it is no more.
        """
        try:
            if self._process.stdin is not None:
                print(json.dumps({"do": what, **arguments}), file=self._process.stdin, flush=True)
            line = self._answers.get(timeout=self._timeout_s)
        except BrokenPipeError:
            line = ""
        except queue.Empty:
            self.kill()
            raise WorkerFailed(f"no answer to {what!r} in {self._timeout_s:.0f} s") from None
        if not line:
            raise self._died(what)
        answer: dict[str, Any] = json.loads(line)
        self.peak_host_bytes = max(self.peak_host_bytes, int(answer["peak_host_bytes"]))
        if "error" in answer:
            self.kill()
            raise WorkerFailed(answer["error"], out_of_memory=answer["out_of_memory"])
        return answer

    def close(self) -> None:
        """Let it free what it holds, and wait until it has gone."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(SECONDS_TO_CLOSE)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._answers.put(line)
        self._answers.put("")

    def _died(self, what: str) -> WorkerFailed:
        status = self._process.wait()
        words = self._log.read_text(encoding="utf-8", errors="replace").split()
        said = " ".join(words)[-_LAST_WORDS:]
        reason = f"its process ended in {what!r} with status {status}"
        return WorkerFailed(f"{reason}: {said}" if said else reason, out_of_memory=status == KILLED)
