"""What a worker runs, on a device that is made up, beside the CPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from fam_bench import gpu_work, step_definitions
from fam_bench.engine_build import BuildClock
from fam_bench.gpu_plan import make_plain_steps
from fam_bench.gpu_units import BY_NAME, CONTESTANTS, REFERENCE, Kind, WorkerJob
from fam_bench.gpu_work import TorchStep, open_contestant, open_work
from fam_bench.gpu_worker import Worker
from fam_runtime import backends, contract
from fam_runtime.backends.onnxruntime.runner import OnnxruntimeRunner
from fam_runtime.backends.registry import BACKENDS
from fam_runtime.backends.tensorrt import backend as tensorrt_backend
from fam_runtime.backends.tensorrt import engines as tensorrt_engines
from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.device import cuda_api
from tests.runtime.device.fake_device import FakeDeviceApi, FakeDeviceBackend
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.tensorrt.fake_tensorrt import FakeTensorrt, fake_build


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_same_work_on_a_device_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    root, plain = write_bundle(tmp_path / "bundle"), tmp_path / "plain"
    assert make_plain_steps(Bundle.open(root), [2.0], plain) == ""
    scale = 1.0 if kind == "native" else 2.0
    job = WorkerJob(REFERENCE, kind, scale, "cpu", str(root), str(plain), "", "", "", 2, 1)
    here = open_work(job)
    expected, results = here.run(3), here.results()
    device = FakeDeviceBackend()
    monkeypatch.setattr(gpu_work, "open_contestant", lambda job, clock: device)
    there = open_work(job)
    for repeats in (1, 3, 3):
        got = there.run(repeats)
    np.testing.assert_array_equal(got, expected)
    again = there.results()
    assert set(again) == set(results)
    for name, value in results.items():
        np.testing.assert_array_equal(again[name], value)
    assert bool(there.stages) == (kind == "picture")
    # An event of this device is as late as there were handles before it, here one.
    assert there.device_seconds == (None if kind == "picture" else 1 / 1000 / 3)
    assert here.device_seconds is None
    here.close()
    there.close()
    device.close()


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
    scale = 1.0 if kind == "native" else 2.0
    job = WorkerJob("tensorrt-rtx", kind, scale, "cuda", *places, 2, 1)
    earlier, later = Worker(job), Worker(job)
    assert earlier.prepare({})["build_seconds"] > 0
    earlier.close()
    loaded, tensorrt.alive = tensorrt.alive, []
    later.load({})
    # A picture's engines are loaded when it is made, a step's at once.
    assert len(tensorrt.alive) == (0 if kind == "picture" else 1)
    assert later.first({})["build_seconds"] == 0
    assert later.run({"repeats": 2})["seconds"] > 0
    assert len(tensorrt.alive) == len(loaded) == (5 if kind == "picture" else 1)
    later.close()


def test_taps_are_written_in_every_contestant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_bundle(tmp_path / "bundle")
    outputs = {o.name for o in Bundle.open(root).manifest.graphs[NATIVE_GRAPH].outputs}
    job = WorkerJob(REFERENCE, "native", 1.0, "cpu", str(root), "", "", "", "", 2, 1)
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
    monkeypatch.setattr(gpu_work, "open_contestant", lambda job, clock: device)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tf32: tuple[Any, Any], dtype: str
) -> None:
    import torch

    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, inputs: Any) -> Any:
            return {contract.NEXT_LATENT: inputs[contract.LATENT]}

    definitions = SimpleNamespace(native=SimpleNamespace(module=Module()))
    monkeypatch.setattr(step_definitions, "step_definitions", lambda *arguments: definitions)
    for holder in tf32:
        holder.allow_tf32 = dtype == "fp32"  # the wrong way round
    root = str(write_bundle(tmp_path / "bundle", dtype=dtype))
    work = TorchStep(WorkerJob("torch-eager", "native", 1.0, "cpu", root, *[""] * 4, 2, None))
    assert [holder.allow_tf32 for holder in tf32] == [dtype != "fp32"] * 2
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
    work._device = "cuda"
    work.run(2)
    assert work.device_seconds == pytest.approx(0.003)


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
    assert given.get("provider", "cuda") == ("cpu" if name == REFERENCE else "cuda")


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
