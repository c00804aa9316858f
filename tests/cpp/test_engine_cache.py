"""The C++ runtime takes an engine from the cache where Python would, and from nowhere else."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.cache import CachedPlan, EngineCache
from fam_runtime.backends.tensorrt.engine_key import EngineKey, engine_key
from fam_runtime.backends.tensorrt.engines import ranges_of
from fam_runtime.backends.tensorrt.library import LibraryName, TensorrtLibrary
from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.cli.generate import parser as generate_parser
from tests.cpp.probe import CppError, Probe
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.tensorrt.test_verified_store import alter

CONTENT = bytes(range(256)) * 40

KEY = EngineKey(
    "tensorrt-rtx", "1.7", "sm89", "", "linux-x86_64", "a", "b", "B = 1", "fp16", (), None, None
)


def found(probe: Probe, cache: EngineCache, key: EngineKey, **names: str) -> dict[str, Any]:
    names = {"model": "demo", "graph": NATIVE_GRAPH, **names}
    answer: dict[str, Any] = probe.ask(
        "tensorrt.find", root=str(cache.store.root), key=key.as_dict(), **names
    )
    return answer


def without_building(reason: str) -> str:
    """What Python says, without what it does about it."""
    return reason.replace(" and built again:", ":").replace(": building another.", ".")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    cache = EngineCache(tmp_path / "cache")
    cache.keep("demo", NATIVE_GRAPH, KEY, CONTENT, 1.0)
    return cache


def test_a_plan_is_found_by_its_key(probe: Probe, cache: EngineCache) -> None:
    plan = cache.find("demo", NATIVE_GRAPH, KEY)
    assert isinstance(plan, CachedPlan)
    assert found(probe, cache, KEY) == {"name": plan.name, "ranges": {"B": [1, 1, 1]}}
    for names in ({"model": "another"}, {"graph": "unet/another.onnx"}):
        assert found(probe, cache, KEY, **names) == {"why": ""}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EngineKey)])
def test_why_there_is_none_is_said_in_the_same_words(
    probe: Probe, cache: EngineCache, field: str
) -> None:
    values: dict[str, Any] = {"flags": ("TF32",), "revision": 7, "shapes": "B = 2"}
    number = field in ("workspace_bytes", "optimization_level")
    key = replace(KEY, **{field: values.get(field, 77 if number else "x")})
    reason = cache.find("demo", NATIVE_GRAPH, key)
    assert isinstance(reason, str)
    assert reason
    assert found(probe, cache, key) == {"why": without_building(reason)}
    # Of several the nearest is named, in whatever folder it is.
    other = replace(key, version="2", gpu="g", dtype="fp32")
    cache.keep("demo", NATIVE_GRAPH, other, b"", 1.0)
    cache.keep("demo", NATIVE_GRAPH, replace(KEY, version="0", shapes="h = 3"), b"", 1.0)
    for wanted in (key, replace(KEY, library="y"), replace(other, revision=5)):
        reason = cache.find("demo", NATIVE_GRAPH, wanted)
        if isinstance(reason, str):
            assert found(probe, cache, wanted) == {"why": without_building(reason)}


def test_a_plan_under_the_name_of_another_is_refused(probe: Probe, cache: EngineCache) -> None:
    other = replace(KEY, graph_sha256="c")
    cache.keep("demo", NATIVE_GRAPH, other, b"other", 1.0)
    names = [cache.plan_name("demo", NATIVE_GRAPH, key) for key in (other, KEY)]
    for suffix in ("", ".json"):
        source, target = (cache.store.root / f"{name}{suffix}" for name in names)
        target.write_bytes(source.read_bytes())
    reason = cache.find("demo", NATIVE_GRAPH, KEY)
    assert isinstance(reason, str)
    assert found(probe, cache, KEY) == {"why": without_building(reason)}
    assert "its record is of another" in reason


def test_a_damaged_plan_is_refused(probe: Probe, cache: EngineCache) -> None:
    alter(cache.store.root / cache.plan_name("demo", NATIVE_GRAPH, KEY))
    reason = cache.find("demo", NATIVE_GRAPH, KEY)
    assert isinstance(reason, str)
    assert found(probe, cache, KEY) == {"why": without_building(reason)}


@pytest.mark.parametrize("key", [None, 3, {}, {"version": 1}, {**KEY.as_dict(), "shapes": 1}])
def test_a_record_with_another_key_is_not_taken(
    probe: Probe, cache: EngineCache, key: object
) -> None:
    path = cache.store.root / (cache.plan_name("demo", NATIVE_GRAPH, KEY) + ".json")
    record = json.loads(path.read_text())
    record["details"]["key"] = key
    path.write_text(json.dumps(record))
    reason = cache.find("demo", NATIVE_GRAPH, KEY)
    assert isinstance(reason, str)
    assert found(probe, cache, KEY) == {"why": without_building(reason)}


def for_sizes(probe: Probe, cache: EngineCache, key: EngineKey, **sizes: int) -> Any:
    return probe.ask(
        "tensorrt.find_for_sizes",
        root=str(cache.store.root),
        model="demo",
        graph=NATIVE_GRAPH,
        key=key.as_dict(),
        sizes=sizes,
    )


def test_the_narrowest_engine_that_holds_the_sizes_is_taken(
    probe: Probe, cache: EngineCache
) -> None:
    def keep(**changes: Any) -> str:
        key = replace(KEY, **changes)
        cache.keep("demo", NATIVE_GRAPH, key, CONTENT, 1.0)
        return cache.plan_name("demo", NATIVE_GRAPH, key)

    wide = keep(shapes="B = 1 to 8 (best at 2)")
    narrow = keep(shapes="B = 2 to 4 (best at 4)", workspace_bytes=1 << 30)
    near = keep(shapes="B = 2 to 4 (best at 3)", optimization_level=5)
    keep(shapes="B = 2", flags=("TF32",))
    keep(shapes="B = 2", version="1.8")
    keep(shapes="B = 2; h = 1")
    keep(shapes="no range")
    assert for_sizes(probe, cache, KEY, B=1) == cache.plan_name("demo", NATIVE_GRAPH, KEY)
    assert for_sizes(probe, cache, KEY, B=2) == near
    assert for_sizes(probe, cache, KEY, B=4) == narrow
    assert for_sizes(probe, cache, KEY, B=8) == wide
    assert for_sizes(probe, cache, KEY, B=9) is None
    assert for_sizes(probe, cache, KEY, B=1, h=1) is None
    # One that is damaged, or lies under the name of another, is passed over.
    alter(cache.store.root / near)
    assert for_sizes(probe, cache, KEY, B=3) == narrow
    for suffix in ("", ".json"):
        (cache.store.root / (narrow + suffix)).rename(
            cache.store.root / (narrow.replace("-native-", "-native-0") + suffix)
        )
    assert for_sizes(probe, cache, KEY, B=3) == wide


def test_kernels_only_save_time(probe: Probe, cache: EngineCache) -> None:
    name = cache.plan_name("demo", NATIVE_GRAPH, KEY)

    def kernels(**keep: str) -> Any:
        return probe.ask("tensorrt.kernels", root=str(cache.store.root), name=name, **keep)

    assert kernels() == ""
    assert kernels(keep="") == ""
    assert kernels(keep="kernels") == "kernels"
    assert cache.kernels(name) == b"kernels"
    before = (cache.store.root / f"{name}.kernels").stat()
    kernels(keep="kernels")
    assert (cache.store.root / f"{name}.kernels").stat() == before
    cache.keep_kernels(name, b"others")
    assert kernels() == "others"
    (cache.store.root / f"{name}.kernels").write_bytes(b"altered")
    assert kernels() == ""
    cache.store.root.chmod(0o777)
    with pytest.raises(CppError, match="is not safe"):
        kernels()


def prepare(probe: Probe, bundle: Bundle, cache: EngineCache, **inputs: Any) -> Any:
    inputs = {
        "library": "tensorrt-rtx",
        "version": [1, 7, 1, 116],
        "graph": NATIVE_GRAPH,
        "sizes": {"B": 1},
        **inputs,
    }
    return probe.ask(
        "tensorrt.prepare",
        bundle=str(bundle.root),
        root=str(cache.store.root),
        architecture="sm89",
        gpu="NVIDIA L4",
        **inputs,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("a user's") / "bundle"))


def command_in(text: str) -> list[str]:
    return shlex.split(text[text.index("fam-generate ") :])[1:]


def test_an_engine_that_is_not_there_is_an_error_with_the_command_that_builds_it(
    probe: Probe, bundle: Bundle, tmp_path: Path
) -> None:
    cache = EngineCache(tmp_path / "the cache")
    target, decoder = bundle.manifest.targets[1], bundle.manifest.vae.decoder
    for graph, sizes, size in (
        (NATIVE_GRAPH, {"B": 1}, None),
        (target.step, {"B": 4}, (target.size.height, target.size.width)),
        (decoder, {"B": 1, "h": 16, "w": 32}, (128, 256)),
        (decoder, {"B": 1, "h": 3, "w": 3}, None),
    ):
        with pytest.raises(CppError) as caught:
            prepare(probe, bundle, cache, graph=graph, sizes=sizes)
        assert caught.value.kind == "BackendError"
        text = caught.value.text
        shapes = "; ".join(f"{symbol} = {value}" for symbol, value in sizes.items())
        assert text.startswith(
            f"TensorRT for RTX: there is no engine of {graph} for {shapes} on CPU (sm89) | "
        ), text
        assert f"expected {cache.store.root}/tensorrt-rtx-1.7.1.116-sm89-" in text
        parsed = generate_parser().parse_args(command_in(text))
        assert Path(parsed.bundle) == bundle.root
        assert parsed.backend == "tensorrt-rtx"
        assert parsed.cache_dir == cache.store.root
        assert (None if parsed.size is None else tuple(parsed.size)) == size
        assert parsed.batch == (BatchRange(1, 4, 4) if sizes["B"] == 4 else None)
    assert not cache.store.root.exists(), "reading makes nothing"


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("version", ["10.7.0.23", "10.7.0", "10.6.0"])
def test_the_backend_finds_what_python_built(
    probe: Probe, bundle: Bundle, tmp_path: Path, name: LibraryName, version: str
) -> None:
    """A library that is given to refuse every plan says so of one that was found."""
    cache, settings = EngineCache(tmp_path / "cache"), BuildSettings()
    library = TensorrtLibrary(name, None, version)
    gpu = Gpu("sm89", "" if library.builds_ahead_of_time else "NVIDIA L4")
    ranges = ranges_of(NATIVE_GRAPH, {"B": 1}, settings)
    key = engine_key(bundle, NATIVE_GRAPH, ranges, library, gpu, settings)
    cache.keep(bundle.manifest.model.name, NATIVE_GRAPH, key, CONTENT, 1.0)
    with pytest.raises(CppError) as caught:
        prepare(probe, bundle, cache, library=name, version=[10, 7, 0, 23])
    if version == "10.6.0":
        assert "but it was built with version 10.6.0 of the library, and this is 10.7.0.23." in (
            caught.value.text
        )
    else:
        path = cache.store.root / cache.plan_name(bundle.manifest.model.name, NATIVE_GRAPH, key)
        assert caught.value.text.startswith(
            f"{library.title}: the engine of {NATIVE_GRAPH} cannot be loaded | got 'no plans here' "
            f"| expected a working engine | delete {path}, and build it again: fam-generate "
        )
    description = prepare(probe, bundle, cache, library=name, version=[10, 7, 0, 23], sizes={})
    assert [key for key, _ in description] == ["backend", name, "gpu", "tf32"]
    assert dict(description)["gpu"] == "CPU (sm89)"


def test_the_user_s_cache_is_in_the_home_folder(probe: Probe) -> None:
    home = pwd.getpwuid(os.geteuid()).pw_dir
    assert probe.ask("tensorrt.default_cache_dir") == f"{home}/.cache/fam-diffusion/engines"
