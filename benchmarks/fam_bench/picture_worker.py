"""The runtime in a process of its own: makes a picture for every line it is sent.

``PYTHON -m fam_bench.picture_worker BUNDLE`` runs with another Python than the benchmark's, such as
the one of a server's environment. It needs the runtime only. Each answer is a line of JSON; the
first says what the process computes with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fam_bench.machine import describe_machine
from fam_bench.tritonserver import Process


class PictureWorker:
    """The process, seen from the benchmark; as a context manager it ends.

    Args:
        python: that runs it.
        bundle: of the pictures.
        log: file for what its libraries print.
    """

    def __init__(self, python: Path, bundle: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [python, "-m", "fam_bench.picture_worker", str(bundle)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        self.description: dict[str, Any] = self._answer()

    def __enter__(self) -> PictureWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()  # the end of its input is what it waits for

    def cpu_seconds(self) -> float:
        """What the process has taken of the processors."""
        process = Process.of(self._process.pid)
        return 0.0 if process is None else process.cpu_seconds()

    def seconds_of_picture(self, request: Mapping[str, Any]) -> float:
        """Make one picture with these arguments of the pipeline."""
        assert self._process.stdin is not None
        print(json.dumps(dict(request)), file=self._process.stdin, flush=True)
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._log.read_text("utf-8", "replace")
            raise RuntimeError(f"the process of the pictures ended:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(bundle: str, requests: IO[str], answers: IO[str]) -> None:
    """Answer until there are no more requests."""
    from fam_runtime import FamPipeline

    with FamPipeline.from_pretrained(bundle, progress=False) as pipe:
        print(json.dumps(describe_machine()), file=answers, flush=True)
        for line in requests:
            request = json.loads(line)
            begun = time.perf_counter()
            pipe(**request)
            seconds = time.perf_counter() - begun
            print(json.dumps({"seconds": seconds}), file=answers, flush=True)


def main() -> int:
    """Body of the process; the bundle is the argument."""
    # Libraries print to standard output; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, answers)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
