"""The process of one unit: told what to do by lines of JSON, answers each with one.

Either ``prepare`` (build engines, in a process that then ends), or ``load``, ``first`` (the first
run, and one whose results are kept for comparison) and ``run`` (timed). A failure is an answer,
too: why, and whether for want of memory.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from fam_bench.latency.units import WorkerJob
from fam_bench.latency.work import Work, open_work
from fam_bench.process_memory import peak_memory_bytes
from fam_runtime.errors import FamError, OutOfMemory

_NO_MEMORY = re.compile(
    r"out.?of.?memory|insufficient memory|bad_alloc|alloc_failed|failed to allocate"
    r"|could not be allocated",
    re.I,
)
"""How libraries say it; the runtime has a type for it."""

_MAX_REASON = 600


@dataclass
class Worker:
    """What was loaded, between two commands."""

    job: WorkerJob
    work: Work | None = None

    def prepare(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Leave in the cache what the unit needs, by running it once: seconds of building."""
        self.work = open_work(replace(self.job, steps=1))
        self.work.run(1)
        return {"build_seconds": self._built()}

    def load(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Load the unit: seconds."""
        begun = time.perf_counter()
        self.work = open_work(self.job)
        return {"seconds": time.perf_counter() - begun}

    def first(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """The first run, and a further one whose results are written.

        Its `build_seconds` are those of engines that :meth:`prepare` should have left.
        """
        begun = time.perf_counter()
        self._loaded.run(1)
        seconds = time.perf_counter() - begun
        results: dict[str, Any] = dict(self._loaded.results())
        np.savez(self.job.results, allow_pickle=False, **results)
        return {
            "seconds": seconds,
            "build_seconds": self._built(),
            "stages": dict(self._loaded.stages),
        }

    def run(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Seconds of so many runs in a row: of each, or of one on average."""
        self._loaded.run(int(command["repeats"]))
        return {
            "seconds": self._loaded.seconds,
            "device_seconds": self._loaded.device_seconds,
            "stages": dict(self._loaded.stages),
        }

    def peak_host_bytes(self) -> int:
        """Peak memory of whoever computes."""
        return peak_memory_bytes() if self.work is None else self.work.peak_host_bytes()

    def close(self) -> None:
        """Free the unit."""
        if self.work is not None:
            self.work.close()

    @property
    def _loaded(self) -> Work:
        if self.work is None:
            raise RuntimeError("nothing is loaded")
        return self.work

    def _built(self) -> float:
        return self._loaded.clock.built_seconds


def answer_to(worker: Worker, command: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is asked; an error becomes part of the answer."""
    try:
        answer: dict[str, Any] = getattr(worker, command["do"])(command)
    except Exception as error:  # libraries raise anything; the others go on
        answer = failure(error)
    return answer | {"peak_host_bytes": worker.peak_host_bytes()}


def failure(error: BaseException) -> dict[str, Any]:
    """Why, in a line, and whether for want of memory."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        text = f"the package {error.name} is missing"
    elif not isinstance(error, FamError):
        text = f"{type(error).__name__}: {text}"
    memory = isinstance(error, MemoryError | OutOfMemory) or _NO_MEMORY.search(text) is not None
    return {"error": text[:_MAX_REASON], "out_of_memory": memory}


def serve(worker: Worker, commands: IO[str], answers: IO[str]) -> None:
    """Answer until there are no more commands."""
    for line in commands:
        print(json.dumps(answer_to(worker, json.loads(line))), file=answers, flush=True)
    worker.close()


def main() -> int:
    """Body of the process; the job as JSON is the argument."""
    # Libraries print to standard output; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Worker(WorkerJob(**json.loads(sys.argv[1]))), sys.stdin, answers)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
