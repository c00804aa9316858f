"""Operations and bytes of a graph, counted from its nodes and shapes.

A multiply-add counts as two operations. Products are counted exactly, as PyTorch's counter does
(``2·M·N·K``; padding's zeros included); everything else by a convention per element that is a lower
bound, and weighs little. Copies (Concat, Transpose, ...) and shape arithmetic have none. An
algorithm with fewer multiplications for the same convolution (Winograd's) may beat the count; the
ceiling that it is divided by is measured with a convolution too, and then shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal, get_args

from fam_bench.latency.floor.graph_shapes import ATTENTION, GraphShapes, ValueType, graph_shapes
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    import onnx

    from fam_runtime.bundle import Bundle

Family = Literal["convolution", "matrix_product", "attention", "normalisation", "other"]
FAMILIES: tuple[Family, ...] = get_args(Family)

VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Their outputs share the memory of their input in every library."""

MOVES = VIEWS | frozenset(
    {
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Expand",
        "Gather",
        "Pad",
        "Range",
        "ScatterND",
        "Shape",
        "Slice",
        "Split",
        "Tile",
        "Transpose",
        "Trilu",
    }
)
"""Without arithmetic."""

ELEMENTWISE = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "Ceil",
        "Clip",
        "Cos",
        "Div",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "Greater",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "Reciprocal",
        "Relu",
        "Resize",
        "Round",
        "Sigmoid",
        "Sin",
        "Sqrt",
        "Sub",
        "Tanh",
        "Where",
    ]
)
"""One operation per element of the output, although a Gelu is more, and a Resize to the nearest
less."""

REDUCTIONS = frozenset({"ArgMax", "CumSum", "ReduceMax", "ReduceMean", "ReduceSum"})
"""One operation per element of the input."""

SOFTMAX_OPERATIONS = 5
"""Per element: maximum, difference, exponential, sum, quotient."""

NORMALISATION_OPERATIONS = 7
"""Per element: mean, difference, square, its sum, quotient, scale, shift."""

NORMALISATIONS = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"}
)


@dataclass(frozen=True)
class GraphCost:
    """What one run of a graph takes at least, and what it moves where nothing is fused.

    Attributes:
        operations_by_family: floating-point operations; see the module's text. `attention` are
            both products of attention nodes (``Q·Kᵀ`` and ``M·V``), without the softmax between
            them; attention that a graph spells out is under `matrix_product`.
        weight_bytes: of the constants that its nodes read, each once; of a table that is only
            looked up (token embeddings) the rows that are read.
        input_bytes, output_bytes: of the graph's inputs and outputs.
        activation_bytes: every node's outputs, written once and read once; views do neither.
    """

    operations_by_family: Mapping[Family, int]
    weight_bytes: int
    input_bytes: int
    output_bytes: int
    activation_bytes: int

    @property
    def operations(self) -> int:
        """Of all families."""
        return sum(self.operations_by_family.values())

    @property
    def io_bytes(self) -> int:
        """Of inputs and outputs."""
        return self.input_bytes + self.output_bytes

    @property
    def compulsory_bytes(self) -> int:
        """What must pass through memory however well everything is fused."""
        return self.weight_bytes + self.io_bytes

    def __add__(self, other: GraphCost) -> GraphCost:
        """Of both graphs, one after the other."""
        return self._combined(other, 1)

    def __sub__(self, other: GraphCost) -> GraphCost:
        """Of what `other`, the same graph with something left out, lacks."""
        return self._combined(other, -1)

    def _combined(self, other: GraphCost, sign: int) -> GraphCost:
        return GraphCost(
            {
                family: own + sign * other.operations_by_family[family]
                for family, own in self.operations_by_family.items()
            },
            self.weight_bytes + sign * other.weight_bytes,
            self.input_bytes + sign * other.input_bytes,
            self.output_bytes + sign * other.output_bytes,
            self.activation_bytes + sign * other.activation_bytes,
        )


def graph_cost(bundle: Bundle, graph: str, sizes: Mapping[str, int]) -> GraphCost:
    """Operations and bytes of one run of a bundle's graph.

    Args:
        bundle: its weights are not read.
        graph: name of the graph's file.
        sizes: of the symbols in its shapes: ``{"B": 1}``, for the VAE also `h` and `w`.

    Raises:
        BackendError: see :func:`model_cost`.
        ImportError: onnx is missing.
    """
    import onnx

    return model_cost(onnx.load(bundle.path(graph), load_external_data=False), sizes)


