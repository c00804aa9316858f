"""The onnxruntime backend: sessions, shared weights, errors."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fam_runtime import contract
from fam_runtime.backends import open_backend
from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.backends.onnxruntime.device_graph import (
    ONNX_ELEMENT_TYPES,
    OnnxruntimeDeviceGraph,
)
from fam_runtime.backends.onnxruntime.loader import (
    SessionFromOnnx,
    SessionSettings,
    SharedWeights,
    error_from_onnxruntime,
    import_onnxruntime,
)
from fam_runtime.bundle import NATIVE_GRAPH, TENSOR_DTYPE_BYTES, Bundle, GraphSpec, TensorSpec
from fam_runtime.device.runner import DeviceRunner
from fam_runtime.device.tensor import DeviceTensor
from fam_runtime.errors import BackendError, BundleDamaged
from tests.runtime.device.fake_device import FakeDeviceApi
from tests.runtime.fake_bundle import LAYER, write_bundle

SIZE = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("bundles") / "sd"))


def native_feeds(bundle):
    sizes = {"B": 1}
    return {
        spec.name: np.ones(shape_from_symbols(spec.shape, sizes), spec.dtype)
        for spec in bundle.manifest.graphs[NATIVE_GRAPH].inputs
    }


def test_only_the_outputs_asked_for_are_computed(bundle):
    feeds, taps = native_feeds(bundle), contract.tap_names(LAYER, "qk")
    with open_backend("onnxruntime").load(bundle, NATIVE_GRAPH) as runner:
        runner._session = Recording(runner._session)
        values = runner.run(feeds, taps)
        assert tuple(values) == tuple(runner._session.fetched) == taps
        assert runner._run_options.only_execute_path_to_fetches
        everything = runner.run(feeds)
    assert set(everything) == {contract.NEXT_LATENT, contract.PREDICTION, *taps}
    assert all(np.array_equal(everything[name], values[name]) for name in taps)


class Recording:
    """A session that remembers which outputs were fetched last."""

    def __init__(self, session):
        self.session, self.fetched = session, []

    def run(self, names, feeds, options):
        self.fetched = names
        return self.session.run(names, feeds, options)


def on_device(feeds):
    """The arrays as tensors at their addresses, with the CPU's memory in place of a GPU's."""
    return {
        name: DeviceTensor(array.ctypes.data, array.shape, array.dtype.name, array)
        for name, array in feeds.items()
    }


def bound_graph(bundle, graph=NATIVE_GRAPH):
    session = SessionFromOnnx(bundle.path(graph), SessionSettings())()
    return OnnxruntimeDeviceGraph(graph, bundle.manifest.graphs[graph], session, "cpu")


def test_bound_runs_read_and_write_in_place(bundle):
    """The way to a GPU; a second run reads what the first one wrote."""
    feeds = native_feeds(bundle)
    with open_backend("onnxruntime").load(bundle, NATIVE_GRAPH) as runner:
        expected = runner.run(feeds)
        more = runner.run({**feeds, contract.LATENT: expected[contract.NEXT_LATENT]})
    graph = bound_graph(bundle)
    outputs = graph.required_outputs(tuple(expected))
    bound = {name: np.full_like(expected[name], np.nan) for name in outputs}
    again = {name: np.full_like(expected[name], np.nan) for name in outputs}
    graph.enqueue(on_device(feeds | bound))
    graph.enqueue(on_device({**feeds, contract.LATENT: bound[contract.NEXT_LATENT], **again}))
    for name in expected:
        assert np.array_equal(bound[name], expected[name])
        assert np.array_equal(again[name], more[name])
    assert not graph.capturable
    graph.close()


def test_bound_runs_skip_what_nobody_wants(bundle):
    feeds, taps = native_feeds(bundle), contract.tap_names(LAYER, "qk")
    graph = bound_graph(bundle)
    assert graph.required_outputs(taps) == taps
    wanted = {
        spec.name: np.empty(shape_from_symbols(spec.shape, {"B": 1}), spec.dtype)
        for spec in bundle.manifest.graphs[NATIVE_GRAPH].outputs
        if spec.name in taps
    }
    graph.enqueue(on_device(feeds | wanted))
    with open_backend("onnxruntime").load(bundle, NATIVE_GRAPH) as runner:
        expected = runner.run(feeds, taps)
    assert all(np.array_equal(wanted[name], expected[name]) for name in taps)


def test_bound_values_have_their_own_shapes_and_types(bundle):
    """onnxruntime lets [1] pass where this graph takes [], another graph's shapes would change."""
    bound = {}

    class Binding:
        def bind_input(self, name, device, index, element_type, shape, address):
            bound[name] = (device, index, element_type, shape, address)

    done = []
    graph = OnnxruntimeDeviceGraph(
        NATIVE_GRAPH,
        GraphSpec(bundle.manifest.graphs[NATIVE_GRAPH].inputs, ()),
        SimpleNamespace(
            io_binding=Binding, run_with_iobinding=lambda _, options: done.append(options)
        ),
        "cuda",
        3,
    )
    values = on_device(native_feeds(bundle))
    graph.enqueue(values)
    assert bound == {
        name: ("cuda", 3, TensorProto.FLOAT, value.shape, value.address)
        for name, value in values.items()
    }
    option = "disable_synchronize_execution_providers"
    assert done[0].get_run_config_entry(option) == "1"  # nobody waits
    assert done[0].only_execute_path_to_fetches


