"""Building: what the network must be, how it is told and stopped, and what failures say."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from fam_runtime.backends.tensorrt import build as build_module
from fam_runtime.backends.tensorrt.build import BuildRequest, build_plan
from fam_runtime.backends.tensorrt.engines import Engines, WantedEngine, ranges_of
from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.backends.tensorrt.messages import Messages
from fam_runtime.backends.tensorrt.monitor import BuildProgress
from fam_runtime.backends.tensorrt.network import Network, network_from_onnx
from fam_runtime.backends.tensorrt.progress import EngineBars
from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings
from fam_runtime.backends.tensorrt.shapes import SymbolRange, exactly, input_shapes
from fam_runtime.bundle import NATIVE_GRAPH, Bundle, TensorSpec
from fam_runtime.errors import BackendError, Cancelled
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.tensorrt.conftest import RecordedProgress


@pytest.fixture
def request_native(rtx: TensorrtLibrary, bundle: Bundle) -> BuildRequest:
    spec = bundle.manifest.graphs[NATIVE_GRAPH]
    path = bundle.path(NATIVE_GRAPH)
    return BuildRequest(rtx, "sm89", NATIVE_GRAPH, path, spec, exactly({"B": 1}), ())


@pytest.fixture(autouse=True)
def ctrl_c_as_in_a_terminal() -> Iterator[None]:
    """A shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_build_is_stopped_by_ctrl_c(request_native: BuildRequest) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Cancelled, match="the engine of unet/native.onnx was stopped"):
        build_plan(request_native, on_progress=lambda phase, share: press_ctrl_c())
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_parsing_is_not_lost(
    request_native: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser calls the logger, from C++, where a KeyboardInterrupt would be dropped."""

    def parse(*arguments: Any) -> Network:
        press_ctrl_c()
        return network_from_onnx(*arguments)

    monkeypatch.setattr(build_module, "network_from_onnx", parse)
    told: list[str] = []
    with pytest.raises(Cancelled):
        build_plan(request_native, on_progress=lambda phase, share: told.append(phase))
    assert not told, "it is stopped before the build"


def test_an_ignored_ctrl_c_stays_ignored(request_native: BuildRequest) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        plan = build_plan(request_native, on_progress=lambda phase, share: press_ctrl_c())
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(memoryview(plan.data))


def test_an_error_of_the_display_is_its_own(request_native: BuildRequest) -> None:
    def closed(phase: str, share: float | None) -> None:
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        build_plan(request_native, on_progress=closed)


class FakeTimingCache:
    """Of TensorRT, which has one; TensorRT for RTX asks for a GPU as soon as it is given one."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"+"


class FakeConfig:
    def __init__(self) -> None:
        self.cache: FakeTimingCache | None = None
        self.progress_monitor: object = None

    def create_timing_cache(self, data: bytes) -> FakeTimingCache:
        return FakeTimingCache(data)

    def set_timing_cache(self, cache: FakeTimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.data == b"of another GPU":
            return False
        self.cache = cache
        return True


@pytest.mark.parametrize(
    ("given", "kept"), [(b"", b"+"), (b"times", b"times+"), (b"of another GPU", b"+")]
)
def test_a_timing_cache_is_kept_or_begun_anew(
    request_native: BuildRequest, monkeypatch: pytest.MonkeyPatch, given: bytes, kept: bytes
) -> None:
    config = FakeConfig()
    monkeypatch.setattr(build_module, "_configuration", lambda request, network: config)
    builder = SimpleNamespace(build_serialized_network=lambda network, config: b"a plan")
    network = Network(builder, None, None, {})
    monkeypatch.setattr(build_module, "network_from_onnx", lambda *_: network)
    library = replace(request_native.library, name="tensorrt")
    built = build_plan(replace(request_native, library=library), timing_cache=given)
    assert built.timing_cache == kept
    assert config.cache is not None


def test_a_stopped_build_leaves_nothing_in_the_cache(
    engines: Engines, bundle: Bundle, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = WantedEngine(NATIVE_GRAPH, ranges_of(NATIVE_GRAPH, {"B": 1}, engines.settings))
    update = progress.update
    monkeypatch.setattr(progress, "update", lambda phase, share: press_ctrl_c())
    with pytest.raises(Cancelled):
        engines.plan(bundle, wanted)
    assert progress.finished == [False]
    left = [path.name for path in engines.cache.store.root.rglob("*") if path.is_file()]
    assert all(name.endswith(".lock") for name in left), left
    monkeypatch.setattr(progress, "update", update)
    assert len(engines.plan(bundle, wanted).data) > 0


def test_progress_is_told_and_never_falls(request_native: BuildRequest) -> None:
    told: list[tuple[str, float | None]] = []
    build_plan(request_native, on_progress=lambda phase, share: told.append((phase, share)))
    shares = [share for _, share in told if share is not None]
    assert len({phase for phase, _ in told}) > 5
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def test_nested_phases_make_one_share() -> None:
    progress = BuildProgress()
    progress.start("build", 4)
    progress.step("build", 0)
    assert progress.share == 0.25
    progress.start("timing", 10)
    progress.step("timing", 4)
    assert progress.share == 0.25 + 0.25 * 0.5
    progress.finish("timing")
    assert progress.share == 0.375, "never falls"
    for step in range(4):
        progress.step("build", step)
    assert progress.share == 1


def test_the_bar_tells_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    bars = EngineBars(say_reused=True)
    bars.begin("unet/native.onnx sm89", "There is an engine, but.", 41.0)
    bars.end(built=True)
    bars.begin("unet/target.onnx sm89", "", 41.0)
    bars.end(built=False)
    bars.reused("unet/native.onnx sm89")
    shown = capsys.readouterr().err
    assert "There is an engine, but." in shown
    assert "parsing, about 41 s left" in shown
    assert "|████████████████████|, 0.0 s" in shown
    assert "|                    |, stopped after 0.0 s" in shown
    assert "unet/native.onnx sm89: in the cache" in shown


def test_a_graph_that_is_not_the_manifests_is_refused(rtx: TensorrtLibrary, bundle: Bundle) -> None:
    spec = bundle.manifest.graphs[NATIVE_GRAPH]
    first, *rest = spec.inputs
    path, messages = bundle.path(NATIVE_GRAPH), Messages(rtx)
    for wrong, told in (
        (TensorSpec("latent", "float16", first.shape), "'latent', 'float32'.*'latent', 'float16'"),
        (TensorSpec("latents", "float32", first.shape), "expected .'latents'"),
        (TensorSpec("latent", "float32", (*first.shape[:3], 9)), "expected .*9"),
    ):
        other = replace(spec, inputs=(wrong, *rest))
        with pytest.raises(BackendError, match=f"native.onnx: an input is not what .*{told}"):
            network_from_onnx(rtx, path, other, exactly({"B": 1}), messages)
    fewer = replace(spec, outputs=spec.outputs[:-1])
    with pytest.raises(BackendError, match="an output is not what.*got '4 of them'.*expected 3"):
        network_from_onnx(rtx, path, fewer, exactly({"B": 1}), messages)


def test_a_graph_with_an_unknown_operator_is_refused(
    request_native: BuildRequest, tmp_path: Path
) -> None:
    model = onnx.load(request_native.path)
    model.graph.node[0].op_type = "NoSuchOperator"
    file = tmp_path / "broken.onnx"
    onnx.save(model, file)
    with pytest.raises(BackendError, match=r"cannot parse broken.onnx.*NoSuchOperator"):
        build_plan(replace(request_native, path=file))


def test_static_shapes_need_no_profile_and_ranges_have_one(request_native: BuildRequest) -> None:
    def network(ranges: dict[str, SymbolRange]) -> Any:
        parts = request_native
        return network_from_onnx(
            parts.library, parts.path, parts.spec, ranges, Messages(parts.library)
        )

    static = network(exactly({"B": 2}))
    assert not static.dynamic
    assert tuple(static.definition.get_input(0).shape) == (2, 4, 8, 8)
    assert tuple(static.definition.get_output(0).shape) == (2, 4, 8, 8)
    dynamic = network({"B": SymbolRange(1, 2, 4)})
    assert dynamic.dynamic
    assert tuple(dynamic.definition.get_input(0).shape) == (-1, 4, 8, 8)
    embeds = next(s for s in request_native.spec.inputs if s.name == "prompt_embeds")
    shapes = input_shapes([embeds], {"B": SymbolRange(1, 2, 4)})["prompt_embeds"]
    assert [shape[0] for shape in shapes] == [2, 4, 8]


def test_an_engine_for_a_range_of_batches_builds(engines: Engines, bundle: Bundle) -> None:
    settings = BuildSettings(batch=BatchRange(1, 1, 2))
    ranged = replace(engines, settings=settings)
    wanted = WantedEngine(NATIVE_GRAPH, ranges_of(NATIVE_GRAPH, {"B": 1}, settings))
    assert len(ranged.plan(bundle, wanted).data) > 0


def test_a_flag_that_the_library_has_not_is_named(request_native: BuildRequest) -> None:
    with pytest.raises(BackendError, match="has no builder flag FP16"):
        build_plan(replace(request_native, flags=("FP16",)))


def test_bfloat16_bundles_build(engines: Engines, tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bf16", dtype="bf16"))
    wanted = WantedEngine(NATIVE_GRAPH, ranges_of(NATIVE_GRAPH, {"B": 1}, engines.settings))
    assert len(engines.plan(bundle, wanted).data) > 0
