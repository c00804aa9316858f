"""An engine is built once, again when anything it depends on is another, and says why."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.build_cost import BuildCost, check_build_resources
from fam_runtime.backends.tensorrt.cache import (
    CachedPlan,
    EngineCache,
    EngineCacheNotKept,
    default_cache_dir,
    slug,
)
from fam_runtime.backends.tensorrt.engine_key import (
    EngineKey,
    builder_flags,
    differences,
    key_from_dict,
)
from fam_runtime.backends.tensorrt.engines import (
    Engines,
    WantedEngine,
    engines_of_targets,
    ranges_of,
)
from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.errors import BackendError, StorageError
from tests.runtime.fake_bundle import refresh_manifest, write_bundle
from tests.runtime.tensorrt.conftest import RecordedProgress


def native(bundle: Bundle, settings: BuildSettings | None = None) -> WantedEngine:
    settings = BuildSettings() if settings is None else settings
    sizes = {"B": settings.batch.optimum}
    return WantedEngine(NATIVE_GRAPH, ranges_of(NATIVE_GRAPH, sizes, settings))


def plan_file(engines: Engines, plan: CachedPlan) -> Path:
    return engines.cache.store.root / plan.name


def test_a_second_request_takes_it_from_the_cache(
    engines: Engines, bundle: Bundle, progress: RecordedProgress
) -> None:
    first = engines.plan(bundle, native(bundle))
    second = engines.plan(bundle, native(bundle))
    assert progress.built == ["unet/native.onnx sm89"]
    assert progress.reasons == [""]
    assert progress.taken == ["unet/native.onnx sm89"]
    assert bytes(first.data) == bytes(second.data)
    assert second.seconds == first.seconds > 0


def another_graph_byte(engines: Engines, bundle: Bundle) -> tuple[Engines, Bundle]:
    file = bundle.root / NATIVE_GRAPH
    model = onnx.load(file)
    model.producer_version = "another"
    onnx.save(model, file)
    refresh_manifest(bundle.root)
    return engines, Bundle.open(bundle.root)


def another_dtype(engines: Engines, bundle: Bundle) -> tuple[Engines, Bundle]:
    return engines, Bundle.open(write_bundle(bundle.root.with_name("half"), dtype="fp16"))


def another_version(engines: Engines, bundle: Bundle) -> tuple[Engines, Bundle]:
    return replace(engines, library=replace(engines.library, version="9.9.9")), bundle


def another_architecture(engines: Engines, bundle: Bundle) -> tuple[Engines, Bundle]:
    return replace(engines, gpu=Gpu("sm86")), bundle


def another_workspace(engines: Engines, bundle: Bundle) -> tuple[Engines, Bundle]:
    return replace(engines, settings=BuildSettings(workspace_bytes=1 << 30)), bundle


def another_flag(engines: Engines, bundle: Bundle) -> tuple[Engines, Bundle]:
    return replace(engines, settings=BuildSettings(tf32=True)), bundle


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (another_graph_byte, "the graph has changed since: building another"),
        (another_dtype, "the graph has changed since"),
        (another_version, r"built with version 1\.[\d.]+ of the library, and this is 9.9.9: bui"),
        (another_architecture, "it was built for sm89, and this is sm86: building another"),
        (another_workspace, "with a workspace of the default, and 1073741824 was asked for"),
        (another_flag, "with the flags REQUIRE_USER_ALLOCATION, and .* TF32 were asked for"),
    ],
)
def test_a_change_of_what_it_depends_on_builds_another(
    engines: Engines,
    bundle: Bundle,
    progress: RecordedProgress,
    change: Callable[[Engines, Bundle], tuple[Engines, Bundle]],
    reason: str,
) -> None:
    old = engines.plan(bundle, native(bundle))
    changed_engines, changed = change(engines, bundle)
    new = changed_engines.plan(changed, native(changed))
    assert new.name != old.name
    assert len(progress.built) == 2
    assert re.search(f"There is an engine of unet/native.onnx, but .*{reason}", progress.reasons[1])
    assert plan_file(engines, old).exists(), "another user of the cache may need it"


def test_another_size_builds_another(
    engines: Engines, bundle: Bundle, progress: RecordedProgress
) -> None:
    decoder = bundle.manifest.vae.decoder
    for width in (16, 32):
        sizes = {"B": 1, "h": 16, "w": width}
        engines.plan(bundle, WantedEngine(decoder, ranges_of(decoder, sizes, BuildSettings())))
    assert "built for B = 1; h = 16; w = 16, and B = 1; h = 16; w = 32 was" in progress.reasons[1]
    batches = BuildSettings(batch=BatchRange(1, 2, 4))
    engines.plan(bundle, native(bundle))
    replace(engines, settings=batches).plan(bundle, native(bundle, batches))
    assert "for B = 1, and B = 1 to 4 (best at 2) was asked for" in progress.reasons[3]


def test_adding_a_target_keeps_the_engines(
    engines: Engines, bundle: Bundle, progress: RecordedProgress
) -> None:
    """The key holds what the engine depends on; the hash of the whole bundle is not of it."""
    engines.plan(bundle, native(bundle))
    (bundle.root / "another_file").write_bytes(b"of a new target")
    refresh_manifest(bundle.root)
    other = Bundle.open(bundle.root)
    assert other.hash != bundle.hash
    engines.plan(other, native(other))
    assert len(progress.built) == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:1000], "has 1000 bytes, and [0-9]+ were written"),
        (lambda data: b"x" + data[1:], "was altered after it was written"),
    ],
)
def test_a_damaged_plan_is_refused_and_built_again(
    engines: Engines,
    bundle: Bundle,
    progress: RecordedProgress,
    damage: Callable[[bytes], bytes],
    reason: str,
) -> None:
    plan = engines.plan(bundle, native(bundle))
    good, file = bytes(plan.data), plan_file(engines, plan)
    file.write_bytes(damage(good))
    again = engines.plan(bundle, native(bundle))
    assert re.fullmatch(
        f"The engine of unet/native.onnx is refused and built again: .*{reason}.",
        progress.reasons[1],
    )
    assert again.name == plan.name
    assert bytes(again.data) == file.read_bytes() != damage(good)


def test_a_plan_under_the_name_of_another_is_refused(
    engines: Engines, bundle: Bundle, progress: RecordedProgress
) -> None:
    plan = engines.plan(bundle, native(bundle))
    others = replace(engines, gpu=Gpu("sm86")).plan(bundle, native(bundle))
    for suffix in ("", ".json"):
        source = plan_file(engines, others)
        target = plan_file(engines, plan)
        target.with_name(target.name + suffix).write_bytes(
            source.with_name(source.name + suffix).read_bytes()
        )
    engines.plan(bundle, native(bundle))
    assert progress.reasons[2].endswith("its record is of another.")


def test_every_field_of_the_key_counts_and_is_told_in_words() -> None:
    key = EngineKey(
        "tensorrt-rtx", "1", "sm89", "", "linux", "a", "b", "B = 1", "fp16", (), None, None
    )
    for field in dataclasses.fields(EngineKey):
        value = {"flags": ("TF32",)}.get(field.name, "x" if field.type == "str" else 77)
        other = replace(key, **{field.name: value})
        assert other.digest != key.digest, field.name
        assert len(differences(key, other)) == 1, field.name
    assert key_from_dict(key.as_dict()) == key
    for broken in ({"unknown": 1}, {"flags": "TF32"}, {"flags": [{}]}, {"version": []}):
        assert key_from_dict({**key.as_dict(), **broken}) is None
    assert key_from_dict(None) is key_from_dict([{}]) is None


@pytest.mark.parametrize(
    ("name", "dtype", "settings", "flags"),
    [
        ("tensorrt", "fp32", BuildSettings(), ()),
        ("tensorrt", "fp16", BuildSettings(), ("TF32",)),
        ("tensorrt", "fp32", BuildSettings(strip_weights=True), ("REFIT_IDENTICAL", "STRIP_PLAN")),
        ("tensorrt-rtx", "fp32", BuildSettings(), ("REQUIRE_USER_ALLOCATION",)),
        (
            "tensorrt-rtx",
            "fp16",
            BuildSettings(tf32=False, strip_weights=True),
            ("REFIT", "REQUIRE_USER_ALLOCATION", "STRIP_PLAN"),
        ),
    ],
)
def test_flags_are_those_of_the_library(
    engines: Engines, tmp_path: Path, name: Any, dtype: str, settings: BuildSettings, flags: Any
) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / dtype, dtype=dtype))
    assert builder_flags(replace(engines.library, name=name), settings, bundle) == flags


def test_engines_of_targets_are_those_a_picture_needs(bundle: Bundle) -> None:
    targets = bundle.manifest.targets
    graphs = [w.graph for w in engines_of_targets(bundle, targets[:1], BuildSettings())]
    assert graphs == [
        "text_encoder/model.onnx",
        "unet/native.onnx",
        "unet/upsample-128x128.onnx",
        "unet/target-128x128.onnx",
        "vae_decoder/model.onnx",
    ]
    wanted = engines_of_targets(bundle, targets, BuildSettings())
    tiles = {(w.ranges["h"].optimum, w.ranges["w"].optimum) for w in wanted if "h" in w.ranges}
    assert tiles == {(16, 16), (16, 32)}


@pytest.mark.parametrize("seconds", ["x", None, [], float("nan"), -1.0])
def test_hostile_seconds_are_none(engines: Engines, bundle: Bundle, seconds: object) -> None:
    wanted = native(bundle)
    plan, key = engines.plan(bundle, wanted), engines.key(bundle, wanted)
    record = plan_file(engines, plan)
    record = record.with_name(record.name + ".json")
    document = json.loads(record.read_text())
    document["details"]["seconds"] = seconds
    record.write_text(json.dumps(document))
    assert engines.plan(bundle, wanted).seconds == 0
    name = bundle.manifest.model.name
    assert engines.cache.seconds_of_earlier_build(name, NATIVE_GRAPH, key) is None


@pytest.mark.parametrize("batch", [BatchRange(), BatchRange(2, 2, 2), BatchRange(1, 1, 3)])
def test_what_is_prepared_is_what_runs_will_ask_for(bundle: Bundle, batch: BatchRange) -> None:
    """Text encoders and decoder run picture by picture, the UNet's graphs in batches."""
    settings = BuildSettings(batch=batch)
    for wanted in engines_of_targets(bundle, bundle.manifest.targets, settings):
        span = wanted.ranges["B"]
        if wanted.graph.startswith("unet/"):
            assert span == (batch.minimum, batch.optimum, batch.maximum)
        else:
            assert span == (1, 1, 1)


