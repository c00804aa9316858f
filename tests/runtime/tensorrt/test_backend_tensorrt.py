"""The backend at work, on a fake device and a fake library: the same pictures as ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.backends.tensorrt import backend as backend_module
from fam_runtime.backends.tensorrt import engines as engines_module
from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.backend import TensorrtBackend, TensorrtRtxBackend
from fam_runtime.backends.tensorrt.cache import EngineCache, EngineCacheNotKept
from fam_runtime.backends.tensorrt.engines import Engines, engines_of_targets
from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings
from fam_runtime.backends.tensorrt.verified_store import VerifiedStore
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.errors import BackendError, StorageError
from fam_runtime.pipeline import FamPipeline
from tests.runtime.device.fake_device import FakeDeviceApi
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.tensorrt.conftest import RecordedProgress
from tests.runtime.tensorrt.fake_tensorrt import FakeTensorrt, fake_build

CALL: dict[str, Any] = {"scale": 2, "num_inference_steps": 3, "seed": 5, "output_type": "np"}


class Workplace:
    """A fake GPU with a fake library on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        self.api, self.cache, self.progress = FakeDeviceApi(), cache, RecordedProgress()
        self.api.compute_capability = (8, 9)
        self.trt = FakeTensorrt(self.api)
        monkeypatch.setattr(engines_module, "build_plan", fake_build)
        self._patch = monkeypatch

    def backend(self, kind: type[TensorrtBackend], settings: BuildSettings) -> TensorrtBackend:
        library: Any = TensorrtLibrary(kind.library_name, self.trt, "10.9.0")
        self._patch.setattr(backend_module, "import_library", lambda name: library)
        if library.builds_ahead_of_time:
            self._patch.setattr(TensorrtLibrary, "architectures", ("sm89",))
        return kind(
            settings=settings, cache_dir=self.cache, build_progress=self.progress, api=self.api
        )


@pytest.fixture
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workplace:
    return Workplace(monkeypatch, tmp_path / "cache")


@pytest.fixture(params=[TensorrtBackend, TensorrtRtxBackend])
def pipe(
    request: pytest.FixtureRequest, workplace: Workplace, bundle: Bundle
) -> Iterator[FamPipeline]:
    with FamPipeline(bundle, workplace.backend(request.param, BuildSettings())) as pipe:
        yield pipe
    workplace.api.assert_empty()


def expected(bundle: Bundle, **call: Any) -> np.ndarray:
    with FamPipeline.from_pretrained(bundle.root, progress=False) as pipe:
        return np.asarray(pipe("a cat", **{**CALL, **call}).images)


@pytest.mark.parametrize("native_attention", ["store", "replay"])
def test_pictures_are_those_of_onnxruntime(
    pipe: FamPipeline, bundle: Bundle, workplace: Workplace, native_attention: str
) -> None:
    for seed in (5, 6, 7):
        call = {"native_attention": native_attention, "seed": seed}
        images = pipe("a cat", **{**CALL, **call}).images
        np.testing.assert_array_equal(images, expected(bundle, **call))
    graphs = [title.split()[0] for title in workplace.progress.built]
    assert len(graphs) == len(set(graphs)) == 5
    assert workplace.api.named("launch"), "the steps are captured"


def test_engines_share_one_scratch(pipe: FamPipeline, workplace: Workplace) -> None:
    pipe("a cat", **CALL)
    contexts = workplace.trt.alive
    assert len(contexts) == 5
    assert len({context.scratch for context in contexts}) == 1
    needs = [context.engine.device_memory_size_v2 for context in contexts]
    assert contexts[0].scratch is not None
    assert contexts[0].scratch[1] == max(needs)


def test_scratch_that_moves_takes_the_captured_graphs_along(
    pipe: FamPipeline, workplace: Workplace, bundle: Bundle
) -> None:
    """A larger target needs more than the steps that were captured before it came."""
    images = [pipe("a cat", **CALL).images for _ in range(2)]
    assert workplace.api.named("begin_capture")
    pipe("a cat", **{**CALL, "scale": (2, 4)})
    assert workplace.api.named("destroy_graph")
    images += [pipe("a cat", **CALL).images for _ in range(2)]
    captured = len(workplace.api.named("begin_capture"))
    images.append(pipe("a cat", **CALL).images)
    assert len(workplace.api.named("begin_capture")) == captured
    assert all(np.array_equal(image, expected(bundle)) for image in images)


