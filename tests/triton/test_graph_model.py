"""The Python model of one graph: what it loads, what it refuses, and calls that go together."""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import pytest

from fam_runtime.backends.onnxruntime import OnnxruntimeBackend
from fam_runtime.backends.onnxruntime.runner import OnnxruntimeRunner
from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.errors import (
    BackendError,
    Cancelled,
    InvalidRequest,
    NumericError,
    OutOfMemory,
)
from fam_runtime.triton.served.errors import triton_error
from fam_runtime.triton.served.graph_model import TritonPythonModel
from fam_runtime.triton.served.parameters import (
    Parameters,
    backend_options,
    confined_folder,
    version_folder,
)
from tests.runtime.fake_bundle import write_bundle
from tests.triton.fake_pb_utils import (
    MODULE,
    FakeServer,
    Tensor,
    TritonError,
    graph_configuration,
    serve_graphs,
    write_part,
)

DECODER = "vae_decoder/model.onnx"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("bundles") / "sd"))


@pytest.fixture
def server(monkeypatch):
    fake = FakeServer()
    monkeypatch.setitem(sys.modules, MODULE, fake.utilities)
    yield fake
    fake.unload_all()


@pytest.fixture
def folder(bundle, tmp_path):
    """The decoder's model in a repository."""
    write_part(bundle, DECODER, tmp_path / "decoder/1/bundle")
    return tmp_path / "decoder"


def load(server, bundle, folder, graph=DECODER, /, **options):
    server.load(TritonPythonModel(), folder, graph_configuration(bundle, graph, **options))


def request(server, feeds, outputs=("image",), model="decoder"):
    tensors = [Tensor(name, array) for name, array in feeds.items()]
    return server.utilities.InferenceRequest(
        inputs=tensors, requested_output_names=outputs, model_name=model, model_version=1
    )


def latent(seed, batch=1, height=2, width=3):
    rng = np.random.default_rng(seed)
    return {"latent": rng.standard_normal((batch, 4, height, width)).astype(np.float32)}


def images(responses):
    return [response.output_tensors()[0].as_numpy() for response in responses]


@pytest.fixture
def runs(monkeypatch):
    """The batch of every run of a graph, in order; negative where it failed."""
    seen = []

    def run(self, feeds, outputs, infer=OnnxruntimeRunner.infer_impl):
        array = next(iter(feeds.values()))
        poisoned = bool(np.isinf(array).any()) if array.dtype == np.float32 else False
        seen.append(-len(array) if poisoned else len(array))
        if poisoned:
            raise ValueError("the library fell over")
        return infer(self, feeds, outputs)

    monkeypatch.setattr(OnnxruntimeRunner, "infer_impl", run)
    return seen


def test_joined_calls_equal_single_ones(server, bundle, folder, runs):
    load(server, bundle, folder, max_batch_size=8, pictures_per_batch="8")
    calls = [latent(0), latent(1, batch=3), latent(2, width=5), latent(3), latent(4, width=5)]
    requests = [request(server, feeds) for feeds in calls]
    together = images(server.execute("decoder", 1, requests))
    assert sorted(runs) == [2, 5]
    alone = [images(server.execute("decoder", 1, [one]))[0] for one in requests]
    for joined, single, feeds in zip(together, alone, calls, strict=True):
        assert joined.shape[::2] == (len(feeds["latent"]), 16)
        assert np.array_equal(joined, single)


def test_without_a_batch_dimension_calls_are_made_one_by_one(server, bundle, folder, runs):
    load(server, bundle, folder)
    server.execute("decoder", 1, [request(server, latent(seed)) for seed in range(3)])
    assert runs == [1, 1, 1]


@pytest.mark.parametrize("max_batch_size", [0, 8])
def test_an_error_stays_with_its_request(server, bundle, folder, runs, max_batch_size):
    load(server, bundle, folder, max_batch_size=max_batch_size)
    bad = {"latent": np.full((1, 4, 2, 3), np.inf, np.float32)}
    requests = [request(server, feeds) for feeds in (latent(0), bad, latent(1))]
    first, failed, last = server.execute("decoder", 1, requests)
    assert failed.error().code() == TritonError.INTERNAL
    assert failed.error().message().startswith("the server failed | got incident ")
    assert any("ValueError: the library fell over" in line for line in server.logged)
    for response, seed in ((first, 0), (last, 1)):
        expected = server.execute("decoder", 1, [request(server, latent(seed))])
        assert np.array_equal(images([response])[0], images(expected)[0])
    assert -1 in runs


