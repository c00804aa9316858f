"""The GPU check, on a machine without one and with workers that are made up."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_bench import gpu_rounds
from fam_bench.gpu_check import main
from fam_bench.gpu_figures import figures_of, psnr
from fam_bench.gpu_rounds import Bench, Budget, Line, repeats_of_turn
from fam_bench.gpu_units import BY_NAME, REFERENCE, Unit, WorkerJob
from fam_bench.gpu_worker import failure
from fam_bench.gpu_worker_handle import WorkerFailed, WorkerHandle
from fam_runtime.errors import BackendError, OutOfMemory
from tests.runtime.fake_bundle import write_bundle

KINDS = (("target", 2.0), ("plain", 2.0), ("native", 1.0), ("picture", 2.0))
GPU_ONLY = {name for name, contestant in BY_NAME.items() if contestant.devices == ("cuda",)}


def test_a_machine_without_a_gpu_measures_what_it_can_and_says_why_not_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    command = [str(bundle), "--scale", "2", "--scale", "3", "--rounds", "2", "--steps", "2"]
    command += ["--device", "cpu", "--json", str(tmp_path / "j"), "--markdown", str(tmp_path / "m")]
    assert main(command) == 0
    document = json.loads((tmp_path / "j").read_text())
    measured = {(row["contestant"], row["kind"], row["scale"]) for row in document["figures"]}
    assert measured == {(REFERENCE, kind, scale) for kind, scale in KINDS}
    for row in document["figures"]:
        assert len(row["seconds"]) == 2 and row["median_seconds"] > 0
        assert row["peak_host_bytes"] > 10**7 and row["peak_device_bytes"] is None
        assert row["device_seconds"] == [] and row["median_device_seconds"] is None
    (picture,) = (row for row in document["figures"] if row["kind"] == "picture")
    assert set(picture["stage_seconds"]) >= {"text", "native", "target", "decode"}
    reasons = {
        (row["contestant"], row["kind"], row["scale"]): row["reason"] for row in document["not_run"]
    }
    assert len(reasons) == len(document["not_run"])
    assert all("needs a GPU" in reasons[name, "target", 2.0] for name in GPU_ONLY)
    assert "name it with --model" in reasons["torch-eager", "target", 2.0]
    assert "the bundle has no target for scale 3" in reasons[REFERENCE, "target", 3.0]
    text = capsys.readouterr().out
    assert text.rstrip() == (tmp_path / "m").read_text().rstrip()
    assert "| ONNX Runtime, CPU |" in text and "## Not run" in text
    assert text.count("TF32 for float32 products on a GPU: off in all contestants") == 2
    rows = [line for line in text.splitlines() if line.startswith("| ") and "\\|" not in line]
    assert {row.count("|") for row in rows if "ONNX Runtime, CPU" in row} == {15 + 1, 14 + 1}


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
        return {"seconds": seconds, "device_seconds": seconds / 2, "stages": {}}

    def kill(self) -> None:
        self._workers.alive -= 1

    close = kill


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    job = WorkerJob(REFERENCE, "native", 1.0, "cpu", "", "", "", "", "", 1, None)
    yield Bench(job, tmp_path, None, Budget(None), 3, 1.0, lambda text: None)


def test_what_does_not_fit_beside_the_others_is_measured_after_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = FakeWorkers(room=2)
    monkeypatch.setattr(gpu_rounds, "WorkerHandle", workers.start)
    names = [REFERENCE, "torch-eager", "onnxruntime-cuda", "tensorrt"]
    lines = bench.measure([Unit(name, "target", 2.0) for name in names])
    assert [line.group for line in lines] == [1, 1, 2, 0]
    assert workers.most_alive == 2 and workers.alive == 0
    reasons = [line.reason for line in lines]
    assert reasons[0] == reasons[2] == "" and reasons[3] == "out of memory: no room"
    assert reasons[1] == "after 1 rounds: the device is gone"
    assert lines[0].seconds == [0.015] * 3
    rows = figures_of(lines)
    assert [row["contestant"] for row in rows] == [REFERENCE, "onnxruntime-cuda"]
    assert rows[1]["psnr_db"] == 200 and rows[1]["psnr_against"] == REFERENCE


def test_engines_are_built_before_with_nothing_else_loaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = FakeWorkers(room=9)
    monkeypatch.setattr(gpu_rounds, "WorkerHandle", workers.start)
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
    unit = Unit(REFERENCE, "native", 1.0)
    assert repeats_of_turn(unit, 0.001, "cpu") == 20 and repeats_of_turn(unit, 0.001, "cuda") == 100
    assert repeats_of_turn(unit, 0.1, "cuda") == 3 and repeats_of_turn(unit, 9.0, "cuda") == 1
    assert repeats_of_turn(Unit(REFERENCE, "picture", 2.0), 0.001, "cuda") == 1


def test_nothing_is_begun_when_the_time_is_spent(bench: Bench) -> None:
    spent = Bench(bench.job, bench.folder, None, Budget(0.0), 3, 1.0, lambda text: None)
    (line,) = spent.measure([Unit(REFERENCE, "native", 1.0)])
    assert line.reason == "the time budget of 0 s was spent"


def test_ratios_are_taken_round_by_round_and_of_medians_across_groups() -> None:
    def line(kind: Any, seconds: list[float], group: int = 1, memory: int = 100) -> Line:
        unit = Unit("tensorrt", kind, 2.0)
        return Line(unit, seconds=seconds, group=group, peak_device_bytes=memory)

    target = line("target", [2.0, 30.0, 6.0], memory=110)
    # Round by round 2, 3 and 1; of medians 6 / 6.
    (row, _) = figures_of([target, line("plain", [1.0, 10.0, 6.0])])
    assert row["time_ratio_to_plain"] == 2
    assert row["device_memory_ratio_to_plain"] == pytest.approx(1.1)
    plain = line("plain", [1.0, 10.0, 6.0], group=2)
    (row, _) = figures_of([target, plain])
    assert row["time_ratio_to_plain"] == 1
    target.device_seconds = [3.0, 9.0, 9.0]
    assert figures_of([target, plain])[0]["time_ratio_to_plain"] == 1, "not of two kinds of times"
    plain.device_seconds = [3.0, 3.0, 1.0]
    (row, _) = figures_of([target, plain])
    assert row["time_ratio_to_plain"] == 3 and row["median_device_seconds"] == 9


def test_the_noise_ratio_is_that_of_the_peak_and_nan_is_the_worst() -> None:
    expected = np.array([1.0, -2.0, 0.5, 0.0], np.float16)
    assert psnr(expected.astype(np.float32), expected) == 200
    assert psnr(expected + np.float16(0.25), expected) == pytest.approx(10 * np.log10(4 / 0.0625))
    assert psnr(np.float32([1, np.nan, 0, 0]), expected) == -200 == psnr(expected[:2], expected)


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
    job = WorkerJob(REFERENCE, "native", 1.0, "cpu", "", "", "", "", "", 1, None)
    handle = WorkerHandle(job, tmp_path / "log", 1.0)
    with pytest.raises(WorkerFailed, match=expected):
        handle.ask("load")
