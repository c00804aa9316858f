"""What a worker of fam-bench runs: on the CPU, on a device that is made up, and in PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from fam_bench.engine_build import BuildClock
from fam_bench.latency.contestants import (
    BY_NAME,
    CONTESTANTS,
    EAGER,
    LITERAL,
    NATIVE_STEPS,
    ONNXRUNTIME_CPU,
    PICTURE_KINDS,
    STEP_KINDS,
    Kind,
)
from fam_bench.latency.libraries import backends as bench_backends
from fam_bench.latency.libraries.backends import open_contestant
from fam_bench.latency.plan import make_ablated_graphs
from fam_bench.latency.results.figures import psnr
from fam_bench.latency.units import WorkerJob
from fam_bench.latency.work import open_work
from fam_bench.latency.worker import Worker
from fam_runtime import backends
from fam_runtime.backends.onnxruntime.runner import OnnxruntimeRunner
from fam_runtime.backends.registry import BACKENDS
from fam_runtime.backends.tensorrt import backend as tensorrt_backend
from fam_runtime.backends.tensorrt import engines as tensorrt_engines
from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.device import cuda_api
from tests.conftest import Exported
from tests.runtime.device.fake_device import FakeDeviceApi, FakeDeviceBackend
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.tensorrt.fake_tensorrt import FakeTensorrt, fake_build

KINDS = get_args(Kind)
FP32_PSNR_DB = 80.0
"""float32 through whole UNets, summed in another order; without AM a step has 30 dB."""


def scale_of(kind: Kind) -> float:
    return 1.0 if kind in NATIVE_STEPS else 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_work_on_a_device_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    root, ablated = write_bundle(tmp_path / "bundle"), tmp_path / "ablated"
    assert make_ablated_graphs(Bundle.open(root), [2.0], ablated) == ""
    places = (str(root), str(ablated), "", "", "")
    here = open_work(WorkerJob(ONNXRUNTIME_CPU, kind, scale_of(kind), "cpu", *places, 2, 1))
    here.run(3)
    expected, results = here.seconds, here.results()
    assert len(expected) == 3 and min(expected) > 0 and here.device_seconds is None
    device = FakeDeviceBackend()
    monkeypatch.setattr(bench_backends, "_opened", lambda job, clock: device)
    there = open_work(WorkerJob("tensorrt", kind, scale_of(kind), "cuda", *places, 2, 1))
    for repeats in (1, 3, 3):
        there.run(repeats)
    again = there.results()
    assert set(again) == set(results)
    for name, value in results.items():
        np.testing.assert_array_equal(again[name], value)
    assert bool(there.stages) == (kind in PICTURE_KINDS)
    # An event of this device is as late as there were handles before it, here one.
    step = kind in STEP_KINDS
    assert there.device_seconds == (1 / 1000 / 3 if step else None)
    assert len(there.seconds) == (1 if step else 3)
    here.close()
    there.close()
    device.close()


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_and_the_literal_reference_do_the_same_work(
    tiny: Exported, tmp_path: Path, kind: Kind
) -> None:
    ablated = tmp_path / "ablated"
    assert make_ablated_graphs(Bundle.open(tiny.bundle, verify="size"), [2.0], ablated) == ""
    places = (str(tiny.bundle), str(ablated), str(tiny.checkpoint), "", "")
    found = {}
    for name in (LITERAL, EAGER, ONNXRUNTIME_CPU):
        if kind not in BY_NAME[name].kinds:
            continue
        work = open_work(WorkerJob(name, kind, scale_of(kind), "cpu", *places, 2, None))
        work.run(2)
        assert len(work.seconds) == 2 and bool(work.stages) == (kind in PICTURE_KINDS)
        found[name] = work.results()
        work.close()
    assert len(found) == (3 if kind in BY_NAME[LITERAL].kinds else 2)
    first, *others = found.values()
    for other in others:
        for name in set(first) - {"rgb"}:
            assert psnr(other[name], first[name]) > FP32_PSNR_DB, name


def test_at_zero_the_whole_step_is_the_plain_one(tiny: Exported, tmp_path: Path) -> None:
    ablated = tmp_path / "ablated"
    assert make_ablated_graphs(Bundle.open(tiny.bundle, verify="size"), [2.0], ablated) == ""
    found = {}
    for kind in ("plain", "target_at_zero", "target"):
        places = (str(tiny.bundle), str(ablated), "", "", "")
        work = open_work(WorkerJob(ONNXRUNTIME_CPU, kind, 2.0, "cpu", *places, 2, None))
        found[kind] = work.results()["next_latent"]
        work.close()
    np.testing.assert_array_equal(found["target_at_zero"], found["plain"])
    assert psnr(found["target"], found["plain"]) < FP32_PSNR_DB


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorrt:
    """TensorRT for RTX that is made up, on a device that is; the backend is real."""
    api = FakeDeviceApi()
    api.compute_capability = (8, 9)
    library = TensorrtLibrary("tensorrt-rtx", FakeTensorrt(api), "1.7.1")
    monkeypatch.setattr(TensorrtLibrary, "architectures", ("sm89",))
    monkeypatch.setattr(tensorrt_engines, "build_plan", fake_build)
    monkeypatch.setattr(tensorrt_backend, "import_library", lambda name: library)
    monkeypatch.setattr(cuda_api, "open_cuda", lambda: api)
    return library.module


@pytest.mark.parametrize("kind", ["native", "target", "picture"])
def test_a_worker_finds_the_engines_that_another_prepared(
    tmp_path: Path, tensorrt: FakeTensorrt, kind: Kind
) -> None:
    root = write_bundle(tmp_path / "bundle")
    places = (str(root), "", "", str(tmp_path / "cache"), str(tmp_path / "results.npz"))
    job = WorkerJob("tensorrt-rtx", kind, scale_of(kind), "cuda", *places, 2, 1)
    earlier, later = Worker(job), Worker(job)
    assert earlier.prepare({})["build_seconds"] > 0
    earlier.close()
    loaded, tensorrt.alive = tensorrt.alive, []
    later.load({})
    # A picture's engines are loaded when it is made, a step's at once.
    assert len(tensorrt.alive) == (0 if kind == "picture" else 1)
    assert later.first({})["build_seconds"] == 0
    assert min(later.run({"repeats": 2})["seconds"]) > 0
    assert len(tensorrt.alive) == len(loaded) == (5 if kind == "picture" else 1)
    later.close()


def test_taps_are_written_in_every_contestant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_bundle(tmp_path / "bundle")
    outputs = {o.name for o in Bundle.open(root).manifest.graphs[NATIVE_GRAPH].outputs}
    job = WorkerJob(ONNXRUNTIME_CPU, "native", 1.0, "cpu", str(root), "", "", "", "", 2, 1)
    computed: list[set[str]] = []
    run = OnnxruntimeRunner.infer_impl

    def recorded(runner: Any, feeds: Any, wanted: Any) -> Any:
        computed.append(set(wanted))
        return run(runner, feeds, wanted)

    monkeypatch.setattr(OnnxruntimeRunner, "infer_impl", recorded)
    here = open_work(job)
    here.run(2)
    here.close()
    assert computed == [outputs] * 2 and len(outputs) > 2
    device = FakeDeviceBackend(every_output=False)
    monkeypatch.setattr(bench_backends, "_opened", lambda job, clock: device)
    there = open_work(job)
    there.run(2)
    runs = device.api.runs("native")
    assert len(runs) >= 2 and all(outputs <= set(call.values) for call in runs)
    there.close()


@pytest.fixture
def tf32() -> Iterator[tuple[Any, Any]]:
    """Where PyTorch keeps the setting; afterwards it is as it was."""
    torch = pytest.importorskip("torch")
    holders = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [holder.allow_tf32 for holder in holders]
    yield holders
    for holder, value in zip(holders, before, strict=True):
        holder.allow_tf32 = value


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_pytorch_multiplies_as_the_runtime_does(
    tiny: Exported, tmp_path: Path, tf32: tuple[Any, Any], dtype: str
) -> None:
    from fam_bench.latency.libraries.torch_modules import TorchModules
    from fam_export.checkpoint import open_checkpoint

    for holder in tf32:
        holder.allow_tf32 = dtype == "fp32"  # the wrong way round
    manifest = Bundle.open(write_bundle(tmp_path / "bundle", dtype=dtype)).manifest
    checkpoint = open_checkpoint(str(tiny.checkpoint))
    TorchModules(checkpoint, manifest, device="cpu", compiled=False).close()
    assert [holder.allow_tf32 for holder in tf32] == [dtype != "fp32"] * 2


def test_a_stage_of_pytorch_is_timed_on_the_gpu(
    tiny: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from fam_bench.latency.libraries.torch_modules import TorchStageLoop

    work: Any = open_work(
        WorkerJob(
            EAGER, "native", 1.0, "cpu", str(tiny.bundle), "", str(tiny.checkpoint), "", "", 2, None
        )
    )
    work.run(2)
    assert work.device_seconds is None
    marks = iter([10.0, 16.0])

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.ms = next(marks)

        def elapsed_time(self, end: Event) -> float:
            return end.ms - self.ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    mark = TorchStageLoop._mark

    def mark_of_a_gpu(loop: Any) -> Any:
        place, loop._place = loop._place, type("Gpu", (), {"device": torch.device("cuda")})()
        try:
            return mark(loop)
        finally:
            loop._place = place

    monkeypatch.setattr(TorchStageLoop, "_mark", mark_of_a_gpu)
    work.run(2)
    assert work.device_seconds == pytest.approx(0.003)
    work.close()


@pytest.mark.parametrize("name", [c.name for c in CONTESTANTS if c.backend])
def test_every_backend_takes_the_options_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(backends, "open_backend", lambda name, **options: given.update(options))
    job = WorkerJob(name, "native", 1.0, "cuda", "", "", "", "cache", "", 1, None)
    open_contestant(job, BuildClock())
    module, _, attribute = BACKENDS[BY_NAME[name].backend].partition(":")
    known = inspect.signature(getattr(import_module(module), attribute)).parameters
    assert set(given) <= set(known)
    assert given.get("provider", "cuda") == ("cpu" if name == ONNXRUNTIME_CPU else "cuda")


def test_openvino_takes_the_graphs_of_a_bundle(tiny: Exported) -> None:
    pytest.importorskip("openvino")
    found = {}
    for name in (ONNXRUNTIME_CPU, "openvino"):
        job = WorkerJob(name, "target", 2.0, "cpu", str(tiny.bundle), "", "", "", "", 2, 1)
        work = open_work(job)
        found[name] = work.results()
        work.close()
    for output, value in found[ONNXRUNTIME_CPU].items():
        assert psnr(found["openvino"][output], value) > FP32_PSNR_DB


def test_a_planted_slowdown_is_real(tmp_path: Path) -> None:
    root = str(write_bundle(tmp_path / "bundle"))
    slept: list[float] = []
    job = WorkerJob(ONNXRUNTIME_CPU, "native", 1.0, "cpu", root, "", "", "", "", 2, 1, slowed=5.0)
    work = open_work(job)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("time.sleep", slept.append)
        work.run(3)
    work.close()
    assert len(slept) == 3 and min(slept) > 0


def test_the_clock_tells_parsing_from_building(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 11.0, 15.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = BuildClock()
    clock.begin("an engine", "", 1.0)
    clock.update("building", None)
    clock.update("building", 0.5)
    clock.end(built=True)
    clock.reused("another")
    assert (clock.parse_seconds, clock.built_seconds) == (1, 5)
    assert (clock.built_engines, clock.reused_engines) == (1, 1)
