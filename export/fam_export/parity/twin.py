"""The twin of a step graph: the same UNet, exported the same way, at a latent of a few samples.

A forward pass of full SDXL at 2x takes minutes on a CPU. Its twin computes with every weight and
every node in seconds; that the graph at full size is the twin but for its sizes is compared node by
node.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import onnx_ir as ir

from fam_runtime.errors import ParityError

INTEGER = "integer"
INTEGER_TYPES = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})

Operation = tuple[object, ...]


def check_same_graph(file: str, full: ir.Model, twin: ir.Model) -> None:
    """Check that two graphs differ in nothing but sizes.

    Operators, attributes and what feeds them agree, in order; weights are the same places in the
    same file; other floating-point constants agree where their shapes do. Integers are sizes:
    how they are computed is not compared, and which dimension goes where is not either, which the
    fixed shapes of the interface pin down.

    Raises:
        ParityError: they differ; the text names the first place.
    """
    for ours, theirs in zip_longest(_operations(full), _operations(twin)):
        if ours != theirs:
            raise ParityError(
                f"{file} is not the graph that was compared at a small size",
                got=ours,
                expected=str(theirs),
                fix="this is a defect of the exporter; please report it",
            )


def _operations(model: ir.Model) -> Iterator[Operation]:
    """The nodes that compute with floating-point values, each with what feeds it."""
    described: dict[ir.Value, object] = {}
    for value in model.graph.inputs:
        described[value] = INTEGER if value.dtype in INTEGER_TYPES else value.name
    for value in model.graph.initializers.values():
        described[value] = _constant(value)
    position = 0
    for node in model.graph:
        sources = tuple("" if value is None else described[value] for value in node.inputs)
        result: object = position
        if node.op_type == "Shape" or (sources and set(sources) == {INTEGER} and not _casts(node)):
            result = INTEGER
        else:
            attributes = tuple(sorted((n, str(a.value)) for n, a in node.attributes.items()))
            yield node.domain, node.op_type, attributes, sources
            position += 1
        for index, value in enumerate(node.outputs):
            described[value] = result if result == INTEGER else (result, index)
    for value in model.graph.outputs:
        yield value.name, described[value]


def _casts(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() not in INTEGER_TYPES


def _constant(value: ir.Value) -> object:
    """What has to be the same of an initializer at every size."""
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point():
        return INTEGER
    if isinstance(tensor, ir.ExternalTensor):
        return tensor.location, tensor.offset, tensor.length, str(tensor.dtype)
    if len(tensor.shape) < 2:
        return str(tensor.dtype), tensor.tobytes()
    return str(tensor.dtype), len(tensor.shape)  # an interpolation matrix, whose shape is sizes