def test_what_no_picture_needs_is_refused(server, bundle, folder, runs):
    """A client may call a graph's model; the largest target's latent is 16 x 32."""
    load(server, bundle, folder, pictures_per_batch="2")
    good = latent(0, batch=2, height=16, width=32)
    too_many, too_large = latent(0, batch=3), latent(0, height=17)
    answers = server.execute(
        "decoder", 1, [request(server, f) for f in (too_many, too_large, good)]
    )
    for answer, text in zip(answers, ("B = 3", "h = 17"), strict=False):
        assert answer.error().code() == TritonError.INVALID_ARG
        assert text in answer.error().message()
    assert not answers[2].has_error() and runs == [2]


def test_every_graph_loads_in_low_memory_from_its_own_part(server, tiny_bundle, tmp_path):
    """The UNet's graphs share a file of weights, which the step between the stages has not."""
    serve_graphs(server, Bundle.open(tiny_bundle), tmp_path, "fam_diffusion", low_memory="true")


def test_only_the_outputs_that_were_asked_for_and_scalars(server, bundle, tmp_path):
    write_part(bundle, NATIVE_GRAPH, tmp_path / "native/1/bundle")
    load(server, bundle, tmp_path / "native", NATIVE_GRAPH)
    rng, feeds = np.random.default_rng(0), {}
    for spec in bundle.manifest.graphs[NATIVE_GRAPH].inputs:
        shape = [{"B": 1, "2B": 2}.get(size, size) for size in spec.shape]
        feeds[spec.name] = np.asarray(rng.random(shape), spec.dtype)
    with OnnxruntimeBackend().load(bundle, NATIVE_GRAPH) as runner:
        expected = runner.run(feeds)
    sent = {name: array.reshape(array.shape or (1,)) for name, array in feeds.items()}
    names = [list(expected)[2], "prediction"]
    response = server.execute("native", 1, [request(server, sent, names, "native")])[0]
    assert [tensor.name() for tensor in response.output_tensors()] == ["prediction", names[0]]
    for tensor in response.output_tensors():
        assert np.array_equal(tensor.as_numpy(), expected[tensor.name()])


def test_feeds_that_no_configuration_forbids(server, bundle, tmp_path):
    write_part(bundle, NATIVE_GRAPH, tmp_path / "native/1/bundle")
    load(server, bundle, tmp_path / "native", NATIVE_GRAPH)
    feeds = {
        spec.name: np.zeros([{"B": 1, "2B": 3}.get(size, size) for size in spec.shape or [1]], "f4")
        for spec in bundle.manifest.graphs[NATIVE_GRAPH].inputs
    }
    call = request(server, feeds, ["prediction"], "native")
    error = server.execute("native", 1, [call])[0].error()
    assert error.code() == TritonError.INVALID_ARG
    assert "input prompt_embeds has the wrong shape" in error.message()


