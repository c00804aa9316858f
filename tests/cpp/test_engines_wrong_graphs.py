"""Graphs that are not what the manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fam_runtime import contract
from fam_runtime.backends import open_backend
from fam_runtime.bundle import Bundle
from tests.cpp.conftest import built
from tests.cpp.engine_runs import DECODER, Arrays, cpp_run, cpp_text, feeds_of, python_run, text_of
from tests.cpp.probe import Probe
from tests.runtime.fake_bundle import refresh_manifest, write_bundle


def decoder(
    *,
    latent: str = contract.LATENT,
    shape: Sequence[int | str] = ("B", 4, "h", "w"),
    repeats: Sequence[int] = (1, 3, 8, 8),
    kind: int = TensorProto.FLOAT,
    operator: str = "Tile",
) -> onnx.ModelProto:
    """An image of [B, 3, 8h, 8w]; or, changed, something else."""
    nodes = [
        helper.make_node("ReduceMean", [latent, "axes"], ["mean"], keepdims=1),
        helper.make_node(operator, ["mean", "repeats"], ["tiled"]),
        helper.make_node("Cast", ["tiled"], [contract.IMAGE], to=kind),
    ]
    constants = {"axes": [1], "repeats": repeats}
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info(latent, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(contract.IMAGE, kind, None)],
        [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


DECODED = {"B": 2, "h": 3, "w": 4}


def with_decoder(root: Path, model: onnx.ModelProto) -> tuple[Bundle, Arrays]:
    """A bundle with this decoder, whose manifest is that of the usual one; and feeds for it."""
    write_bundle(root)
    onnx.save(model, root / DECODER)
    refresh_manifest(root)
    bundle = Bundle.open(root)
    return bundle, feeds_of(bundle.manifest.graphs[DECODER], DECODED)


def test_a_decoder_that_fits(probe: Probe, tmp_path: Path) -> None:
    """So that the tests below fail for the change alone."""
    bundle, feeds = with_decoder(tmp_path / "bundle", decoder())
    got = cpp_run(probe, bundle, DECODER, feeds, tmp_path, sizes=DECODED)
    expected = python_run(bundle, DECODER, feeds)
    assert got[contract.IMAGE].tobytes() == expected[contract.IMAGE].tobytes()


@pytest.mark.parametrize("change", [{"shape": ("B", 5, "h", "w")}, {"latent": "other"}])
def test_inputs_that_the_graph_does_not_take(
    probe: Probe, tmp_path: Path, change: dict[str, Any]
) -> None:
    """What ONNX Runtime says, in the form it has in Python; binding has words of its own."""
    bundle, feeds = with_decoder(tmp_path / "bundle", decoder(**change))
    got = cpp_text(partial(cpp_run, probe, bundle, DECODER, feeds, tmp_path, sizes=DECODED))
    assert got.startswith(f"BackendError: onnxruntime failed in {DECODER} | got ")
    if "shape" in change:
        assert got == text_of(lambda: python_run(bundle, DECODER, feeds))


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"repeats": (1, 3, 8, 9)},
        {"repeats": (1, 3, 8, 7)},
        {"repeats": (4, 3, 8, 8)},
        {"kind": TensorProto.FLOAT16},
        {"kind": TensorProto.DOUBLE},
    ],
)
def test_outputs_are_never_written_beyond_their_memory(
    probe: Probe, tmp_path: Path, change: dict[str, Any], bound: bool
) -> None:
    """The graph makes another image than the manifest says."""
    bundle, feeds = with_decoder(tmp_path / "bundle", decoder(**change))
    got = cpp_text(
        partial(cpp_run, probe, bundle, DECODER, feeds, tmp_path, sizes=DECODED, bound=bound)
    )
    assert got.startswith(f"BackendError: onnxruntime failed in {DECODER} | got ")


@pytest.mark.parametrize("change", [{"operator": "NoSuch"}, {"shape": ("B", 4, 9)}])
def test_a_graph_that_cannot_be_loaded(
    probe: Probe, tmp_path: Path, change: dict[str, Any]
) -> None:
    bundle, feeds = with_decoder(tmp_path / "bundle", decoder(**change))
    expected = text_of(lambda: open_backend("onnxruntime").load(bundle, DECODER))
    got = cpp_text(partial(cpp_run, probe, bundle, DECODER, feeds, tmp_path, sizes=DECODED))
    assert got == expected


def test_the_library_prints_nothing_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Probe(built("fam_probe")) as probe:
        for number, model in enumerate([decoder(repeats=(1, 3, 8, 9)), decoder(operator="NoSuch")]):
            bundle, feeds = with_decoder(tmp_path / str(number), model)
            cpp_text(partial(cpp_run, probe, bundle, DECODER, feeds, tmp_path, sizes=DECODED))
    assert capfd.readouterr() == ("", "")
