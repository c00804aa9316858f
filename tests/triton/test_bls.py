"""The sampler over graphs that are models of the same server: equal pictures, and its errors."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from fam_runtime import FamPipeline
from fam_runtime.backends.onnxruntime import OnnxruntimeBackend
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.errors import BackendError, InvalidRequest, OutOfMemory
from fam_runtime.triton.bls import BlsBackend, _caller_owns
from fam_runtime.triton.graph_config import can_batch, graph_io
from fam_runtime.triton.graph_names import model_name_of_graph, model_names
from tests.runtime.fake_bundle import write_bundle
from tests.triton.fake_pb_utils import (
    MODULE,
    FakeServer,
    InferenceResponse,
    Tensor,
    TritonError,
    graph_configuration,
    serve_graphs,
)

BASE, VERSION, DECODER = "fam_diffusion", 3, "vae_decoder/model.onnx"
DECODER_MODEL = "fam_diffusion_vae_decoder"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "sd fp32": Bundle.open(write_bundle(folder / "sd")),
        "sdxl fp16": Bundle.open(write_bundle(folder / "sdxl", family="sdxl", dtype="fp16")),
    }


@pytest.fixture
def server(monkeypatch):
    fake = FakeServer()
    monkeypatch.setitem(sys.modules, MODULE, fake.utilities)
    yield fake
    fake.unload_all()


@pytest.fixture
def bundle(bundles):
    return bundles["sd fp32"]


def sampler_bundle(bundle, folder):
    """The part that a sampler needs: no graph is among its files."""
    graphs = {name for graph in bundle.manifest.graphs for name in bundle.files_of_graph(graph)}
    names = [name for name in bundle.manifest.files if name not in graphs]
    for name in ("manifest.json", *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.root / name, folder / name)
    return Bundle.open(folder, only=names)


@pytest.mark.parametrize("max_batch_size", [0, 4])
@pytest.mark.parametrize("kind", ["sd fp32", "sdxl fp16"])
def test_pictures_equal_those_of_one_process(bundles, kind, max_batch_size, server, tmp_path):
    bundle = bundles[kind]
    batch = {"max_batch_size": max_batch_size, "pictures_per_batch": "4"}
    serve_graphs(server, bundle, tmp_path, BASE, version=VERSION, **batch)
    backend = BlsBackend(server.utilities, BASE, VERSION)
    prompts, options = ["a red ring", "a cat"], {"scheduler": "euler-a", "seed": 7}
    with (
        FamPipeline(bundle, OnnxruntimeBackend()) as alone,
        FamPipeline(sampler_bundle(bundle, tmp_path / "sampler"), backend) as served,
    ):
        for native_attention in ("store", "replay"):
            for pictures in (1, 2):
                options |= {"native_attention": native_attention, "pictures_per_batch": pictures}
                expected, got = alone(prompts, **options), served(prompts, **options)
                assert np.array_equal(expected.latents, got.latents)
                assert [i.tobytes() for i in expected.images] == [i.tobytes() for i in got.images]
        assert got.settings[0]["made_with"]["models"] == "fam_diffusion version 3"
    assert {request.model_version for request in server.executed} == {VERSION}
    assert {request.preferred_memory for request in server.executed} == {("cpu", 0)}


def test_a_replayed_step_asks_for_the_taps_alone(bundle, server, tmp_path):
    serve_graphs(server, bundle, tmp_path, BASE)
    with FamPipeline(bundle, BlsBackend(server.utilities, BASE, 1)) as pipe:
        pipe("a red ring", native_attention="replay", num_inference_steps=2)
    native = [r for r in server.executed if r.model_name == "fam_diffusion_unet_native"]
    wanted = [request.requested_output_names() for request in native]
    assert [sorted(name.split(".")[0] for name in names) for names in wanted] == [
        ["next_latent", "prediction"]
    ] * 2 + [["attention_key", "attention_query"]] * 2


class Answering:
    """A model that answers every request with the same response."""

    def __init__(self, response):
        self.response = response

    def execute(self, requests):
        return [self.response] * len(requests)


def decoder_answering(server, bundle, tmp_path, response):
    """The runner of a decoder whose model answers with `response`, and what to feed it."""
    config = graph_configuration(bundle, DECODER)
    server.load(Answering(response), tmp_path / DECODER_MODEL, config)
    runner = BlsBackend(server.utilities, BASE, 1).load(bundle, DECODER)
    return runner, {"latent": np.zeros((1, 4, 2, 3), np.float32)}


IMAGE = np.zeros((1, 3, 16, 24), np.float32)


@pytest.mark.parametrize(
    ("response", "kind", "text"),
    [
        (InferenceResponse(error=TritonError("it\nburns")), BackendError, "got 'it.*burns'"),
        (
            InferenceResponse(error=TritonError("full", TritonError.UNAVAILABLE)),
            OutOfMemory,
            "got 'full'",
        ),
        (InferenceResponse(), BackendError, "no output image"),
        (InferenceResponse([Tensor("other", IMAGE)]), BackendError, "no output image"),
        (
            InferenceResponse([Tensor("image", IMAGE[:, :, :8])]),
            BackendError,
            r"wrong image.*float32 \[1, 3, 8, 24\].*8h, 8w\] with B = 1, h = 2, w = 3",
        ),
        (
            InferenceResponse([Tensor("image", IMAGE.astype(np.float16))]),
            BackendError,
            "wrong image.*got 'float16",
        ),
    ],
)
def test_what_a_model_answers_wrongly(bundle, server, tmp_path, response, kind, text):
    runner, feeds = decoder_answering(server, bundle, tmp_path, response)
    with pytest.raises(kind, match=f"the model {DECODER_MODEL} of the server.*{text}"):
        runner.run(feeds)


def test_a_good_answer_belongs_to_the_caller(bundle, server, tmp_path):
    runner, feeds = decoder_answering(
        server, bundle, tmp_path, InferenceResponse([Tensor("image", IMAGE)])
    )
    first, second = runner.run(feeds)["image"], runner.run(feeds)["image"]
    first[:] = 5
    assert not second.any()
    own, borrowed = np.zeros(4, np.float32), np.frombuffer(bytes(16), np.float32)
    assert _caller_owns(own[1:]).base is own
    assert not np.shares_memory(_caller_owns(borrowed), borrowed)


def test_a_model_that_is_not_there_or_of_another_version(bundle, server, tmp_path):
    serve_graphs(server, bundle, tmp_path, BASE, version=2)
    feeds = {"latent": np.zeros((1, 4, 2, 3), np.float32)}
    BlsBackend(server.utilities, BASE, 2).load(bundle, DECODER).run(feeds)
    for base, version in ((BASE, 1), ("other", 2)):
        runner = BlsBackend(server.utilities, base, version).load(bundle, DECODER)
        with pytest.raises(BackendError, match=f"{base}_vae_decoder of.*version {version}.*ready"):
            runner.run(feeds)


def test_outside_of_a_request_the_server_refuses(bundle, server):
    class Refusing(server.utilities.InferenceRequest):
        def exec(self):
            raise server.utilities.TritonModelException("only in the execute function")

    server.utilities.InferenceRequest = Refusing
    runner = BlsBackend(server.utilities, BASE, 1).load(bundle, DECODER)
    with pytest.raises(BackendError, match=f"{DECODER_MODEL}.*only in the execute function"):
        runner.run({"latent": np.zeros((1, 4, 2, 3), np.float32)})


def test_bf16_is_refused_at_once(tmp_path, server):
    bundle = Bundle.open(write_bundle(tmp_path / "bf16", dtype="bf16"))
    with pytest.raises(BackendError, match="cannot run a bundle in bf16.*--dtype fp16 or fp32"):
        FamPipeline(bundle, BlsBackend(server.utilities, BASE, 1))
    assert graph_io(bundle.manifest.graphs[NATIVE_GRAPH], batched=False)[1][-1].data_type == (
        "TYPE_BF16"
    )


def test_names_of_models():
    names = {
        "unet/target-128x128.onnx": "fam_diffusion_unet_target_128x128",
        "text_encoder/model.onnx": "fam_diffusion_text_encoder",
        "text_encoder_2/model.onnx": "fam_diffusion_text_encoder_2",
        "é/x.y.onnx": "fam_diffusion_x_y",
    }
    for graph, name in names.items():
        assert model_name_of_graph(BASE, graph) == name
    assert list(model_names(BASE, names)) == list(names)
    for graphs in (
        ("a-b.onnx", "a_b.onnx"),
        ("stream.onnx",),
        ("model.onnx", "a.onnx", "a/model.onnx"),
    ):
        with pytest.raises(InvalidRequest, match="two models of the repository would be called"):
            model_names(BASE, graphs)


def test_configurations_of_inputs_and_outputs(bundle):
    graphs = bundle.manifest.graphs
    inputs, outputs = graph_io(graphs["unet/target-128x256.onnx"], batched=False)
    dims = {tensor.name: tensor.dims for tensor in (*inputs, *outputs)}
    assert dims["latent"] == (-1, 4, 16, 32)
    assert dims["timestep"] == (1,)
    assert dims["prompt_embeds"] == (-1, 77, 6)
    assert graph_io(graphs[DECODER], batched=False)[1] == (("image", "TYPE_FP32", (-1, 3, -1, -1)),)
    assert graph_io(graphs[DECODER], batched=True)[1] == (("image", "TYPE_FP32", (3, -1, -1)),)
    assert [graph for graph in graphs if not can_batch(graphs[graph])] == sorted(
        [NATIVE_GRAPH, *(target.step for target in bundle.manifest.targets)]
    )
    with pytest.raises(InvalidRequest, match="cannot be batched.*timestep.*use max_batch_size 0"):
        graph_io(graphs[NATIVE_GRAPH], batched=True)
    json.dumps(graph_configuration(bundle, NATIVE_GRAPH))
