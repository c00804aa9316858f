"""The hand-made bundle with weights that weigh something: what memory is measured on.

The UNet graphs share a chain of convolutions and matrix products in ``unet/weights.bin``; the text
encoder and the VAE decoder keep theirs inside, as small graphs of real bundles do. The chains end
in a factor so small that pictures stay those of the plain bundle, more or less.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.runtime.fake_bundle import NATIVE_GRAPH, TARGETS, refresh_manifest, write_bundle

CONVOLUTION, MATRIX = (512, 512, 3, 3), (2048, 2048)
UNET_CONVOLUTIONS, UNET_MATRICES = 12, 7
TEXT_MATRICES, VAE_CONVOLUTIONS = 6, 8
UNET_BYTES = 4 * (UNET_CONVOLUTIONS * 512 * 512 * 9 + UNET_MATRICES * 2048 * 2048)
"""230 MB in float32, half of it convolutions, as in SD 1.5."""


def write_heavy_bundle(root: Path, *, dtype: str = "fp32") -> Path:
    """Write the bundle; the UNet's and the text encoder's weights are in `dtype`."""
    write_bundle(root, dtype=dtype)
    number = np.float16 if dtype == "fp16" else np.float32
    weights = _Weights(number)
    for name in (NATIVE_GRAPH, *(f"unet/target-{size}.onnx" for size in TARGETS)):
        model = onnx.load(root / name)
        _insert(model, "m0", weights.external, UNET_CONVOLUTIONS, UNET_MATRICES, number)
        onnx.save(model, root / name)
    (root / "unet/weights.bin").write_bytes(weights.content)
    (root / "unet/weights.json").write_text(json.dumps(weights.index), "utf-8")
    for name, value, chain, kind in (
        ("text_encoder/model.onnx", "prompt_embeds", (0, TEXT_MATRICES), number),
        ("vae_decoder/model.onnx", "bounded", (VAE_CONVOLUTIONS, 0), np.float32),
    ):
        model = onnx.load(root / name)
        _insert(model, value, _Weights(kind).inline, *chain, kind)
        onnx.save(model, root / name)
    refresh_manifest(root)
    return root


class _Weights:
    """Tensors by name, made once."""

    def __init__(self, number) -> None:
        self.number, self.content, self.index = number, b"", {}
        self.random = np.random.default_rng(0)

    def array(self, shape):
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        return (self.random.standard_normal(shape, np.float32) * scale).astype(self.number)

    def inline(self, name, shape):
        return numpy_helper.from_array(self.array(shape), name)

    def external(self, name, shape):
        if name not in self.index:
            data = self.array(shape).tobytes()
            self.index[name] = {
                "dtype": np.dtype(self.number).name,
                "shape": list(shape),
                "offset": len(self.content),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            self.content += data
        entry = self.index[name]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.number))
        tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=1)
        for key, value in (
            ("location", "weights.bin"),
            ("offset", entry["offset"]),
            ("length", entry["bytes"]),
        ):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def _insert(model, value, tensor, convolutions, matrices, number) -> None:
    """Let the readers of `value` read it plus 1e-3 times a chain of heavy layers on it."""
    graph, kind = model.graph, helper.np_dtype_to_tensor_dtype(np.dtype(number))
    place = next(i for i, node in enumerate(graph.node) if value in node.output)
    graph.node[place].output[0] = f"{value}_plain"
    nodes = [helper.make_node("Cast", [f"{value}_plain"], ["heavy0"], to=kind)]
    constants = {"tiny": np.array(1e-3, np.float32)}
    channels = 3 if value == "bounded" else 4
    last = _convolutions(nodes, graph, tensor, convolutions, channels, number)
    last = _matrices(nodes, graph, constants, tensor, last, matrices, number)
    nodes += [
        helper.make_node("Cast", [last], ["heavy32"], to=1),
        helper.make_node("ReduceMean", ["heavy32"], ["heavy_mean"], keepdims=0),
        helper.make_node("Mul", ["heavy_mean", "tiny"], ["heavy_tiny"]),
        helper.make_node("Add", [f"{value}_plain", "heavy_tiny"], [value]),
    ]
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    rest = [*graph.node[: place + 1], *nodes, *graph.node[place + 1 :]]
    del graph.node[:]
    graph.node.extend(rest)


def _convolutions(nodes, graph, tensor, count, channels, number):
    if not count:
        return "heavy0"
    graph.initializer.append(
        numpy_helper.from_array(np.ones((512, channels, 1, 1), number), "widen")
    )
    nodes.append(helper.make_node("Conv", ["heavy0", "widen"], ["wide0"]))
    for i in range(count):
        graph.initializer.append(tensor(f"convolution{i}", CONVOLUTION))
        nodes.append(
            helper.make_node(
                "Conv", [f"wide{i}", f"convolution{i}"], [f"convolved{i}"], pads=[1, 1, 1, 1]
            )
        )
        nodes.append(helper.make_node("Tanh", [f"convolved{i}"], [f"wide{i + 1}"]))
    return f"wide{count}"


def _matrices(nodes, graph, constants, tensor, last, count, number):
    """Products on the mean of everything, spread over the width: the weights are what counts."""
    if not count:
        return last
    constants["spread"] = np.ones((1, 64, 2048), number)
    nodes.append(helper.make_node("ReduceMean", [last], ["chain_mean"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["chain_mean", "spread"], ["tokens0"]))
    for i in range(count):
        graph.initializer.append(tensor(f"matrix{i}", MATRIX))
        nodes.append(helper.make_node("MatMul", [f"tokens{i}", f"matrix{i}"], [f"product{i}"]))
        nodes.append(helper.make_node("Tanh", [f"product{i}"], [f"tokens{i + 1}"]))
    return f"tokens{count}"