@pytest.mark.parametrize(
    ("spoil", "verify", "text"),
    [
        (lambda p: os.truncate(p, p.stat().st_size // 2), "full", "vae_decoder/model.onnx.*bytes"),
        (lambda p: os.truncate(p, p.stat().st_size // 2), "size", "vae_decoder/model.onnx.*bytes"),
        (lambda p: p.write_bytes(bytes(p.stat().st_size)), "full", "another content"),
        (lambda p: p.unlink(), "full", "is missing from the bundle"),
    ],
)
def test_a_damaged_part_is_not_loaded(server, bundle, folder, spoil, verify, text):
    spoil(folder / "1/bundle" / DECODER)
    with pytest.raises(server.utilities.TritonModelException, match=text):
        load(server, bundle, folder, verify=verify)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bundle": "../../secret"}, "not in the version's folder.*got '../../secret'"),
        ({"bundle": "/etc"}, "not in the version's folder"),
        ({"bundle": "missing"}, "there is no bundle"),
        ({"provider": "tpu"}, "unknown provider"),
        ({"backend": "caffe"}, "unknown backend"),
        ({"threads": "many"}, "parameter threads.*got 'many'.*at least 1"),
        ({"low_memory": "maybe"}, "parameter low_memory.*true or false"),
        ({"verify": "no"}, "unknown verify"),
    ],
)
def test_parameters_that_cannot_be_used(server, bundle, folder, options, text):
    with pytest.raises(server.utilities.TritonModelException, match=text):
        load(server, bundle, folder, **options)


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        ("", "parameter graph.*expected a value"),
        ("vae_decoder/other.onnx", "does not list this file"),
        ("tokenizer/tokenizer.json", "the bundle has no such graph.*unet/native.onnx"),
    ],
)
def test_graphs_that_are_none(server, bundle, folder, graph, text):
    config = graph_configuration(bundle, DECODER)
    config["parameters"]["graph"]["string_value"] = graph
    write_part(bundle, DECODER, folder / "1/bundle")
    (folder / "1/bundle/tokenizer").mkdir()
    token_file = "tokenizer/tokenizer.json"
    (folder / "1/bundle" / token_file).write_bytes(bundle.read_bytes(token_file))
    with pytest.raises(server.utilities.TritonModelException, match=text):
        server.load(TritonPythonModel(), folder, config)


def test_a_graph_with_scalars_is_not_batched(server, bundle, tmp_path):
    write_part(bundle, NATIVE_GRAPH, tmp_path / "native/1/bundle")
    config = graph_configuration(bundle, NATIVE_GRAPH) | {"max_batch_size": 2}
    with pytest.raises(server.utilities.TritonModelException, match="native.onnx cannot be join"):
        server.load(TritonPythonModel(), tmp_path / "native", config)


def test_a_link_does_not_lead_out_of_the_version(tmp_path, bundle):
    version = tmp_path / "model/1"
    version.mkdir(parents=True)
    (version / "bundle").symlink_to(bundle.root)
    with pytest.raises(InvalidRequest, match="also through links"):
        confined_folder(version, "bundle")
    assert confined_folder(version, "a/b") == version / "a/b"
    args = {"model_repository": str(tmp_path / "model"), "model_version": "1"}
    assert version_folder(args) == version


def test_parameters_are_read_by_type():
    texts = {"threads": "3", "low_memory": "False", "empty": "", "on": "1"}
    config = {"parameters": {name: {"string_value": text} for name, text in texts.items()}}
    parameters = Parameters({"model_config": json.dumps(config)})
    assert backend_options(parameters) == ("onnxruntime", {"num_threads": 3})
    assert parameters.flag("on", False) and not parameters.flag("low_memory", True)
    assert parameters.text("empty", "default") == "default"
    assert parameters.whole_number("empty", None) is None
    engines = {"backend": {"string_value": "tensorrt"}, "pictures_per_batch": {"string_value": "4"}}
    config = {"parameters": engines}
    settings = BuildSettings(BatchRange(1, 4, 4))
    given = backend_options(Parameters({"model_config": json.dumps(config)}))
    assert given == ("tensorrt", {"settings": settings})
    for bad in ("-1", "1.0", "²", ""):
        config["parameters"]["n"] = {"string_value": bad}
        with pytest.raises(InvalidRequest, match="parameter n of the model's configuration"):
            read = Parameters({"model_config": json.dumps(config)})
            read.whole_number("n", None) if bad else read.required_text("n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("what", got=1), TritonError.INVALID_ARG),
        (Cancelled("stopped"), TritonError.CANCELLED),
        (NumericError("the picture holds NaN"), TritonError.INTERNAL),
        (OutOfMemory("full"), TritonError.UNAVAILABLE),
        (MemoryError("/srv"), TritonError.UNAVAILABLE),
        (BackendError("/srv cannot be read"), TritonError.INTERNAL),
        (KeyError("x"), TritonError.INTERNAL),
    ],
)
def test_errors_have_codes_and_those_of_the_server_no_text(server, error, code):
    answer = triton_error(server.utilities, error)
    assert answer.code() == code
    if isinstance(error, (InvalidRequest, Cancelled, NumericError)):
        assert answer.message() == str(error)
    else:
        incident = re.search("incident ([0-9a-f]{8})", answer.message())
        assert str(error) not in answer.message()
        assert incident[0] in server.logged[-1] and str(error) in server.logged[-1]
