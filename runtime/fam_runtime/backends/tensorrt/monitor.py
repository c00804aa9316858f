"""The builder's progress, and the way to stop it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.errors import Cancelled

OnProgress = Callable[[str, float | None], None]
"""Told the phase, and the share of the build that is done (None: the builder does not say)."""


class BuildProgress:
    """Phases and their steps, nested, as one share between 0 and 1.

    TensorRT calls from several threads, in any order; a phase without a known parent counts as
    the outermost one.

    Args:
        on_progress: told after every change.
    """

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[int, int]] = {}  # name: steps done, steps
        self._largest = 0.0

    def start(self, phase: str, steps: int) -> None:
        """A phase of `steps` steps begins."""
        with self._lock:
            self._phases[phase] = (0, max(steps, 1))
        self._tell(phase)

    def step(self, phase: str, step: int) -> None:
        """Step `step` (from 0) of a phase is done."""
        with self._lock:
            _, steps = self._phases.get(phase, (0, 1))
            self._phases[phase] = (min(step + 1, steps), steps)
        self._tell(phase)

    def finish(self, phase: str) -> None:
        """A phase has ended."""
        with self._lock:
            self._phases.pop(phase, None)

    @property
    def share(self) -> float:
        """What is done, 0 to 1; it never falls."""
        with self._lock:
            share, weight = 0.0, 1.0
            for done, steps in self._phases.values():  # outermost first
                share += weight * done / steps
                weight /= steps
            self._largest = max(self._largest, min(share, 1.0))
            return self._largest

    def _tell(self, phase: str) -> None:
        if self._on_progress is not None:
            share = self.share
            self._on_progress(phase, share or None)


class StopRequest:
    """Why a build should stop: Ctrl-C, or an exception where it must not be raised.

    What calls back from C++ may raise nothing, so it is kept here and raised afterwards.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.error: BaseException | None = None

    def __bool__(self) -> bool:
        return self.interrupted or self.error is not None

    def raise_if_any(self, what: str) -> None:
        """Raise what was kept.

        Raises:
            Cancelled: Ctrl-C was pressed while `what`, "building …", was going on.
        """
        if self.error is not None:
            raise self.error
        if self.interrupted:
            raise Cancelled(f"{what} was stopped")


def progress_monitor(library: TensorrtLibrary, progress: BuildProgress, stop: StopRequest) -> Any:
    """The library's own monitor object; at its next call after a request, the build stops."""
    base: Any = library.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]  # a class of the imported library
        """Passes on what the builder says."""

        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._keep_error(lambda: progress.start(name, steps))

        def phase_finish(self, name: str) -> None:
            self._keep_error(lambda: progress.finish(name))

        def step_complete(self, name: str, step: int) -> bool:
            self._keep_error(lambda: progress.step(name, step))
            return not stop

        def _keep_error(self, tell: Callable[[], None]) -> None:
            try:
                tell()
            except BaseException as error:
                stop.error = stop.error or error

    return Monitor()


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Turn Ctrl-C into a request, for the length of a block that calls back from C++.

    There, as an exception, it would get lost. Where Ctrl-C does something else than raise (it is
    ignored, or handled outside Python), and outside the main thread, nothing changes.
    """
    request = StopRequest()
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield request
        return

    def handle(number: int, frame: object) -> None:
        request.interrupted = True

    signal.signal(signal.SIGINT, handle)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, previous)
