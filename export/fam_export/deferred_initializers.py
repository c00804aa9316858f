"""A pass that makes initializers read the checkpoint when they are asked, transposed where needed.

The tracer writes a linear layer as a product with a `Transpose` of its weight. Folding that as an
optimizer does would hold a copy of every weight; here the transposed tensor is one more that is
read when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor

from fam_export.deferred import DeferredParameters

TRANSPOSED_SUFFIX = ".transposed"


def defer_initializers(model: ir.Model, parameters: DeferredParameters) -> None:
    """Requires initializers that bear the names of parameters; ensures that none holds data.

    Args:
        model: changed in place.
        parameters: the data of the module that was traced.
    """
    for name, value in model.graph.initializers.items():
        if name in parameters:
            value.const_value = _deferred_tensor(value, name, parameters, None)
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.name not in parameters or not source.is_initializer():
            continue
        order = node.attributes["perm"].as_ints()
        name = str(source.name) + TRANSPOSED_SUFFIX
        if name not in model.graph.initializers:
            _add_transposed(model, source, name, order, parameters)
        node.outputs[0].replace_all_uses_with(model.graph.initializers[name])
        model.graph.remove(node, safe=True)


def _add_transposed(
    model: ir.Model,
    source: ir.Value,
    name: str,
    order: Sequence[int],
    parameters: DeferredParameters,
) -> None:
    tensor = _deferred_tensor(source, name, parameters, order)
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)


def _deferred_tensor(
    source: ir.Value, name: str, parameters: DeferredParameters, order: Sequence[int] | None
) -> ir.LazyTensor:
    original = source.const_value
    assert original is not None
    parameter = str(source.name)
    dimensions = list(original.shape.numpy())
    if order is not None:
        dimensions = [dimensions[axis] for axis in order]

    def read() -> ir.TensorProtocol:
        values = parameters[parameter]
        return TorchTensor(values if order is None else values.permute(*order).contiguous(), name)

    return ir.LazyTensor(read, original.dtype, ir.Shape(dimensions), name=name)