def model_cost(model: onnx.ModelProto, sizes: Mapping[str, int]) -> GraphCost:
    """The same of a graph in memory, with or without its external data.

    Raises:
        BackendError: the shape of a value cannot be told, or there is no rule for an operator.
        ImportError: onnx is missing.
    """
    shapes = graph_shapes(model, sizes)
    running = [n for n in model.graph.node if not shapes.known.issuperset(filter(None, n.output))]
    operations: dict[Family, int] = dict.fromkeys(FAMILIES, 0)
    for node in running:
        for family, count in node_operations(node, shapes.types).items():
            operations[family] += count
    produced = [n for node in running if node.op_type not in VIEWS for n in node.output if n]
    return GraphCost(
        operations_by_family=operations,
        weight_bytes=_weight_bytes(model, running, shapes),
        input_bytes=sum(shapes.types[value.name].bytes for value in model.graph.input),
        output_bytes=sum(shapes.types[value.name].bytes for value in model.graph.output),
        activation_bytes=2 * sum(shapes.types[name].bytes for name in produced),
    )


def node_operations(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> dict[Family, int]:
    """Operations of one node by family.

    Raises:
        BackendError: there is no rule for its operator.
    """
    output = types[node.output[0]]
    if node.op_type in MOVES:
        return {}
    if node.op_type in PRODUCTS:
        family, operations = PRODUCTS[node.op_type]
        bias = output.elements if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 else 0
        return {family: operations(node, types), "other": bias}
    if node.op_type in NORMALISATIONS:
        return {"normalisation": NORMALISATION_OPERATIONS * output.elements}
    if node.op_type in ELEMENTWISE:
        return {"other": output.elements}
    if node.op_type in REDUCTIONS:
        return {"other": types[node.input[0]].elements}
    if node.op_type == "Softmax":
        return {"other": SOFTMAX_OPERATIONS * output.elements}
    raise BackendError(
        "there is no rule to count the operations of an operator",
        got=f"{node.op_type} {node.name}".strip(),
        expected="an operator that fam-export writes",
        fix="export the bundle with this version of fam-export",
    )


def _convolution(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> int:
    """``2 · outputs · C_in/groups · kernel``; a weight is ``[C_out, C_in/groups, *kernel]``."""
    return 2 * types[node.output[0]].elements * prod(types[node.input[1]].shape[1:])


def _matrix_product(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> int:
    """``2 · outputs · K`` for ``[..., M, K] · [..., K, N]``."""
    return 2 * types[node.output[0]].elements * types[node.input[0]].shape[-1]


def _general_product(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> int:
    """``2 · M · N · K``, where the first matrix may be transposed."""
    transposed = any(own.name == "transA" and own.i for own in node.attribute)
    depth = types[node.input[0]].shape[0 if transposed else 1]
    return 2 * types[node.output[0]].elements * depth


def _attention(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> int:
    """``2·B·N·M·C`` for the map of all heads and as much, with V's channels, for its product."""
    (batch, queries, channels), key, value = (types[name].shape for name in node.input[:3])
    if len(key) != 3 or len(value) != 3:
        raise BackendError(
            f"{node.op_type} has a layout that is not counted",
            got=f"key {key}, value {value}",
            expected="[batch, tokens, channels]",
            fix="export the bundle with this version of fam-export",
        )
    return 2 * batch * queries * key[1] * (channels + value[2])


Rule = Callable[["onnx.NodeProto", Mapping[str, ValueType]], int]
PRODUCTS: Mapping[str, tuple[Family, Rule]] = {
    "Conv": ("convolution", _convolution),
    "MatMul": ("matrix_product", _matrix_product),
    "Gemm": ("matrix_product", _general_product),
    ATTENTION: ("attention", _attention),
}
"""What nearly all operations are."""


def _weight_bytes(
    model: onnx.ModelProto, running: list[onnx.NodeProto], shapes: GraphShapes
) -> int:
    """Bytes of constants that running nodes read; of a table the rows that Gather takes."""
    weights = {weight.name for weight in model.graph.initializer}
    read: dict[str, int] = {}
    for node in running:
        for index, name in enumerate(node.input):
            if name in weights:
                size = shapes.types[name].bytes
                if node.op_type == "Gather" and index == 0:
                    size = min(size, shapes.types[node.output[0]].bytes)
                read[name] = max(read.get(name, 0), size)
    return sum(read.values())
