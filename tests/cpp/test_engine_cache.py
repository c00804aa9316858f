"""The C++ runtime takes an engine from the cache where Python would, and from nowhere else."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import shlex
from collections.abc import Callable
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
from fam_runtime.backends.tensorrt.verified_store import Damaged, VerifiedStore
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.cli.generate import parser as generate_parser
from fam_runtime.errors import FamError
from tests.cpp.conftest import built
from tests.cpp.probe import CppError, Probe
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.tensorrt.test_verified_store import (
    alter,
    empty,
    link,
    open_to_others,
    truncate,
)

NAME = "a/file.plan"
CONTENT = bytes(range(256)) * 40
DETAILS = {"of": "a test", "gpu": "…", "numbers": [1, 0.5, None], "empty": {}, "none": []}

KEY = EngineKey(
    "tensorrt-rtx", "1.7", "sm89", "", "linux-x86_64", "a", "b", "B = 1", "fp16", (), None, None
)


@pytest.fixture
def store(tmp_path: Path) -> VerifiedStore:
    store = VerifiedStore(tmp_path / "store")
    store.write(NAME, CONTENT, DETAILS)
    return store


def read(probe: Probe, store: VerifiedStore, name: str = NAME) -> tuple[bytes, Any] | str:
    """Content and details, or what is wrong; empty: there is no such file."""
    to = store.root.parent / "read by the probe"
    got = probe.ask("tensorrt.store_read", root=str(store.root), name=name, to=str(to))
    return got["damage"] if "damage" in got else (to.read_bytes(), got["details"])


def test_each_runtime_reads_what_the_other_wrote(probe: Probe, store: VerifiedStore) -> None:
    assert read(probe, store) == (CONTENT, DETAILS)
    source = store.root.parent / "source"
    source.write_bytes(CONTENT)
    there = probe.ask(
        "tensorrt.store_write",
        root=str(store.root),
        name="a/other.plan",
        details=DETAILS,
        **{"from": str(source)},
    )
    assert there == str(store.root / "a/other.plan")
    found = store.read("a/other.plan")
    assert found is not None
    assert (bytes(found.data), found.details) == (CONTENT, DETAILS)
    records = [store.root / f"a/{name}.plan.json" for name in ("file", "other")]
    assert records[0].read_bytes() == records[1].read_bytes()
    assert read(probe, store, "a/nothing.plan") == ""
    assert read(probe, VerifiedStore(store.root / "nowhere")) == ""


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_everything_is_for_its_user_only(tmp_path: Path, mask: int) -> None:
    """Whatever the umask: on many systems a user's group may write."""
    source, root = tmp_path / "source", tmp_path / "new" / "store"
    source.write_bytes(CONTENT)
    before = os.umask(mask)
    try:
        with Probe(built("fam_probe")) as probe:
            probe.ask(
                "tensorrt.store_write",
                root=str(root),
                name="a/b/file.plan",
                details={},
                **{"from": str(source)},
            )
    finally:
        os.umask(before)
    modes = [path.stat().st_mode for path in (root, *root.rglob("*"))]
    assert len(modes) == 5
    assert not any(mode & 0o077 for mode in modes)
    assert VerifiedStore(root).read("a/b/file.plan") is not None


def link_record(file: Path) -> None:
    link(file.with_name(file.name + ".json"))


def open_record(file: Path) -> None:
    open_to_others(file.with_name(file.name + ".json"))


def spoil_record(text: str) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        file.with_name(file.name + ".json").write_text(text)

    return spoil


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        alter,
        empty,
        open_to_others,
        link,
        link_record,
        open_record,
        spoil_record('{"bytes": 1, "details": {}}'),
        spoil_record('{"bytes": true, "details": {}, "sha256": ""}'),
        spoil_record('{"bytes": 1.0, "details": {}, "sha256": ""}'),
        spoil_record('{"bytes": 1, "details": [], "sha256": ""}'),
        spoil_record('{"bytes": 1, "details": {}, "sha256": 1}'),
        spoil_record("3"),
        spoil_record(" " * (1 << 20) + "3"),
    ],
)
def test_damage_is_told_in_the_same_words(
    probe: Probe, store: VerifiedStore, damage: Callable[[Path], None]
) -> None:
    damage(store.root / NAME)
    with pytest.raises(Damaged) as python:
        store.read(NAME)
    assert read(probe, store) == str(python.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 500_000, '{"a":' * 100_000, "\xff", '{"bytes": NaN, "details": {}}']
)
def test_a_record_that_is_no_json_is_refused(probe: Probe, store: VerifiedStore, text: str) -> None:
    """The words of the parsers differ."""
    (store.root / f"{NAME}.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Damaged, match=r"file.plan.json cannot be read \("):
        store.read(NAME)
    got = read(probe, store)
    assert isinstance(got, str)
    assert got.startswith("file.plan.json cannot be read (it is no ")


def same_error(probe: Probe, command: str, python: Callable[[], object], **inputs: object) -> str:
    """The error that both raise."""
    with pytest.raises(FamError) as expected:
        python()
    with pytest.raises(CppError) as got:
        probe.ask(command, **inputs)
    assert (got.value.kind, got.value.text) == (
        type(expected.value).__name__,
        str(expected.value),
    )
    return got.value.text


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702, 0o4707, 0o2770, 0o1777, 0o3022])
@pytest.mark.parametrize("folder", ["", "a", "a/b"])
def test_a_folder_that_others_may_write_is_refused(
    probe: Probe, tmp_path: Path, folder: str, mode: int
) -> None:
    store = VerifiedStore(tmp_path / "store")
    store.write("a/b/file.plan", b"x", {})
    source = tmp_path / "source"
    source.write_bytes(b"")
    (store.root / folder).chmod(mode)
    read_it = {"root": str(store.root), "name": "a/b/file.plan", "to": str(tmp_path / "to")}
    text = same_error(probe, "tensorrt.store_read", lambda: store.read("a/b/file.plan"), **read_it)
    assert "is not safe" in text
    write_it = {**read_it, "from": str(source), "details": {}}
    same_error(
        probe, "tensorrt.store_write", lambda: store.write("a/b/file.plan", b"", {}), **write_it
    )


def test_a_link_below_the_root_is_refused_and_the_root_may_be_one(
    probe: Probe, store: VerifiedStore, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(store.root)
    assert read(probe, VerifiedStore(tmp_path / "link")) == (CONTENT, DETAILS)
    (store.root / "a").rename(tmp_path / "elsewhere")
    (store.root / "a").symlink_to(tmp_path / "elsewhere")
    same_error(
        probe,
        "tensorrt.store_read",
        lambda: store.read(NAME),
        root=str(store.root),
        name=NAME,
        to=str(tmp_path / "to"),
    )


def test_a_place_that_is_no_folder_is_refused(probe: Probe, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    same_error(
        probe,
        "tensorrt.store_write",
        lambda: VerifiedStore(file).write(NAME, b"", {}),
        root=str(file),
        name=NAME,
        details={},
        **{"from": str(file)},
    )


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_read_or_waited_for(
    probe: Probe, store: VerifiedStore, make: Callable[[Path, int], None]
) -> None:
    (store.root / NAME).unlink()
    make(store.root / NAME, 0o700)
    assert read(probe, store) == "file.plan has 0 bytes, and 10240 were written"


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
