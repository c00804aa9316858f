"""One engine of a bundle, built in a process of its own and watched from outside.

``python -m fam_bench.engine_build JOB`` is that process; :func:`build_apart` starts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fam_bench.process_memory import MemoryPeaks, peak_memory_bytes
from fam_runtime.errors import FamError

LibraryName = Literal["tensorrt", "tensorrt-rtx"]
LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class EngineJob:
    """An engine to build.

    Attributes:
        bundle: folder of the bundle.
        graph: name of the graph's file in it.
        ranges: smallest, best and largest size of every symbol of the graph.
        library: who builds.
        architecture, gpu_name: for which GPU; see
            :class:`~fam_runtime.backends.tensorrt.architecture.Gpu`.
        cache: folder of the engine cache.
        strip_weights: leave the weights out of the plan.
        check_resources: refuse to begin where memory or disk seem too small.
    """

    bundle: str
    graph: str
    ranges: Mapping[str, tuple[int, int, int]]
    library: LibraryName
    architecture: str
    gpu_name: str
    cache: str
    strip_weights: bool = False
    check_resources: bool = True


@dataclass(frozen=True)
class EngineTimes:
    """What the building process says of itself.

    Attributes:
        parse_seconds: the graph, with its weights.
        build_seconds: the network.
        write_seconds: the plan to the disk, with its SHA-256.
        total_seconds: until the plan was read back and verified.
        plan_bytes: its size.
        reused: it came from the cache; then only the total says something.
    """

    parse_seconds: float
    build_seconds: float
    write_seconds: float
    total_seconds: float
    plan_bytes: int
    reused: bool


@dataclass(frozen=True)
class EngineRun:
    """What became of a job.

    Attributes:
        job: what was to be built.
        times: None if it failed.
        error: why it failed, one line; empty if it did not.
        loaded_bytes: resident memory of the process once the library and the bundle's manifest
            were there, before the graph was parsed.
        memory: peaks of the process.
        peak_parts: anonymous and mapped bytes at the moment when most was seen resident.
    """

    job: EngineJob
    times: EngineTimes | None
    error: str
    loaded_bytes: int
    memory: MemoryPeaks
    peak_parts: tuple[int, int]


class BuildClock:
    """An :class:`~fam_runtime.backends.tensorrt.progress.EngineProgress` that reads the clock.

    Attributes:
        parse_seconds: from the beginning to the builder's first word.
        built_seconds: from the beginning to the end, over all engines.
        reused_engines, built_engines: how many.
    """

    def __init__(self) -> None:
        self.parse_seconds = self.built_seconds = 0.0
        self.reused_engines = self.built_engines = 0
        self._begun, self._parsing = 0.0, False

    def begin(self, title: str, reason: str, expected_seconds: float) -> None:
        """Parsing begins."""
        self._begun, self._parsing = time.perf_counter(), True

    def update(self, phase: str, share: float | None) -> None:
        """The first of these ends the parsing."""
        if self._parsing:
            self._parsing = False
            self.parse_seconds += time.perf_counter() - self._begun

    def end(self, *, built: bool) -> None:
        """Built and written, or failed."""
        self.built_engines += 1
        self.built_seconds += time.perf_counter() - self._begun

    def reused(self, title: str) -> None:
        """Counted."""
        self.reused_engines += 1

    def waiting(self, title: str) -> None:
        """Nobody else builds here."""


def build_here(job: EngineJob) -> EngineTimes:
    """Build, or take from the cache, in this process.

    Raises:
        FamError: it cannot be built or kept.
    """
    from fam_runtime.backends.tensorrt.architecture import Gpu
    from fam_runtime.backends.tensorrt.cache import EngineCache
    from fam_runtime.backends.tensorrt.engines import Engines, WantedEngine
    from fam_runtime.backends.tensorrt.library import import_library
    from fam_runtime.backends.tensorrt.settings import BuildSettings
    from fam_runtime.backends.tensorrt.shapes import SymbolRange
    from fam_runtime.bundle import Bundle

    bundle, clock = Bundle.open(job.bundle, verify="size"), BuildClock()
    engines = Engines(
        import_library(job.library),
        Gpu(job.architecture, job.gpu_name),
        BuildSettings(strip_weights=job.strip_weights),
        EngineCache(Path(job.cache)),
        clock,
        job.check_resources,
    )
    ranges = {symbol: SymbolRange(*sizes) for symbol, sizes in job.ranges.items()}
    print(json.dumps({"loaded_bytes": peak_memory_bytes()}), flush=True)
    begun = time.perf_counter()
    plan = engines.plan(bundle, WantedEngine(job.graph, ranges))
    total = time.perf_counter() - begun
    reused = clock.built_engines == 0
    if reused:
        return EngineTimes(0.0, 0.0, 0.0, total, len(plan.data), True)
    build, write = plan.seconds - clock.parse_seconds, clock.built_seconds - plan.seconds
    return EngineTimes(clock.parse_seconds, build, write, total, len(plan.data), False)


def build_apart(job: EngineJob) -> EngineRun:
    """:func:`build_here` in a process of its own; a failure, or a crash, is part of the result."""
    command = [sys.executable, "-m", "fam_bench.engine_build", json.dumps(asdict(job))]
    memory, parts, largest = MemoryPeaks(), (0, 0), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while process.poll() is None:
            now = memory.look(process.pid)
            anonymous, mapped = now.get("RssAnon", 0), now.get("RssFile", 0)
            if anonymous + mapped > largest:
                largest, parts = anonymous + mapped, (anonymous, mapped)
            time.sleep(LOOK_EVERY_S)
        said = process.stdout.read() if process.stdout is not None else ""
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    document: dict[str, Any] = {}
    for line in said.splitlines():
        document |= json.loads(line)
    times = EngineTimes(**document["times"]) if "times" in document else None
    memory.resident = max(memory.resident, int(document.get("peak_bytes", 0)))
    error = str(document.get("error", ""))
    if times is None and not error:
        error = f"the building process ended with status {process.returncode}"
    return EngineRun(job, times, error, int(document.get("loaded_bytes", 0)), memory, parts)


def main() -> int:
    """Body of the process: the job as JSON is the argument, lines of JSON are the result."""
    document = json.loads(sys.argv[1])
    ranges = {symbol: tuple(sizes) for symbol, sizes in document.pop("ranges").items()}
    try:
        result: dict[str, Any] = {"times": asdict(build_here(EngineJob(ranges=ranges, **document)))}
    except FamError as error:
        result = {"error": " ".join(str(error).split())}
    # The last word on the peak: between two looks from outside it might have grown.
    print(json.dumps(result | {"peak_bytes": peak_memory_bytes()}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