def test_graphs_that_were_captured_at_another_batch_are_not_replayed(
    workplace: Workplace, bundle: Bundle
) -> None:
    """A context that changes its shapes leaves what was captured with it undefined."""
    settings = BuildSettings(batch=BatchRange(1, 1, 2))
    with FamPipeline(bundle, workplace.backend(TensorrtBackend, settings)) as pipe:
        for count in (2, 2, 1, 2, 1, 1):
            call = {"num_images_per_prompt": count, "pictures_per_batch": count}
            images = pipe("a cat", **CALL, **call).images
            np.testing.assert_array_equal(images, expected(bundle, **call))
    assert workplace.api.named("launch")


def test_a_second_session_builds_nothing(workplace: Workplace, bundle: Bundle) -> None:
    for _ in range(2):
        with FamPipeline(bundle, workplace.backend(TensorrtRtxBackend, BuildSettings())) as pipe:
            pipe("a cat", **CALL)
    assert len(workplace.progress.built) == 5
    assert len(workplace.progress.taken) == 5
    assert workplace.trt.kernels_given == [b"kernels compiled in this run"] * 5


def test_an_engine_for_another_batch_is_built_when_it_is_needed(
    workplace: Workplace, bundle: Bundle
) -> None:
    with FamPipeline(bundle, workplace.backend(TensorrtBackend, BuildSettings())) as pipe:
        pipe("a cat", **CALL)
        two = {"num_images_per_prompt": 2, "pictures_per_batch": 2}
        images = pipe("a cat", **CALL, **two).images
        np.testing.assert_array_equal(images, expected(bundle, **two))
    reasons = [reason for reason in workplace.progress.reasons if reason]
    assert any("native.onnx, but it was built for B = 1, and B = 2 was" in r for r in reasons)


def test_a_range_of_batches_serves_all_of_them(workplace: Workplace, bundle: Bundle) -> None:
    settings = BuildSettings(batch=BatchRange(1, 1, 2))
    with FamPipeline(bundle, workplace.backend(TensorrtBackend, settings)) as pipe:
        for count in (1, 2):
            call = {"num_images_per_prompt": count, "pictures_per_batch": count}
            images = pipe("a cat", **CALL, **call).images
            np.testing.assert_array_equal(images, expected(bundle, **call))
    built = [title for title in workplace.progress.built if "native" in title]
    assert len(built) == 1


def test_stripped_plans_are_filled_from_the_bundle(workplace: Workplace, bundle: Bundle) -> None:
    settings = BuildSettings(strip_weights=True)
    with FamPipeline(bundle, workplace.backend(TensorrtBackend, settings)) as pipe:
        np.testing.assert_array_equal(pipe("a cat", **CALL).images, expected(bundle))
    assert NATIVE_GRAPH in workplace.trt.refitted
    assert len(workplace.trt.refitted) == 5


def test_bfloat16_stays_on_the_device(workplace: Workplace, tmp_path: Path) -> None:
    """Nothing in NumPy holds it; its taps go from graph to graph."""
    half = Bundle.open(write_bundle(tmp_path / "bf16", dtype="bf16"))
    backend = workplace.backend(TensorrtBackend, BuildSettings())
    runner = backend.load(half, NATIVE_GRAPH)
    spec = next(s for s in half.manifest.graphs[NATIVE_GRAPH].outputs if s.dtype == "bfloat16")
    assert backend.zeros((2, 64, 4), "bfloat16").dtype == spec.dtype
    runner.close()
    backend.close()


