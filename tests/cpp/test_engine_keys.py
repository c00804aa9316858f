"""Engine keys of the C++ runtime are those of the Python runtime, which builds the engines."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.cache import EngineCache, slug
from fam_runtime.backends.tensorrt.engine_key import (
    EngineKey,
    differences,
    engine_key,
    key_from_dict,
)
from fam_runtime.backends.tensorrt.engines import ranges_of
from fam_runtime.backends.tensorrt.library import LibraryName, TensorrtLibrary, _checked
from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings
from fam_runtime.backends.tensorrt.shapes import SymbolRange, describe_ranges
from fam_runtime.bundle import Bundle
from fam_runtime.errors import BackendError
from tests.cpp.probe import CppError, Probe
from tests.runtime import heavy_bundle
from tests.runtime.fake_bundle import write_bundle

TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["{new}", "{old}"])
NUMBER = st.none() | st.integers(-(2**63), 2**63 - 1)
KEYS = st.builds(
    EngineKey,
    *([TEXT] * 9),
    st.lists(TEXT, max_size=3).map(tuple),
    NUMBER,
    NUMBER,
    st.integers(-(2**63), 2**63 - 1),
)

SETTINGS = (
    BuildSettings(),
    BuildSettings(BatchRange(1, 2, 4)),
    BuildSettings(BatchRange(2, 2, 2), tf32=True, strip_weights=True),
    BuildSettings(tf32=False, workspace_bytes=1 << 30, optimization_level=5),
)


def plain(build: BuildSettings) -> dict[str, Any]:
    return {**dataclasses.asdict(build), "batch": list(dataclasses.astuple(build.batch))}


@pytest.fixture(scope="module", params=["fp32", "fp16", "external"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The last one keeps its UNet's weights in a file beside the graphs."""
    root = tmp_path_factory.mktemp("keys") / "bundle"
    if request.param == "external":
        with pytest.MonkeyPatch.context() as patch:
            for name, count in (("UNET", 2), ("TEXT", 1)):
                patch.setattr(heavy_bundle, f"{name}_MATRICES", count)
            for name in ("UNET", "VAE"):
                patch.setattr(heavy_bundle, f"{name}_CONVOLUTIONS", 1)
            return Bundle.open(heavy_bundle.write_heavy_bundle(root))
    return Bundle.open(write_bundle(root, dtype=request.param))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("build", SETTINGS, ids=range(len(SETTINGS)))
def test_the_key_of_a_graph(
    probe: Probe, bundle: Bundle, name: LibraryName, build: BuildSettings
) -> None:
    library = TensorrtLibrary(name, None, "1.7.1.116")
    gpu = Gpu("sm89", "" if library.builds_ahead_of_time else "NVIDIA L4")
    some_sizes = ({"B": 1}, {"B": 3}, {"B": 1, "h": 16, "w": 32})
    wanted = [(graph, sizes) for graph in bundle.manifest.graphs for sizes in some_sizes]
    keys = [
        engine_key(bundle, graph, ranges_of(graph, sizes, build), library, gpu, build)
        for graph, sizes in wanted
    ]
    got = probe.ask(
        "tensorrt.keys_of_bundle",
        bundle=str(bundle.root),
        wanted=wanted,
        settings=plain(build),
        library=name,
        version=library.version,
        architecture=gpu.architecture,
        gpu=gpu.name,
    )
    assert got == [json.dumps(key.as_dict(), sort_keys=True) for key in keys]
    if "unet/weights.bin" in bundle.manifest.files:
        assert len({key.weights_sha256 for key in keys}) == 2, (
            "some graphs have weights beside them, and some none"
        )


@settings(max_examples=300, deadline=None)
@given(key=KEYS, model=TEXT, graph=TEXT)
def test_any_key_has_the_same_digest_and_place(
    probe: Probe, key: EngineKey, model: str, graph: str
) -> None:
    got = probe.ask("tensorrt.key", key=key.as_dict(), model=model, graph=graph)
    assert got["json"] == json.dumps(key.as_dict(), sort_keys=True)
    assert got["digest"] == key.digest
    assert got["name"] == EngineCache(Path("unused")).plan_name(model, graph, key)