def test_element_types_are_onnx(bundle):
    for name, number in ONNX_ELEMENT_TYPES.items():
        assert number == TensorProto.DataType.Value("FLOAT" if name == "float32" else name.upper())
    assert set(ONNX_ELEMENT_TYPES) == set(TENSOR_DTYPE_BYTES)


def test_a_failed_bound_run_is_a_message(bundle):
    values = on_device(native_feeds(bundle))
    values[contract.LATENT] = DeviceTensor(values[contract.LATENT].address, (1,), "float32")
    with pytest.raises(BackendError, match=rf"onnxruntime failed in {NATIVE_GRAPH}"):
        bound_graph(bundle).enqueue(values)


def test_a_session_on_a_gpu_computes_on_the_device_apis_stream(bundle, monkeypatch):
    """What a GPU would be told, as far as can be seen without one."""
    made = {}

    loaded = ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def session(path, options, providers, disabled_optimizers, enable_fallback):
        assert not enable_fallback
        made["providers"] = providers
        return SimpleNamespace(get_providers=lambda: list(loaded))

    runtime = import_onnxruntime()
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(runtime, "InferenceSession", session)
    api = FakeDeviceApi()
    monkeypatch.setattr("fam_runtime.backends.onnxruntime.backend.open_cuda", lambda: api)
    backend = open_backend("onnxruntime", provider="cuda")
    runner = backend.load(bundle, NATIVE_GRAPH)
    ((provider, options),) = made["providers"]
    assert provider == "CUDAExecutionProvider"
    assert options["user_compute_stream"] == str(api.stream)
    assert (options["device_id"], options["use_tf32"]) == ("0", "0")
    assert isinstance(runner, DeviceRunner)
    assert isinstance(runner.device_graph, OnnxruntimeDeviceGraph)
    value = backend.upload(np.arange(3, dtype=np.float32))
    assert np.array_equal(backend.download(value), np.arange(3))
    runner.close()
    loaded.remove("CUDAExecutionProvider")  # its libraries are not there: it would be the CPU
    with pytest.raises(BackendError, match=r"lists CUDA.* cannot load it.*gpu\[cuda,cudnn\]"):
        backend.load(bundle, NATIVE_GRAPH)
    backend.close()
    api.assert_empty()


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


def graph_with_external_weights(folder, seed=0):
    rng = np.random.default_rng(seed)
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
    sessions = [
        SessionFromOnnx(tmp_path / "g.onnx", SessionSettings(low_memory=True), values)()
        for values in (None, shared)
    ]
    for session in sessions:
        assert np.allclose(session.run(None, {"x": x})[0], expected, rtol=1e-3, atol=1e-3)