def test_what_only_saves_time_may_fail_to_be_kept(
    engines: Engines, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("no space left on the disk")

    monkeypatch.setattr(engines.cache.store, "write", full)
    with pytest.warns(EngineCacheNotKept, match="timing.cache was not kept: no space left"):
        engines.cache.keep_timing_cache(engines.key(bundle, native(bundle)), b"times")
    with pytest.warns(EngineCacheNotKept, match="kernels was not kept"):
        engines.cache.keep_kernels("a/b.plan", b"kernels")


def test_timing_and_kernel_caches_only_save_time(
    engines: Engines, bundle: Bundle, tmp_path: Path
) -> None:
    cache, key = engines.cache, engines.key(bundle, native(bundle))
    assert cache.timing_cache(key) == b""
    cache.keep_timing_cache(key, b"times")
    assert cache.timing_cache(key) == b"times"
    assert cache.timing_cache(replace(key, version="2")) == b""
    cache.keep_kernels("a/b.plan", b"kernels")
    assert cache.kernels("a/b.plan") == b"kernels"
    (cache.store.root / "a/b.plan.kernels").write_bytes(b"altered")
    assert cache.kernels("a/b.plan") == b""


def test_where_engines_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FAM_CACHE_DIR", raising=False)
    assert default_cache_dir() == tmp_path / "fam-diffusion" / "engines"
    monkeypatch.setenv("FAM_CACHE_DIR", str(tmp_path / "mine"))
    assert EngineCache().store.root == tmp_path / "mine"


@pytest.mark.parametrize(
    ("text", "name"),
    [("../../etc", "etc"), ("A b/c", "a-b-c"), ("…", "unnamed"), ("x" * 99, "x" * 64)],
)
def test_names_of_models_cannot_leave_the_cache(text: str, name: str) -> None:
    assert slug(text) == name


def test_too_little_memory_or_disk_is_said_before(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"too little memory to build.*about 1000000000.0 GB"):
        check_build_resources("unet/native.onnx", BuildCost(1, 10**18, 0), tmp_path)
    with pytest.raises(StorageError, match=r"too little disk for the engine.*--cache-dir"):
        check_build_resources("unet/native.onnx", BuildCost(1, 0, 10**18), tmp_path / "new")
    check_build_resources("unet/native.onnx", BuildCost(1, 1, 1), tmp_path / "new")
