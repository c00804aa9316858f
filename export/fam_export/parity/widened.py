"""A graph of half precision as the same graph in fp32, over the same weights."""

from __future__ import annotations

import onnx_ir as ir

HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def widen(model: ir.Model) -> None:
    """Requires strong typing; ensures that every tensor but a stored weight is fp32.

    Weights stay where and as they are (memory-mapped, half as large); a `Cast` follows each.

    Args:
        model: changed in place.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype in HALF:
            value.dtype = ir.DataType.FLOAT
    for node in list(model.graph):
        _widen_attributes(node)
    for value in list(model.graph.initializers.values()):
        if value.const_value is not None and value.const_value.dtype in HALF:
            _cast(model, value)


def _widen_attributes(node: ir.Node) -> None:
    if node.op_type in ("Cast", "RandomNormal", "EyeLike"):
        name = "to" if node.op_type == "Cast" else "dtype"
        if name in node.attributes and node.attributes[name].as_int() in HALF:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype in HALF:
                wide = ir.tensor(tensor.numpy().astype("float32"), name=tensor.name)
                node.attributes[name] = ir.AttrTensor(name, wide)


def _cast(model: ir.Model, weight: ir.Value) -> None:
    users = [(use.node, use.idx) for use in weight.uses()]
    # A cast for each use, beside it: one for all of them would live from the first to the last.
    for node, index in users:
        cast = ir.node("Cast", [weight], {"to": int(ir.DataType.FLOAT)})
        cast.outputs[0].name = f"{weight.name}.{node.name or id(node)}.{index}.fp32"
        model.graph.insert_before(node, cast)
        node.replace_input_with(index, cast.outputs[0])
    if weight.dtype in HALF:
        weight.dtype = weight.const_value.dtype if weight.const_value else weight.dtype
