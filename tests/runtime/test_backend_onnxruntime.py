"""The onnxruntime backend: sessions, shared weights, errors."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fam_runtime import contract
from fam_runtime.backends import open_backend
from fam_runtime.backends.onnxruntime.loader import (
    SessionFromOnnx,
    SessionSettings,
    SharedWeights,
    error_from_onnxruntime,
)
from fam_runtime.bundle import Bundle
from fam_runtime.errors import BackendError
from tests.runtime.fake_bundle import write_bundle

SIZE = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("bundles") / "sd"))


def test_only_the_outputs_asked_for_are_computed(bundle):
    backend = open_backend("onnxruntime")
    with backend.load(bundle, "vae_decoder/model.onnx") as runner:
        latent = np.ones((2, 4, 3, 5), np.float32)
        values = runner.run({contract.LATENT: latent})
        assert values[contract.IMAGE].shape == (2, 3, 24, 40)


def test_values_stay_the_callers(bundle):
    backend = open_backend("onnxruntime")
    with backend.load(bundle, "vae_decoder/model.onnx") as runner:
        first = runner.run({contract.LATENT: np.ones((1, 4, 3, 5), np.float32)})[contract.IMAGE]
        kept = first.copy()
        runner.run({contract.LATENT: np.zeros((1, 4, 3, 5), np.float32)})
        assert np.array_equal(first, kept)


def test_upload_and_download_are_free_on_the_cpu():
    backend = open_backend("onnxruntime")
    array = np.ones((2, 3), np.float32)
    assert np.shares_memory(backend.download(backend.upload(array)), array)
    assert backend.upload(array.T).flags.c_contiguous
    assert backend.upload(np.float32(3)).shape == ()
    assert backend.zeros((2, 1), "float32").dtype == np.float32


def test_what_made_a_picture_is_described():
    described = open_backend("onnxruntime").describe()
    assert described["backend"] == "onnxruntime"
    assert described["provider"] == "cpu"
    assert described["onnxruntime"]


def test_a_graph_that_is_no_graph(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"onnxruntime cannot load broken.onnx"):
        SessionFromOnnx(path, SessionSettings())()


def test_no_gpu_is_a_message(bundle):
    backend = open_backend("onnxruntime", provider="cuda")
    with pytest.raises(BackendError, match="CUDAExecutionProvider"):
        backend.load(bundle, "vae_decoder/model.onnx")


def test_running_out_of_memory_has_advice():
    error = error_from_onnxruntime("x failed", RuntimeError("Failed to allocate memory\n for y"))
    assert "low_memory" in str(error)
    assert "\n" not in str(error)


def graph_with_external_weights(folder):
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((SIZE, SIZE)).astype(np.float32) for i in range(2)}
    index, content, tensors = {}, b"", []
    for name, array in weights.items():
        index[name] = {
            "dtype": "float32",
            "shape": [SIZE, SIZE],
            "offset": len(content),
            "bytes": array.nbytes,
        }
        tensor = TensorProto(name=name, data_type=1, dims=array.shape, data_location=1)
        for key, value in (("offset", len(content)), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        tensor.external_data.add(key="location", value="weights.bin")
        tensors.append(tensor)
        content += array.tobytes()
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["y"]),
        helper.make_node("MatMul", ["y", "w1"], ["z"]),
    ]
    value = lambda n: helper.make_tensor_value_info(n, 1, ["B", SIZE])  # noqa: E731
    graph = helper.make_graph(nodes, "g", [value("x")], [value("z")], tensors)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, folder / "g.onnx")
    (folder / "weights.bin").write_bytes(content)
    (folder / "weights.json").write_text(json.dumps(index), "utf-8")
    return weights


def test_shared_weights_give_the_same_result(tmp_path):
    weights = graph_with_external_weights(tmp_path)
    index = json.loads((tmp_path / "weights.json").read_text("utf-8"))
    index["unused"] = index["w0"]
    (tmp_path / "weights.json").write_text(json.dumps(index), "utf-8")
    shared = SharedWeights(tmp_path / "weights.bin", tmp_path / "weights.json")
    x = np.random.default_rng(1).standard_normal((3, SIZE)).astype(np.float32)
    expected = x @ weights["w0"] @ weights["w1"]
    for values in (None, shared):
        settings = SessionSettings(low_memory=values is not None)
        session = SessionFromOnnx(tmp_path / "g.onnx", settings, values)()
        assert np.allclose(session.run(None, {"x": x})[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 64 * 10_000},
        {"offset": 4},
        {"offset": -64},
        {"bytes": 8},
        {"dtype": "object"},
        {"dtype": "no"},
        {"shape": [SIZE]},
        {"shape": "x"},
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path, change):
    graph_with_external_weights(tmp_path)
    index = json.loads((tmp_path / "weights.json").read_text("utf-8"))
    index["w0"] |= change
    (tmp_path / "weights.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(BackendError, match="does not describe the weights"):
        SharedWeights(tmp_path / "weights.bin", tmp_path / "weights.json")
