"""Pictures by the C++ runtime: `fam_generate` as a child that keeps everything loaded."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fam_bench.process_memory import memory_fields
from fam_runtime.errors import BackendError, InvalidRequest

PROGRAM = Path(__file__).parents[4] / "build" / "cpp" / "fam_generate"
"""What ``make cpp`` builds."""

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>: the child does not outlive who started it, not even one that is killed."""

SECONDS_TO_CLOSE = 10
_LAST_WORDS = 1000


@dataclass(frozen=True)
class CppPicture:
    """A picture that was made.

    Attributes:
        seconds: from sending the prompt to reading the report, when the file is written.
        stage_seconds: of each stage, as the library measured them; `load` is loading in all.
        path: of the PNG.
    """

    seconds: float
    stage_seconds: Mapping[str, float]
    path: Path

    @property
    def png(self) -> bytes:
        """The file."""
        return self.path.read_bytes()


class CppPictures:
    """The program, seen from the benchmark; as a context manager it ends.

    It opens the bundle while it starts, which nobody waits for: the first picture's seconds are
    those of opening it and of loading graphs, too. It is ended with the thread that starts it.

    Args:
        bundle: of the pictures.
        folder: for the pictures and what the program says.
        prompt, scale, steps, seed: of every picture; `scale` is times the native size.
        threads: of the CPU; None: one per core.
        device: where ONNX Runtime computes, `cpu` or `cuda`.
        program: another one than :data:`PROGRAM`.

    Raises:
        BackendError: there is no program, or it cannot be started.
        InvalidRequest: the prompt is no line.
    """

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        *,
        prompt: str,
        scale: float,
        steps: int,
        seed: int,
        threads: int | None = None,
        device: str = "cpu",
        program: Path | None = None,
    ) -> None:
        self._line, self._folder, self._peak_bytes = _line_of(prompt), folder, 0
        self._log = folder / "fam_generate.log"
        options = ["--scale", str(scale), "--steps", str(steps), "--seed", str(seed), "--report"]
        options += ["--provider", device]
        options += [] if threads is None else ["--threads", str(threads)]
        found = _built_program(program or PROGRAM)
        command = [str(found.absolute()), str(bundle.absolute()), "-", *options]
        libc = ctypes.CDLL(None)  # loaded here, since little may be done between fork and exec
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=folder,
                    encoding="utf-8",
                    preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
                )
        except OSError as error:
            raise BackendError(
                "the C++ program does not start", got=str(error), fix="run make cpp again"
            ) from error

    def __enter__(self) -> CppPictures:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def picture(self) -> CppPicture:
        """Make one.

        Raises:
            BackendError: the program ended; with what it said.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        if stdin.closed:
            self._fail()
        begun = time.perf_counter()
        try:
            stdin.write(self._line)
            stdin.flush()
        except OSError:
            self._fail()
        name, report = stdout.readline(), stdout.readline()
        seconds = time.perf_counter() - begun
        if not report.endswith("\n"):
            self._fail()
        path = self._folder / name.rpartition(" (seed ")[0]
        return CppPicture(seconds, json.loads(report)["seconds"], path)

    def peak_host_bytes(self) -> int:
        """Peak resident memory of the program; after its end, what was last seen."""
        now = memory_fields(self._process.pid).get("VmHWM", 0) if self._is_running() else 0
        self._peak_bytes = max(self._peak_bytes, now)
        return self._peak_bytes

    def close(self) -> None:
        """End the program: at once if it is at work."""
        self.peak_host_bytes()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(OSError):  # it may have ended before it read all
            stdin.close()  # the end of its input is what it waits for
        try:
            self._process.wait(SECONDS_TO_CLOSE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        stdout.close()

    def _is_running(self) -> bool:
        return self._process.poll() is None

    def _fail(self) -> NoReturn:
        self.close()
        said = self._log.read_text("utf-8", "replace").strip()[-_LAST_WORDS:]
        status = f"status {self._process.returncode}"
        raise BackendError(f"the C++ program ended with {status}: {said or 'it said nothing'}")


def _built_program(path: Path) -> Path:
    if path.is_file():
        return path
    raise BackendError(
        "the C++ program is not built", got=str(path), expected="fam_generate", fix="run make cpp"
    )


def _line_of(prompt: str) -> str:
    """The prompt as the program reads it; it skips blank lines, and we would wait for ever."""
    if not prompt.strip() or "\n" in prompt or "\r" in prompt:
        raise InvalidRequest(
            "the prompt is no line", got=prompt, expected="one line of text", fix="join its lines"
        )
    return f"{prompt}\n"
