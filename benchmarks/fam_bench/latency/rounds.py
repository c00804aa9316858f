"""Units measured: loaded side by side as far as the memory goes, then timed in turn.

Every unit is a process of its own, so that its memory is known and that a library which crashes
takes nobody along; only one computes at a time. Engines are built before, in processes that end:
building takes more memory than running, and times candidates on a GPU that nobody else uses. What
does not fit beside the others is measured in a later group: its times are then not from the same
rounds, and its ratios are those of medians.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from fam_bench.latency.contestants import BY_NAME, Device
from fam_bench.latency.quiet import BUSY_SHARE, busy_share
from fam_bench.latency.units import Unit, WorkerJob
from fam_bench.latency.worker_handle import WorkerFailed, WorkerHandle
from fam_bench.nvml import DevicePeak, Gpu

TURN_SECONDS = 0.25
"""A turn is so many runs in a row that it takes about this long."""

MAX_REPEATS = {"cpu": 20, "cuda": 100}
"""On a GPU a step may take a millisecond, and what a stage begins with as long."""

WARM_TURNS = 2
"""Turns before those that count: a CUDA graph is captured when a row comes for the second time."""


SETTLE_SECONDS = 0.05
"""Before a turn: PyTorch's threads go on spinning when their work is done. Without a pause, work
that came right after it took 20 ms in place of 14."""


@dataclass
class Line:
    """What is known of a unit.

    Attributes:
        unit: which.
        reason: why it was not measured; empty if it was.
        build_seconds: of its engines, in a process of their own before; 0 where the cache had them.
        load_seconds: opening the backend, and loading the graph of a step.
        first_seconds: the first run.
        turns: seconds of every run, by round; a turn that a device did in one piece has their mean.
        device_seconds: of a run in each turn, as the GPU measured it; empty where nothing did.
        group: units with the same number were timed in the same rounds.
        stages: seconds per stage of a picture, per round.
        peak_device_bytes: growth of the GPU's used memory by loading and running; None unknown.
        peak_host_bytes: of its process.
        results: file of what it computed.
    """

    unit: Unit
    reason: str = ""
    build_seconds: float = 0.0
    load_seconds: float = 0.0
    first_seconds: float = 0.0
    turns: list[list[float]] = field(default_factory=list)
    device_seconds: list[float] = field(default_factory=list)
    group: int = 0
    stages: list[dict[str, float]] = field(default_factory=list)
    peak_device_bytes: int | None = None
    peak_host_bytes: int = 0
    results: Path | None = None

    @property
    def measured(self) -> bool:
        """Whether there are figures."""
        return not self.reason

    @property
    def seconds(self) -> list[float]:
        """Of a run, one figure per round: the median of its turn."""
        return [median(turn) for turn in self.turns]

    @property
    def samples(self) -> list[float]:
        """Seconds of every run."""
        return [seconds for turn in self.turns for seconds in turn]


class Budget:
    """The time that there is.

    Args:
        seconds: from now; None: no end.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def spent(self) -> bool:
        """Whether nothing new should be started."""
        return time.monotonic() >= self._end


