"""Shapes and types of every value of an ONNX graph, for given sizes of its symbols.

The nodes are walked once. onnx infers each node's outputs from the shapes, and where they are known
the values, of its inputs; onnx's reference evaluator computes the values of shape arithmetic
(``Shape``, ``Gather``, ``Concat``, ...), which onnx's inference of whole graphs loses at the first
``Expand``. No weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    import onnx

CONTRIB_DOMAIN, ATTENTION = "com.microsoft", "MultiHeadAttention"
"""The operator that onnx does not know: ``[batch, tokens, channels]`` in and out."""

MAX_KNOWN_ELEMENTS = 64
"""What has more is a tensor, not a shape, and is not computed here."""


@dataclass(frozen=True)
class ValueType:
    """Shape and bytes per element of a value."""

    shape: tuple[int, ...]
    element_bytes: int

    @property
    def elements(self) -> int:
        """How many."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.elements * self.element_bytes


@dataclass(frozen=True)
class GraphShapes:
    """What is known of a graph's values before it runs.

    Attributes:
        types: of every value, weights among them.
        known: values that depend on shapes alone: no library computes them at every run.
    """

    types: Mapping[str, ValueType]
    known: frozenset[str]


def graph_shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> GraphShapes:
    """Shapes of all values of `model`.

    Args:
        model: its external data need not be loaded; it is not changed.
        sizes: of the symbols in the shapes of its inputs, such as ``{"B": 1}``; ``2B`` is twice B.

    Raises:
        BackendError: a symbol has no size, or the shape of a value cannot be told.
        ImportError: onnx is missing.
    """
    walk = _Walk(model, sizes)
    for node in model.graph.node:
        walk.visit(node)
    return GraphShapes(
        {name: _value_type(own) for name, own in walk.types.items()}, frozenset(walk.known)
    )


class _Walk:
    """From the inputs to the outputs, node by node.

    Attributes:
        types: onnx's types of the values met.
        known: the small ones whose values are known.
    """

    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
        import onnx

        self._opsets = list(model.opset_import)
        self._versions = {own.domain: own.version for own in self._opsets}
        self.types: dict[str, Any] = {}
        self.known: dict[str, NDArray[Any]] = {}
        for value in model.graph.input:
            tensor = value.type.tensor_type
            dims = [
                d.dim_param if d.HasField("dim_param") else d.dim_value for d in tensor.shape.dim
            ]
            self._add(value.name, tensor.elem_type, shape_from_symbols(dims, sizes))
        for weight in model.graph.initializer:
            self._add(weight.name, weight.data_type, weight.dims)
            inside = weight.data_location != onnx.TensorProto.EXTERNAL
            if inside and prod(weight.dims) <= MAX_KNOWN_ELEMENTS:
                self.known[weight.name] = onnx.numpy_helper.to_array(weight)

    def visit(self, node: onnx.NodeProto) -> None:
        """Infer the types of the node's outputs, and their values where it is shape arithmetic.

        Raises:
            BackendError: they cannot be told.
        """
        if (node.domain, node.op_type) == (CONTRIB_DOMAIN, ATTENTION):
            query, _, value = (self.types[name].tensor_type for name in node.input[:3])
            batch, tokens, _ = dims_of(query)
            self._add(node.output[0], query.elem_type, (batch, tokens, dims_of(value)[-1]))
            return
        for name, own in self._inferred(node).items():
            self.types[name] = own
        for name in filter(None, node.output):
            if name not in self.types or not _is_fixed(self.types[name]):
                raise _unknown(node, name)
        self._evaluate(node)

    def _inferred(self, node: onnx.NodeProto) -> dict[str, Any]:
        import onnx

        inputs = {name: self.types[name] for name in node.input if name}
        values = {
            name: onnx.numpy_helper.from_array(self.known[name])
            for name in inputs
            if name in self.known
        }
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions[node.domain], node.domain)
            return onnx.shape_inference.infer_node_outputs(
                schema, node, inputs, values, opset_imports=self._opsets
            )
        except (KeyError, onnx.defs.SchemaError, onnx.shape_inference.InferenceError) as error:
            raise _unknown(node, node.output[0]) from error

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """Compute what follows from shapes and constants."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        outputs = [name for name in node.output if name]
        if any(prod(dims_of(self.types[o].tensor_type)) > MAX_KNOWN_ELEMENTS for o in outputs):
            return
        inputs = [name for name in node.input if name]
        if node.op_type in ("Shape", "Size"):  # of any value: its elements are not looked at
            dims = dims_of(self.types[inputs[0]].tensor_type)
            feeds = {inputs[0]: np.broadcast_to(np.float32(0), dims)}
        elif all(name in self.known for name in inputs):
            feeds = {name: self.known[name] for name in inputs}
        else:
            return
        values = [onnx.ValueInfoProto(name=name) for name in feeds]
        graph = onnx.helper.make_graph(
            [node], "shape", values, [onnx.ValueInfoProto(name=name) for name in outputs]
        )
        one = onnx.helper.make_model(graph, opset_imports=self._opsets)
        computed = ReferenceEvaluator(one).run(None, feeds)
        self.known.update(zip(outputs, map(np.asarray, computed), strict=True))

    def _add(self, name: str, element_type: int, dims: Sequence[int]) -> None:
        import onnx

        self.types[name] = onnx.helper.make_tensor_type_proto(element_type, list(dims))


def dims_of(tensor: Any) -> tuple[int, ...]:
    """The shape of an onnx tensor type whose dimensions are all known."""
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _is_fixed(own: Any) -> bool:
    """Whether a type is a tensor's with a number for every dimension."""
    tensor = own.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _value_type(own: Any) -> ValueType:
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(own.tensor_type.elem_type)
    return ValueType(dims_of(own.tensor_type), dtype.itemsize)


def _unknown(node: onnx.NodeProto, name: str) -> BackendError:
    return BackendError(
        f"the shape of {name} cannot be told",
        got=f"{node.op_type} {node.name}".strip(),
        expected="a shape that follows from the inputs' shapes and onnx's inference",
        fix="export the bundle with this version of fam-export",
    )