def test_what_the_library_says_is_in_the_error(workplace: Workplace, bundle: Bundle) -> None:
    backend = workplace.backend(TensorrtBackend, BuildSettings())
    workplace.trt.refuse_plans = True
    told = r"engine of unet/native.onnx cannot be loaded.*another version'.*delete .*native.*plan"
    native = backend.load(bundle, NATIVE_GRAPH)
    with pytest.raises(BackendError, match=told):
        native.prepare({"B": 1})
    workplace.trt.refuse_plans, workplace.trt.rename_output = False, True
    with pytest.raises(BackendError, match="native.onnx: an output is not what the manifest says"):
        native.prepare({"B": 1})
    workplace.trt.rename_output, workplace.trt.fail_runs = False, True
    with (
        FamPipeline(bundle, backend) as pipe,
        pytest.raises(BackendError, match="TensorRT: the engine of .* failed.*illegal memory"),
    ):
        pipe("a cat", **CALL)


@pytest.mark.parametrize(
    ("refuse", "settings", "told"),
    [
        ("shapes", BuildSettings(batch=BatchRange(1, 1, 2)), r"refuses the shape \(.*\) of "),
        ("addresses", BuildSettings(), "refuses the memory of latent"),
        ("weights", BuildSettings(strip_weights=True), "cannot be filled with weights.*conv_in.w"),
        ("contexts", BuildSettings(), "has no memory to run.*use a smaller target"),
    ],
)
def test_each_refusal_is_an_error(
    workplace: Workplace, bundle: Bundle, refuse: str, settings: BuildSettings, told: str
) -> None:
    backend = workplace.backend(TensorrtBackend, settings)
    workplace.trt.refuse = refuse
    with FamPipeline(bundle, backend), pytest.raises(BackendError, match=told):
        runner = backend.load(bundle, NATIVE_GRAPH)
        feeds = {
            spec.name: backend.zeros(shape_from_symbols(spec.shape, {"B": 1}), spec.dtype)
            for spec in bundle.manifest.graphs[NATIVE_GRAPH].inputs
        }
        runner.run(feeds)


def test_what_is_prepared_by_an_export_is_all_that_runs_need(
    workplace: Workplace, bundle: Bundle
) -> None:
    for batch in (BatchRange(), BatchRange(2, 2, 2), BatchRange(1, 2, 3)):
        settings = BuildSettings(batch=batch)
        backend = workplace.backend(TensorrtRtxBackend, settings)
        engines = Engines(
            TensorrtLibrary("tensorrt-rtx", workplace.trt, "10.9.0"),
            Gpu("sm89"),
            settings,
            EngineCache(workplace.cache),
        )
        for wanted in engines_of_targets(bundle, bundle.manifest.targets[:1], settings):
            engines.plan(bundle, wanted)
        count = batch.optimum
        with FamPipeline(bundle, backend) as pipe:
            pipe("a cat", **CALL, num_images_per_prompt=count, pictures_per_batch=count)
        assert not workplace.progress.built


def test_a_full_disk_at_the_end_costs_no_picture_and_no_memory(
    workplace: Workplace, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("no space left on the disk")

    backend = workplace.backend(TensorrtRtxBackend, BuildSettings())
    with pytest.warns(EngineCacheNotKept, match="no space left"), FamPipeline(bundle, backend) as p:
        p("a cat", **CALL)
        monkeypatch.setattr(VerifiedStore, "write", full)
    workplace.api.assert_empty()


def test_scratch_that_is_lost_is_not_used(workplace: Workplace, bundle: Bundle) -> None:
    """It is freed to grow; when neither the larger nor the old one can be had, nothing runs."""
    backend = workplace.backend(TensorrtBackend, BuildSettings())
    runner = backend.load(bundle, bundle.manifest.text_encoders[0].graph)
    feeds = {"input_ids": np.zeros((1, 77), np.int64)}
    runner.run(feeds)
    workplace.api.total_bytes = 0
    with pytest.raises(BackendError, match="out of memory"):
        backend.load(bundle, NATIVE_GRAPH).prepare({"B": 1})
    workplace.api.total_bytes = 1 << 30
    with pytest.raises(BackendError, match="lost their scratch memory"):
        runner.run(feeds)
    runner.close()
    backend.close()


def test_a_picture_says_what_made_it(pipe: FamPipeline) -> None:
    described = pipe.backend.describe()
    assert described["gpu"] == "a device that is none (sm89)"
    assert described[pipe.backend.name] == "10.9.0"
