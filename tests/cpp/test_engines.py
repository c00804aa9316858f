"""Graphs run by the C++ runtime, held against the Python one: the same library, the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_runtime import contract
from fam_runtime.backends import open_backend
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from tests.cpp.engine_runs import DECODER, cpp_run, cpp_text, feeds_of, python_run, text_of
from tests.cpp.probe import CppError, Probe
from tests.runtime import heavy_bundle
from tests.runtime.fake_bundle import refresh_manifest, write_bundle
from tests.runtime.fake_step_graph import LAYER


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def heavy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Convolutions and matrix products, those of the UNet's graphs in a file that they share."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("UNET", "VAE"):
            patch.setattr(heavy_bundle, f"{name}_CONVOLUTIONS", 1)
        for name, count in (("UNET", 2), ("TEXT", 1)):
            patch.setattr(heavy_bundle, f"{name}_MATRICES", count)
        root = tmp_path_factory.mktemp("heavy") / request.param
        return Bundle.open(heavy_bundle.write_heavy_bundle(root, dtype=request.param))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("small") / "bundle"))


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        (1, {"num_threads": 1}),
        (2, {"num_threads": 2}),
        (2, {"num_threads": 1, "low_memory": True}),
    ],
)
def test_every_graph_gives_the_same_bytes(
    probe: Probe, heavy: Bundle, tmp_path: Path, batch: int, options: dict[str, Any]
) -> None:
    sizes = {"B": batch, "h": 5, "w": 7}
    for number, (graph, spec) in enumerate(heavy.manifest.graphs.items()):
        feeds = feeds_of(spec, sizes)
        expected = python_run(heavy, graph, feeds, **options)
        got = cpp_run(
            probe, heavy, graph, feeds, tmp_path, sizes=sizes, bound=number % 2 == 0, **options
        )
        assert set(got) == {output.name for output in spec.outputs}
        for name, array in expected.items():
            assert got[name].shape == array.shape, (graph, name)
            assert got[name].tobytes() == array.tobytes(), (graph, name)
        assert any(np.ptp(array) > 0 for array in expected.values()), graph


def test_weights_are_mapped_where_the_index_says(
    probe: Probe, heavy: Bundle, tmp_path: Path
) -> None:
    """An index that exchanges two tensors shows whose offsets are used: not the graph's own."""
    root = tmp_path / "bundle"
    shutil.copytree(heavy.root, root)
    path = root / "unet/weights.json"
    index = json.loads(path.read_text("utf-8"))
    first, second = index["matrix0"]["offset"], index["matrix1"]["offset"]
    index["matrix0"]["offset"], index["matrix1"]["offset"] = second, first
    path.write_text(json.dumps(index), "utf-8")
    refresh_manifest(root)
    exchanged = Bundle.open(root)
    feeds = feeds_of(heavy.manifest.graphs[NATIVE_GRAPH], {"B": 1})
    kept = cpp_run(probe, heavy, NATIVE_GRAPH, feeds, tmp_path, low_memory=True)
    got = cpp_run(probe, exchanged, NATIVE_GRAPH, feeds, tmp_path, low_memory=True)
    expected = python_run(exchanged, NATIVE_GRAPH, feeds, low_memory=True)
    assert all(got[name].tobytes() == expected[name].tobytes() for name in expected)
    assert any(got[name].tobytes() != kept[name].tobytes() for name in expected)


@pytest.mark.parametrize("bound", [False, True])
def test_only_the_outputs_asked_for_come_back(
    probe: Probe, small: Bundle, tmp_path: Path, bound: bool
) -> None:
    feeds = feeds_of(small.manifest.graphs[NATIVE_GRAPH], {"B": 1})
    taps = contract.tap_names(LAYER, "qk")
    got = cpp_run(probe, small, NATIVE_GRAPH, feeds, tmp_path, wanted=taps, bound=bound)
    expected = python_run(small, NATIVE_GRAPH, feeds, taps)
    assert set(got) == set(taps)
    assert all(got[name].tobytes() == expected[name].tobytes() for name in taps)


@pytest.mark.parametrize("low_memory", [False, True])
def test_what_made_a_picture_is_described(probe: Probe, low_memory: bool) -> None:
    described = open_backend("onnxruntime", low_memory=low_memory).describe()
    got = probe.ask("engines.describe", options={"low_memory": low_memory})
    assert got == [list(pair) for pair in described.items()]