@settings(max_examples=100, deadline=None)
@given(keys=st.tuples(KEYS, KEYS), changed=st.sets(st.sampled_from(dataclasses.fields(EngineKey))))
def test_what_differs_is_said_in_the_same_words(
    probe: Probe, keys: tuple[EngineKey, EngineKey], changed: set[dataclasses.Field[Any]]
) -> None:
    old = keys[0]
    new = dataclasses.replace(old, **{f.name: getattr(keys[1], f.name) for f in changed})
    got = probe.ask("tensorrt.differences", old=old.as_dict(), new=new.as_dict())
    assert got == differences(old, new)


KEY = EngineKey("tensorrt-rtx", "1", "sm89", "", "linux", "a", "b", "B = 1", "fp16", (), None, None)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        3,
        [{}],
        {},
        {**KEY.as_dict(), "unknown": 1},
        {k: v for k, v in KEY.as_dict().items() if k != "gpu"},
        {**KEY.as_dict(), "flags": "TF32"},
        {**KEY.as_dict(), "flags": [{}]},
        {**KEY.as_dict(), "version": []},
        {**KEY.as_dict(), "workspace_bytes": 1.5},
    ],
)
def test_what_is_no_key_is_none(probe: Probe, broken: object) -> None:
    assert key_from_dict(broken) is None
    assert probe.ask("tensorrt.key", key=broken, model="", graph="") is None


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text("BCbhw", min_size=1, max_size=3),
        st.tuples(*[st.integers(1, 2**40)] * 3).map(lambda n: SymbolRange(*sorted(n))),
    )
)
def test_ranges_as_text_and_back(probe: Probe, ranges: dict[str, SymbolRange]) -> None:
    text = describe_ranges(ranges)
    assert probe.ask("tensorrt.ranges", ranges=ranges) == text
    expected = {
        s: [low, low if low == high else best, high] for s, (low, best, high) in ranges.items()
    }
    assert probe.ask("tensorrt.ranges_from_text", text=text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "B = ",
        "B = 1;",
        "B = 1; ",
        "B = 1;h = 2",
        "B = 01",
        "B = +1",
        " B = 1",
        "B = 1 to 4",
        "B = 1 to 4 (best at 2",
        "B = 1 to 1 (best at 1)",
        "h = 1; B = 1",
        "B = 1; B = 1",
        "B = 99999999999999999999",
        "2B = 1",
        "B = 1 to 4 (best at 2) ",
    ],
)
def test_other_text_is_no_ranges(probe: Probe, text: str) -> None:
    assert probe.ask("tensorrt.ranges_from_text", text=text) is None


def test_names_as_parts_of_files(probe: Probe) -> None:
    texts = ["", "../../etc", "A b/c", "…", "x" * 99, "-.-a.-", "İİ", "aİ…b", "K"]
    texts += [f"a{chr(code)}b" for code in range(0x110000) if not 0xD800 <= code < 0xE000][::7]
    texts += [f"a{chr(code)}b" for code in range(0x2200)]
    rng = random.Random(0)
    texts += ["".join(rng.choices("aZ-. _İK…9", k=rng.randrange(90))) for _ in range(2000)]
    assert probe.ask("tensorrt.slug", texts=texts) == [slug(text) for text in texts]


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("version", [(1, 3, 9), (1, 4, 0), (2, 0, 0), (10, 1, 9), (10, 2, 0)])
def test_the_oldest_versions_are_the_same(
    probe: Probe, name: LibraryName, version: tuple[int, ...]
) -> None:
    text = ".".join(map(str, (*version, 7)))
    try:
        _checked(TensorrtLibrary(name, None, text))
    except BackendError as error:
        with pytest.raises(CppError) as caught:
            probe.ask("tensorrt.check_version", library=name, version=[*version, 7])
        assert caught.value.kind == "BackendError"
        assert caught.value.text.split(" | ")[:3] == str(error).split(" | ")[:3]
    else:
        probe.ask("tensorrt.check_version", library=name, version=[*version, 7])


def test_a_graph_without_symbols_has_an_empty_range(probe: Probe) -> None:
    assert probe.ask("tensorrt.ranges", ranges={}) == describe_ranges({}) == ""
    assert probe.ask("tensorrt.ranges_from_text", text="") == {}