def test_shared_weights_are_used_instead_of_the_graphs_own(tmp_path):
    weights = graph_with_external_weights(tmp_path)
    (tmp_path / "other.bin").write_bytes(np.concatenate([w.T for w in weights.values()]).tobytes())
    shared = SharedWeights(tmp_path / "other.bin", tmp_path / "weights.json")
    x = np.random.default_rng(1).standard_normal((3, SIZE)).astype(np.float32)
    settings = SessionSettings(low_memory=True)
    for values, expected in (
        (None, x @ weights["w0"] @ weights["w1"]),
        (shared, x @ weights["w0"].T @ weights["w1"].T),
    ):
        session = SessionFromOnnx(tmp_path / "g.onnx", settings, values)()
        assert np.allclose(session.run(None, {"x": x})[0], expected, rtol=1e-3, atol=1e-3)


def test_two_bundles_in_one_backend_keep_their_own_weights(tmp_path):
    backend = open_backend("onnxruntime", low_memory=True)
    x = np.ones((1, SIZE), np.float32)
    for name in ("one", "two"):
        folder = tmp_path / name / "unet"
        folder.mkdir(parents=True)
        weights = graph_with_external_weights(folder, seed=len(name) + ord(name[0]))
        values = TensorSpec("x", "float32", ("B", SIZE)), TensorSpec("z", "float32", ("B", SIZE))
        manifest = SimpleNamespace(
            files={f"unet/{file}": None for file in ("g.onnx", "weights.bin", "weights.json")},
            graphs={"unet/g.onnx": GraphSpec(values[:1], values[1:])},
            model=SimpleNamespace(dtype="fp32"),
            dtype_of=lambda graph: "fp32",
        )
        fake = SimpleNamespace(
            hash=name,
            manifest=manifest,
            path=folder.parent.joinpath,
            files_of_graph=lambda graph, names=tuple(manifest.files): names,
        )
        with backend.load(fake, "unet/g.onnx") as runner:
            expected = x @ weights["w0"] @ weights["w1"]
            assert np.allclose(runner.run({"x": x})["z"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 64 * 10_000},
        {"offset": 4},
        {"offset": -64},
        {"bytes": 8},
        {"dtype": "object"},
        {"dtype": "no"},
        {"dtype": "U1"},
        {"dtype": []},
        {"shape": [10**400]},
        {"offset": 64 * 10, "bytes": -64, "shape": [0]},
        {"shape": [SIZE]},
        {"shape": "x"},
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path, change):
    graph_with_external_weights(tmp_path)
    index = json.loads((tmp_path / "weights.json").read_text("utf-8"))
    index["w0"] |= change
    (tmp_path / "weights.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(BundleDamaged, match="does not describe the weights"):
        SharedWeights(tmp_path / "weights.bin", tmp_path / "weights.json")


@pytest.mark.parametrize("index", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"w0": 3}'])
def test_an_index_that_is_none_is_refused(tmp_path, index):
    graph_with_external_weights(tmp_path)
    (tmp_path / "weights.json").write_bytes(index)
    with pytest.raises(BundleDamaged, match="does not describe the weights"):
        SharedWeights(tmp_path / "weights.bin", tmp_path / "weights.json")


def test_empty_weights_are_refused(tmp_path):
    graph_with_external_weights(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(BundleDamaged, match="does not describe the weights"):
        SharedWeights(tmp_path / "weights.bin", tmp_path / "weights.json")


def test_the_library_prints_nothing_itself(bundle, capfd):
    feeds = native_feeds(bundle)
    feeds[contract.LATENT] = np.ones((1, 4, 3, 3), np.float32)
    with open_backend("onnxruntime").load(bundle, NATIVE_GRAPH) as runner:
        with pytest.raises(BackendError, match="onnxruntime failed in unet/native.onnx"):
            runner.infer_impl(feeds, (contract.NEXT_LATENT,))
        feeds = native_feeds(bundle)
        feeds[contract.STEP_COEFFICIENTS] = np.ones(3, np.float32)
        with pytest.raises(BackendError, match="onnxruntime failed in unet/native.onnx"):
            runner.infer_impl(feeds, (contract.NEXT_LATENT,))
    assert capfd.readouterr().err == ""