@dataclass(frozen=True)
class Bench:
    """What all units share.

    Attributes:
        job: of a worker; contestant, kind, scale and results are replaced.
        folder: for logs and results.
        gpu: whose memory is read; None: there is none.
        budget: nothing is begun when it is spent.
        rounds: how often each has its turn.
        timeout_s: for one answer of a worker.
        say: told what goes on.
        slowed: by contestant, how many times as long its graphs are made to take.
        others_busy: share of the processors that others took, before the rounds of each group.
    """

    job: WorkerJob
    folder: Path
    gpu: Gpu | None
    budget: Budget
    rounds: int
    timeout_s: float
    say: Callable[[str], None]
    slowed: Mapping[str, float] = field(default_factory=dict)
    others_busy: list[float] = field(default_factory=list)

    def measure(self, units: Sequence[Unit]) -> list[Line]:
        """A line per unit, measured or with the reason why not.

        Those of a contestant lie side by side in each round, those of whole pictures as well.
        """
        lines = [Line(unit) for unit in units]
        for line in lines:
            if BY_NAME[line.unit.contestant].builds_engines:
                self._build_engines(line)
        waiting, group = [line for line in lines if line.measured], 0
        while waiting:
            group += 1
            loaded: list[Loaded] = []
            try:
                waiting = self._load_group(waiting, group, loaded)
                self._time(loaded)
            finally:
                for own in loaded:
                    own.close()
        return lines

    def _build_engines(self, line: Line) -> None:
        """Leave the engines of a unit in the cache, while nothing else is loaded."""
        if self._too_late(line):
            return
        self.say(f"building engines: {line.unit.title}")
        handle = self._worker(line.unit, f"{line.unit.slug}-engines.log")
        try:
            line.build_seconds = handle.ask("prepare")["build_seconds"]
        except WorkerFailed as failed:
            self._give_up(line, failed)
        finally:
            handle.close()  # which keeps what the library compiled, too

    def _load_group(self, lines: list[Line], group: int, loaded: list[Loaded]) -> list[Line]:
        """Load what fits into `loaded`; returns what has to wait for a group of its own."""
        postponed = []
        for line in lines:
            if self._too_late(line):
                continue
            self.say(f"loading: {line.unit.title}")
            try:
                loaded.append(self._load(line))
                line.group = group
            except WorkerFailed as failed:
                if failed.out_of_memory and loaded:
                    self.say("no memory beside the others; it will be measured after them")
                    postponed.append(line)
                else:
                    self._give_up(line, failed)
        return postponed

    def _load(self, line: Line) -> Loaded:
        unit = line.unit
        handle = self._worker(unit, f"{unit.slug}.log")
        try:
            on_cpu = BY_NAME[unit.contestant].is_slow_beside_a_gpu(self.job.device)
            with DevicePeak(None if on_cpu else self.gpu) as peak:
                load, first = handle.ask("load"), handle.ask("first")
                if first["build_seconds"]:
                    raise WorkerFailed("it built engines again that were in the cache")
                warm = handle.ask("run", repeats=1)
                repeats = repeats_of_turn(unit, _seconds_of_step(warm), self.job.device)
                for _ in range(WARM_TURNS if repeats > 1 else 0):
                    handle.ask("run", repeats=repeats)
        except BaseException:
            handle.kill()
            raise
        line.load_seconds, line.first_seconds = load["seconds"], first["seconds"]
        line.peak_device_bytes, line.results = peak.growth_bytes, self._results_of(unit)
        line.peak_host_bytes = handle.peak_host_bytes
        return Loaded(line, handle, warm, repeats, self.job.device)

    def _worker(self, unit: Unit, log: str) -> WorkerHandle:
        """A process for a unit."""
        job = replace(
            self.job,
            contestant=unit.contestant,
            kind=unit.kind,
            scale=unit.scale,
            results=str(self._results_of(unit)),
            slowed=self.slowed.get(unit.contestant, 1.0),
        )
        return WorkerHandle(job, self.folder / log, self.timeout_s)

    def _results_of(self, unit: Unit) -> Path:
        return self.folder / f"{unit.slug}.npz"

    def _too_late(self, line: Line) -> bool:
        """Whether nothing is begun any more, which then is the line's reason."""
        if self.budget.spent:
            line.reason = f"the time budget of {self.budget.seconds:.0f} s was spent"
        return self.budget.spent

    def _give_up(self, line: Line, failed: WorkerFailed) -> None:
        line.reason = _reason(failed)
        self.say(f"not run: {line.reason}")

    def _time(self, loaded: list[Loaded]) -> None:
        """Rounds over what is loaded; whoever fails leaves them."""
        self._look_around()
        for index in self.progress(range(self.rounds)) if loaded else ():
            if index and self.budget.spent:
                self.say(f"the time budget is spent after {index} of {self.rounds} rounds")
                return
            # There and back again: whoever comes next meets the caches that the last one left.
            for own in loaded[:: 1 if index % 2 == 0 else -1]:
                if own.line.measured and (index == 0 or not own.once):
                    own.take_turn()

    def _look_around(self) -> None:
        """Note what others do while all contestants wait."""
        self.others_busy.append(busy_share())
        if self.others_busy[-1] > BUSY_SHARE:
            self.say(
                f"other programs take {100 * self.others_busy[-1]:.0f} % of the processors: these "
                "times will not repeat; measure on a machine that has nothing else to do"
            )

    def progress(self, rounds: range) -> Iterable[int]:
        """A bar over the rounds, on a terminal."""
        return tqdm(rounds, desc="timing", unit="round", disable=None, leave=False)


def repeats_of_turn(unit: Unit, seconds: float, device: Device) -> int:
    """Runs in a row on `device`, when one takes `seconds`."""
    if unit.is_picture:
        return 1
    return min(max(math.ceil(TURN_SECONDS / seconds), 1), MAX_REPEATS[device])


class Loaded:
    """A unit that is ready to run.

    Args:
        line: takes the figures.
        handle: its process.
        warm: the answer to a run after the first.
        repeats: runs of a turn.
        device: of the benchmark.
    """

    def __init__(
        self, line: Line, handle: WorkerHandle, warm: dict[str, Any], repeats: int, device: Device
    ) -> None:
        self.line, self._handle, self._warm, self._repeats = line, handle, warm, repeats
        self.once = BY_NAME[line.unit.contestant].is_slow_beside_a_gpu(device)

    def take_turn(self) -> None:
        """Run, and note the time."""
        line = self.line
        time.sleep(SETTLE_SECONDS)
        try:
            answer = self._warm if self.once else self._handle.ask("run", repeats=self._repeats)
        except WorkerFailed as failed:
            line.reason = f"after {len(line.seconds)} rounds: {_reason(failed)}"
            return
        line.turns.append(answer["seconds"])
        if answer["device_seconds"] is not None:
            line.device_seconds.append(answer["device_seconds"])
        if answer["stages"]:
            line.stages.append(answer["stages"])
        line.peak_host_bytes = max(line.peak_host_bytes, self._handle.peak_host_bytes)

    def close(self) -> None:
        """End its process."""
        self._handle.close()


def _seconds_of_step(answer: dict[str, Any]) -> float:
    """Of a run; without what the host does once for a row of them, where the GPU measured it."""
    return float(answer["device_seconds"] or median(answer["seconds"]))


def _reason(failed: WorkerFailed) -> str:
    return f"out of memory: {failed.reason}" if failed.out_of_memory else failed.reason