def test_unknown_backends_and_options(probe: Probe) -> None:
    def ask(**options: object) -> str:
        return cpp_text(lambda: probe.ask("engines.describe", options=options))

    assert ask(name="openvino") == text_of(lambda: open_backend("openvino"))
    assert "InvalidRequest: num_threads is too small | got -1" in ask(num_threads=-1)
    unknown = text_of(lambda: open_backend("onnxruntime", provider="rocm"))
    assert ask(provider="rocm").split(" | ")[:2] == unknown.split(" | ")[:2]
    for name in ("tensorrt", "tensorrt-rtx"):
        for option in ({"provider": "cuda"}, {"num_threads": 1}):
            refused = f"InvalidRequest: the {name} backend has no such option | got "
            assert ask(name=name, **option).startswith(refused + repr(next(iter(option))))


def test_a_provider_that_the_library_does_not_have(probe: Probe, small: Bundle) -> None:
    expected = text_of(lambda: open_backend("onnxruntime", provider="cuda").load(small, DECODER))
    got = cpp_text(lambda: probe.ask("engines.describe", options={"provider": "cuda"}))
    assert got.split(" | ")[:3] == expected.split(" | ")[:3]
    for provider, name in (
        ("tensorrt", "TensorrtExecutionProvider"),
        ("tensorrt-rtx", "NvTensorRTRTXExecutionProvider"),
    ):
        with pytest.raises(CppError, match=f"BackendError: |this onnxruntime has no {name}"):
            probe.ask("engines.describe", options={"provider": provider})


def test_bfloat16_is_refused(probe: Probe, tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle", dtype="bf16"))
    expected = text_of(lambda: open_backend("onnxruntime").load(bundle, DECODER))
    feeds = feeds_of(bundle.manifest.graphs[DECODER], {"B": 1, "h": 3, "w": 4})
    assert cpp_text(lambda: cpp_run(probe, bundle, DECODER, feeds, tmp_path)) == expected


def _drop(feeds: dict[str, Any]) -> None:
    del feeds[contract.LATENT]


def _add(feeds: dict[str, Any]) -> None:
    feeds["unknown'"] = np.zeros(1, np.float32)


def _retype(feeds: dict[str, Any]) -> None:
    feeds[contract.LATENT] = feeds[contract.LATENT].astype(np.float16)


def _reshape(feeds: dict[str, Any]) -> None:
    feeds[contract.PREVIOUS_PREDICTION] = np.zeros((3, 4, 8, 8), np.float32)


@pytest.mark.parametrize("change", [_drop, _add, _retype, _reshape])
def test_feeds_that_do_not_fit(
    probe: Probe, small: Bundle, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    feeds = feeds_of(small.manifest.graphs[NATIVE_GRAPH], {"B": 1})
    change(feeds)
    expected = text_of(lambda: python_run(small, NATIVE_GRAPH, feeds))
    for bound in (False, True):
        run = partial(cpp_run, probe, small, NATIVE_GRAPH, feeds, tmp_path, bound=bound)
        assert cpp_text(run) == expected


def test_outputs_that_do_not_exist(probe: Probe, small: Bundle, tmp_path: Path) -> None:
    feeds = feeds_of(small.manifest.graphs[NATIVE_GRAPH], {"B": 1})
    wanted = (contract.PREDICTION, "other", "more")
    expected = text_of(lambda: python_run(small, NATIVE_GRAPH, feeds, wanted))
    got = cpp_text(lambda: cpp_run(probe, small, NATIVE_GRAPH, feeds, tmp_path, wanted=wanted))
    assert got == expected


def test_memory_for_outputs_of_another_size_is_refused(
    probe: Probe, small: Bundle, tmp_path: Path
) -> None:
    feeds = feeds_of(small.manifest.graphs[NATIVE_GRAPH], {"B": 1})
    text = cpp_text(
        lambda: cpp_run(probe, small, NATIVE_GRAPH, feeds, tmp_path, sizes={"B": 2}, bound=True)
    )
    assert "unet/native.onnx: output" in text
    assert "has the wrong shape" in text
