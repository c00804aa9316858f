"""What a worker does: the interface of all kinds of work."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from fam_bench.engine_build import BuildClock
from fam_bench.process_memory import peak_memory_bytes

Arrays = Mapping[str, NDArray[Any]]


class Work(ABC):
    """A unit that is loaded; making one loads it.

    Attributes:
        clock: knows how long engines were built.
        seconds: of every run of the last :meth:`run`; the mean of a row where a device does it
            in one piece.
        stages: seconds per stage of the last run; empty for what is no picture.
        device_seconds: of a run in the last row, on average, as the GPU measured it; None where
            nothing did.
    """

    def __init__(self) -> None:
        self.clock = BuildClock()
        self.seconds: list[float] = []
        self.stages: dict[str, float] = {}
        self.device_seconds: float | None = None

    def run(self, repeats: int) -> None:
        """Do it so many times in a row, until the last result is on the host; note the time."""
        self.seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            self.once()
            self.seconds.append(time.perf_counter() - begun)

    def once(self) -> None:
        """What is timed; the result ends on the host."""
        self.results()

    @abstractmethod
    def results(self) -> Arrays:
        """Do it once, and give what is compared."""

    @contextmanager
    def timed_stage(self, name: str) -> Iterator[None]:
        """Note in :attr:`stages` how long the block takes until :meth:`wait` is over."""
        begun = time.perf_counter()
        yield
        self.wait()
        self.stages[name] = time.perf_counter() - begun

    def wait(self) -> None:
        """Until a device has done what it was told; there is none."""
        return

    def peak_host_bytes(self) -> int:
        """Peak memory of the process that computes: this one."""
        return peak_memory_bytes()

    def close(self) -> None:
        """Free what is loaded, and keep what saves time the next time."""
        return
