"""Operations and bytes, beside PyTorch's own counter, ONNX Runtime's shapes, and by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from fam_bench.latency.floor.graph_cost import GraphCost, graph_cost, model_cost
from fam_bench.latency.floor.graph_shapes import graph_shapes
from fam_export.checkpoint import open_checkpoint
from fam_export.graph_definition import TORCH_DTYPES, GraphDefinition, concrete_shape
from fam_export.graph_factory import GraphFactory, GraphName
from fam_export.onnx_model import traced_graph
from fam_export.options import ExportOptions
from fam_export.verify.torch_backend import graph_names, materialise, options_of
from fam_runtime.bundle import Bundle, Target
from fam_runtime.errors import BackendError
from tests.checkpoints import make_checkpoint
from tests.conftest import Exported

SIZES = {"B": 2, "h": 32, "w": 24}
FAMILY_OF_TORCH = {
    "aten.convolution": "convolution",
    "aten.mm": "matrix_product",
    "aten.addmm": "matrix_product",
    "aten.bmm": "matrix_product",
    "aten.baddbmm": "matrix_product",
    "fam.attention": "attention",
}


def counted_by_torch(definition: GraphDefinition) -> dict[str, int]:
    """Operations of the module's products by family.

    PyTorch has no formula for `fam::attention`, so it gets the one that PyTorch has for
    ``scaled_dot_product_attention``.
    """

    def attention(query: Any, key: Any, value: Any, heads: int, *_: Any, **__: Any) -> int:
        split = [(own[0], heads, own[1], own[2] // heads) for own in (query, key, value)]
        return int(sdpa_flop_count(*split))

    materialise(definition.module, torch.device("cpu"))
    feeds = {
        spec.name: torch.ones(concrete_shape(spec, SIZES), dtype=TORCH_DTYPES[spec.dtype])
        for spec in definition.inputs
    }
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.fam.attention: attention})
    # The other implementations of attention on a CPU have no formula either.
    with counter, sdpa_kernel(SDPBackend.MATH):
        definition.run(feeds)
    families: Counter[str] = Counter()
    for operator, count in counter.get_flop_counts()["Global"].items():
        families[FAMILY_OF_TORCH[str(operator)]] += count
    return dict(families)


def products(cost: GraphCost) -> dict[str, int]:
    return {
        family: count
        for family, count in cost.operations_by_family.items()
        if family in FAMILY_OF_TORCH.values() and count
    }


def test_products_are_those_that_pytorch_counts(tiny: Exported) -> None:
    bundle = Bundle.open(tiny.bundle, verify="size")
    graphs = GraphFactory(
        open_checkpoint(tiny.checkpoint), options_of(bundle.manifest), reference=True
    )
    names = graph_names(bundle.manifest)
    assert {name.kind for name in names.values()} >= {"native", "target", "vae_decoder"}
    for graph, name in names.items():
        expected = counted_by_torch(graphs.definition(name))
        assert products(graph_cost(bundle, graph, SIZES)) == expected, graph


@pytest.mark.slow
def test_sdxl_is_counted_and_shaped_too(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint("sdxl", tmp_path / "tiny"))
    name = GraphName("target", Target.for_size(192, 256))  # AM by matrices, not by views
    graphs = GraphFactory(checkpoint, ExportOptions())
    model = ir.to_proto(traced_graph(graphs.definition(name)).model)
    reference = GraphFactory(checkpoint, ExportOptions(), reference=True)
    assert products(model_cost(model, SIZES)) == counted_by_torch(reference.definition(name))
    check_shapes(model)


def test_shapes_are_those_that_onnx_runtime_computes(tiny: Exported) -> None:
    bundle = Bundle.open(tiny.bundle, verify="size")
    for graph in graph_names(bundle.manifest):
        check_shapes(onnx.load(bundle.path(graph)))


def check_shapes(model: onnx.ModelProto) -> None:
    """Run `model` with every value as an output."""
    shapes = graph_shapes(model, SIZES)
    values = [name for node in model.graph.node for name in node.output if name]
    every = onnx.ModelProto.FromString(model.SerializeToString())
    del every.graph.output[:]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(every.SerializeToString(), options)
    dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feeds = {
        value.name: np.ones(shapes.types[value.name].shape, dtypes[value.type])
        for value in session.get_inputs()
    }
    for name, computed in zip(values, session.run(values, feeds), strict=True):
        own = shapes.types[name]
        assert (own.shape, own.element_bytes) == (computed.shape, computed.itemsize), name


def test_bytes_of_a_step_are_those_of_its_files_and_interface(tiny: Exported) -> None:
    bundle = Bundle.open(tiny.bundle, verify="size")
    (target,) = bundle.manifest.targets
    cost, spec = graph_cost(bundle, target.step, {"B": 1}), bundle.manifest.graphs[target.step]
    assert cost.weight_bytes == pytest.approx(
        sum(bundle.external_bytes(target.step).values()), rel=0.05
    )
    by_hand = [
        sum(4 * int(np.prod(concrete_shape(value, {"B": 1}))) for value in values)
        for values in (spec.inputs, spec.outputs)
    ]
    assert [cost.input_bytes, cost.output_bytes] == by_hand
    assert cost.compulsory_bytes == cost.weight_bytes + sum(by_hand)
    twice = graph_cost(bundle, target.step, {"B": 2})
    assert twice.weight_bytes == cost.weight_bytes
    assert 1.9 < twice.activation_bytes / cost.activation_bytes <= 2
    assert 1.9 < twice.operations / cost.operations <= 2


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[Any, ...]],
    weights: Mapping[str, tuple[int, ...]],
) -> onnx.ModelProto:
    """A graph whose external weights exist nowhere, with one output, `y`."""
    tensors = []
    for name, shape in weights.items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="nowhere.bin")
        tensors.append(tensor)
    tensors.append(helper.make_tensor("flat", TensorProto.INT64, (2,), (0, -1)))
    values = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name == "ids" else TensorProto.FLOAT16, shape
        )
        for name, shape in inputs.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    graph = helper.make_graph(nodes, "by hand", values, [output], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def test_a_grouped_convolution_by_hand() -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=2, strides=[2, 2], pads=[1] * 4)
    model = model_of([node], {"x": ("2B", 8, 10, "w")}, {"w": (6, 4, 3, 3), "b": (6,)})
    cost = model_cost(model, {"B": 1, "w": 12})
    outputs = 2 * 6 * 5 * 6
    assert cost.operations_by_family["convolution"] == 2 * outputs * 4 * 9
    assert cost.operations_by_family["other"] == outputs  # the bias
    assert cost.weight_bytes == 2 * (6 * 4 * 9 + 6)
    assert (cost.input_bytes, cost.output_bytes) == (2 * 2 * 8 * 120, 2 * outputs)
    assert cost.activation_bytes == 2 * 2 * outputs


def test_products_lookups_views_and_attention_by_hand() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),  # [1, 7, 16]
        helper.make_node("MatMul", ["rows", "w"], ["q"]),  # [1, 7, 32]
        helper.make_node(
            "MultiHeadAttention", ["q", "k", "v"], ["a"], domain="com.microsoft", num_heads=4
        ),  # [1, 7, 24]
        helper.make_node("Reshape", ["a", "flat"], ["m"]),  # [1, 168]
        helper.make_node("Gemm", ["m", "g"], ["n"], transA=1),  # [168, 5]
        helper.make_node("LayerNormalization", ["n", "scale"], ["y"]),
    ]
    model = model_of(
        nodes,
        {"ids": ("B", 7), "k": ("B", 9, 32), "v": ("B", 9, 24)},
        {"table": (1000, 16), "w": (16, 32), "g": (1, 5), "scale": (5,)},
    )
    cost = model_cost(model, {"B": 1})
    assert cost.operations_by_family == {
        "convolution": 0,
        "matrix_product": 2 * 7 * 16 * 32 + 2 * 168 * 5,
        "attention": 2 * 7 * 9 * 32 + 2 * 7 * 9 * 24,
        "normalisation": 7 * 168 * 5,
        "other": 0,
    }
    assert cost.weight_bytes == 2 * (7 * 16 + 16 * 32 + 5 + 5) + 16
    assert cost.input_bytes == 8 * 7 + 2 * 9 * (32 + 24)
    assert cost.activation_bytes == 2 * 2 * (7 * 16 + 7 * 32 + 7 * 24 + 168 * 5 + 168 * 5)


def test_shape_arithmetic_is_free_and_a_shared_weight_is_read_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),  # [3, 4]
        helper.make_node("MatMul", ["p", "w"], ["q"]),
        helper.make_node("Shape", ["q"], ["s"]),
        helper.make_node("Add", ["s", "s"], ["doubled"]),  # [6, 8]
        helper.make_node("Expand", ["one", "doubled"], ["many"]),
        helper.make_node("Sigmoid", ["many"], ["y"]),
    ]
    model = model_of(nodes, {"x": ("B", 4), "one": (1, 1)}, {"w": (4, 4)})
    cost = model_cost(model, {"B": 3})
    assert cost.operations_by_family["matrix_product"] == 2 * 2 * 3 * 4 * 4
    assert cost.operations_by_family["other"] == 48
    assert cost.weight_bytes == 2 * 16
    assert cost.activation_bytes == 2 * 2 * (12 + 12 + 48 + 48)
    assert cost.output_bytes == 2 * 48


def test_what_cannot_be_counted_is_an_error() -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(BackendError, match="a symbol of the manifest has no size"):
        model_cost(model_of([product], {"x": ("B", 4)}, {"w": (4, 4)}), {"h": 1})
    # How many are not zero depends on the values.
    found = helper.make_node("NonZero", ["x"], ["found"])
    cast = helper.make_node("Cast", ["found"], ["c"], to=TensorProto.FLOAT16)
    product = helper.make_node("MatMul", ["w", "c"], ["y"])
    with pytest.raises(BackendError, match="the shape of found cannot be told .* got 'NonZero'"):
        model_cost(model_of([found, cast, product], {"x": ("B", 4)}, {"w": (4, 2)}), {"B": 1})
    lost = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(BackendError, match="the shape of y cannot be told .* got 'MatMul'"):
        model_cost(model_of([lost], {"x": ("B", 4)}, {"w": (3, 4)}), {"B": 1})
    other = helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,ij->bj")
    with pytest.raises(BackendError, match="no rule to count .* got 'Einsum'"):
        model_cost(model_of([other], {"x": ("B", 4)}, {"w": (4, 4)}), {"B": 1})
    foreign = helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")
    with pytest.raises(BackendError, match="the shape of y cannot be told .* got 'FusedConv'"):
        model_cost(model_of([foreign], {"x": ("B", 4)}, {"w": (4, 4)}), {"B": 1})
