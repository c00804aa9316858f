"""How units are timed in turn, with workers that are made up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_bench.latency import rounds
from fam_bench.latency.contestants import ONNXRUNTIME_CPU, Kind
from fam_bench.latency.results.figures import figures_of, max_error, psnr
from fam_bench.latency.results.parts import parts_of
from fam_bench.latency.rounds import Bench, Budget, Line, repeats_of_turn
from fam_bench.latency.units import Unit, WorkerJob
from fam_bench.latency.worker import failure
from fam_bench.latency.worker_handle import WorkerFailed, WorkerHandle
from fam_runtime.errors import BackendError, OutOfMemory

PIXELS = {1.0: 64 * 64, 2.0: 128 * 128}


@dataclass
class FakeWorkers:
    """Workers on a device of so many units; PyTorch's crashes in its second round.

    Engines of native steps cannot be built, those of plain ones are not found again.
    """

    room: int
    alive: int = 0
    most_alive: int = 0
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def start(self, job: WorkerJob, log: Path, timeout_s: float) -> FakeWorker:
        return FakeWorker(self, job)


class FakeWorker:
    """One of them; a step takes as many milliseconds as its name has letters."""

    peak_host_bytes = 1

    def __init__(self, workers: FakeWorkers, job: WorkerJob) -> None:
        self._workers, self._job, self._turns = workers, job, 0
        workers.alive += 1

    def ask(self, what: str, **arguments: int) -> dict[str, Any]:
        workers, job = self._workers, self._job
        workers.asked.append((what, job.contestant, workers.alive))
        if what == "prepare":
            if job.kind == "native":
                raise WorkerFailed("no tactic")
            return {"build_seconds": 7.0}
        if what == "load" and (workers.alive > workers.room or job.contestant == "tensorrt"):
            raise WorkerFailed("no room", out_of_memory=True)
        if what == "load":
            workers.most_alive = max(workers.most_alive, workers.alive)
            return {"seconds": 2.0}
        if what == "first":
            np.savez(job.results, prediction=np.ones(3))
            return {"seconds": 1.0, "build_seconds": 0.5 if job.kind == "plain" else 0.0}
        self._turns += arguments["repeats"] > 1
        if job.contestant == "torch-eager" and self._turns > 3:
            raise WorkerFailed("the device is gone")
        seconds = len(job.contestant) / 1000
        return {"seconds": [seconds], "device_seconds": seconds / 2, "stages": {}}

    def kill(self) -> None:
        self._workers.alive -= 1

    close = kill


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    job = WorkerJob(ONNXRUNTIME_CPU, "native", 1.0, "cpu", "", "", "", "", "", 1, None)
    yield Bench(job, tmp_path, None, Budget(None), 3, 1.0, lambda text: None)


def test_what_does_not_fit_beside_the_others_is_measured_after_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = FakeWorkers(room=2)
    monkeypatch.setattr(rounds, "WorkerHandle", workers.start)
    names = [ONNXRUNTIME_CPU, "torch-eager", "onnxruntime-cuda", "tensorrt"]
    lines = bench.measure([Unit(name, "target", 2.0) for name in names])
    assert [line.group for line in lines] == [1, 1, 2, 0]
    assert workers.most_alive == 2 and workers.alive == 0
    reasons = [line.reason for line in lines]
    assert reasons[0] == reasons[2] == "" and reasons[3] == "out of memory: no room"
    assert reasons[1] == "after 1 rounds: the device is gone"
    assert lines[0].seconds == [0.015] * 3
    rows = figures_of(lines, PIXELS)
    assert [row["contestant"] for row in rows] == [ONNXRUNTIME_CPU, "onnxruntime-cuda"]
    assert rows[0]["fidelity"] is None and rows[1]["fidelity"] == {
        "against": ONNXRUNTIME_CPU,
        "of": ["prediction"],
        "psnr_db": 200,
        "max_error": 0,
    }


def test_engines_are_built_before_with_nothing_else_loaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = FakeWorkers(room=9)
    monkeypatch.setattr(rounds, "WorkerHandle", workers.start)
    names, kinds = ["torch-eager", "tensorrt-rtx"], ("target", "plain", "native")
    lines = bench.measure([Unit(name, kind, 2.0) for name in names for kind in kinds])
    built = [asked for asked in workers.asked if asked[0] == "prepare"]
    assert workers.asked[:3] == built == [("prepare", "tensorrt-rtx", 1)] * 3
    by_kind = {line.unit.kind: line for line in lines if line.unit.contestant == "tensorrt-rtx"}
    assert by_kind["target"].build_seconds == 7 and by_kind["target"].load_seconds == 2
    assert by_kind["plain"].reason == "it built engines again that were in the cache"
    assert by_kind["native"].reason == "no tactic"
    assert ("load", "tensorrt-rtx", 6) not in workers.asked, "it was given up"
    assert workers.alive == 0


def test_a_turn_is_long_against_what_it_begins_with() -> None:
    unit = Unit(ONNXRUNTIME_CPU, "native", 1.0)
    assert repeats_of_turn(unit, 0.001, "cpu") == 20 and repeats_of_turn(unit, 0.001, "cuda") == 100
    assert repeats_of_turn(unit, 0.1, "cuda") == 3 and repeats_of_turn(unit, 9.0, "cuda") == 1
    assert repeats_of_turn(Unit(ONNXRUNTIME_CPU, "picture", 2.0), 0.001, "cuda") == 1


def test_nothing_is_begun_when_the_time_is_spent(bench: Bench) -> None:
    spent = Bench(bench.job, bench.folder, None, Budget(0.0), 3, 1.0, lambda text: None)
    (line,) = spent.measure([Unit(ONNXRUNTIME_CPU, "native", 1.0)])
    assert line.reason == "the time budget of 0 s was spent"


def line_of(kind: Kind, seconds: list[float], group: int = 1, **figures: Any) -> Line:
    """A line whose turns are single runs."""
    unit = Unit("tensorrt", kind, 1.0 if kind.startswith("native") else 2.0)
    return Line(unit, turns=[[value] for value in seconds], group=group, **figures)


def test_ratios_are_taken_round_by_round_and_of_medians_across_groups() -> None:
    target = line_of("target", [2.0, 30.0, 6.0], peak_device_bytes=110)
    # Round by round 2, 3 and 1; of medians 6 / 6.
    plain = line_of("plain", [1.0, 10.0, 6.0], peak_device_bytes=100)
    (row, _) = figures_of([target, plain], PIXELS)
    assert row["ratio_to_plain"] == 2
    assert row["memory_ratio_to_plain"] == pytest.approx(1.1)
    plain = line_of("plain", [1.0, 10.0, 6.0], group=2)
    (row, _) = figures_of([target, plain], PIXELS)
    assert row["ratio_to_plain"] == 1
    target.device_seconds = [3.0, 9.0, 9.0]
    (row, _) = figures_of([target, plain], PIXELS)
    assert row["ratio_to_plain"] == 1, "not of two kinds of times"
    plain.device_seconds = [3.0, 3.0, 1.0]
    (row, _) = figures_of([target, plain], PIXELS)
    assert row["ratio_to_plain"] == 3 and row["median_device_seconds"] == 9


def test_host_memory_is_compared_where_no_gpu_computes() -> None:
    target = line_of("target", [1.0], peak_host_bytes=105)
    (row, _) = figures_of([target, line_of("plain", [1.0], peak_host_bytes=100)], PIXELS)
    assert row["memory_ratio_to_plain"] == pytest.approx(1.05)


def test_percentiles_are_of_all_runs_and_the_spread_is_of_rounds() -> None:
    turns = [[1.0, 1.2], [2.0, 2.4], [4.0, 4.8]]
    (row,) = figures_of([Line(Unit("cpp", "picture", 2.0), turns=turns)], PIXELS)
    assert (row["n"], row["median_seconds"], row["min_seconds"]) == (6, 2.2, 1.0)
    assert row["p95_seconds"] == pytest.approx(np.percentile(np.ravel(turns), 95))
    assert row["round_seconds"] == [1.1, 2.2, 4.4]
    assert row["spread"] == pytest.approx((4.4 - 1.1) / 2 / 2.2)


def test_parts_are_differences_within_a_round() -> None:
    lines = [
        line_of("target", [1.6, 3.0, 13.0]),
        line_of("without_am", [1.1, 2.4, 11.0]),
        line_of("plain", [1.0, 2.0, 10.0]),
        line_of("native", [0.6, 0.7, 0.8]),
        line_of("native_plain", [0.5, 0.5, 0.5]),
    ]
    parts = {part["part"]: part for part in parts_of(lines)}
    expected = {"FM": (0.4, 0.1), "AM": (0.6, 0.3), "FM + AM": (1.0, 0.5), "taps": (0.2, 0.4)}
    for name, (seconds, ratio) in expected.items():
        assert parts[name]["seconds"] == pytest.approx(seconds), name
        assert parts[name]["ratio_to_plain"] == pytest.approx(ratio), name
    assert (parts["AM"]["low"], parts["AM"]["high"]) == pytest.approx((0.2, 0.5))
    assert not parts_of([line_of("target", [1.0]), line_of("plain", [1.0], group=2)])


def test_the_noise_ratio_is_that_of_the_peak_and_nan_is_the_worst() -> None:
    expected = np.array([1.0, -2.0, 0.5, 0.0], np.float16)
    assert psnr(expected.astype(np.float32), expected) == 200
    assert psnr(expected + np.float16(0.25), expected) == pytest.approx(10 * np.log10(4 / 0.0625))
    assert psnr(np.float32([1, np.nan, 0, 0]), expected) == -200 == psnr(expected[:2], expected)
    assert max_error(expected + np.float16(0.25), expected) == 0.25
    assert max_error(np.float32([1, np.nan, 0, 0]), expected) is None


def test_reasons_name_the_package_and_tell_want_of_memory() -> None:
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert failure(missing) == {"error": "the package torch is missing", "out_of_memory": False}
    assert failure(RuntimeError("CUDA out of memory. Tried"))["out_of_memory"]
    assert failure(RuntimeError("CUDA error 2: CUDA_ERROR_OUT_OF_MEMORY"))["out_of_memory"]
    assert failure(OutOfMemory("the buffers do not fit"))["out_of_memory"]
    assert failure(BackendError("it stopped", got="CUDNN_STATUS_ALLOC_FAILED"))["out_of_memory"]
    assert not failure(BackendError("the buffers do not fit"))["out_of_memory"]
    assert not failure(ValueError("another"))["out_of_memory"]


@pytest.mark.parametrize(
    "code, expected",
    [
        (
            "import sys; print('the driver said no', file=sys.stderr); sys.exit(3)",
            "status 3: the driver said no",
        ),
        ("import time; time.sleep(60)", "no answer to 'load' in 1 s"),
    ],
)
def test_a_worker_that_crashes_or_hangs_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    job = WorkerJob(ONNXRUNTIME_CPU, "native", 1.0, "cpu", "", "", "", "", "", 1, None)
    handle = WorkerHandle(job, tmp_path / "log", 1.0)
    with pytest.raises(WorkerFailed, match=expected):
        handle.ask("load")
