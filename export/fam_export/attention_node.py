"""The ONNX node that stands for one attention: ``com.microsoft.MultiHeadAttention``.

It is the contrib operator of ONNX Runtime with the layout ``[batch, tokens, channels]``;
TensorRT-RTX's parser turns it into its fused attention layer. docs/performance.md has the
measurements that chose it over the decomposed form and over ``Attention`` of opset 23.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx.defs
import torch
from onnxscript import values

import fam_graph.attention  # noqa: F401  (registers the operator that is translated here)

CONTRIB_DOMAIN = "com.microsoft"
ATTENTION_OP = "MultiHeadAttention"


def _attention_op() -> values.Op:
    schema = onnx.defs.OpSchema(
        ATTENTION_OP,
        CONTRIB_DOMAIN,
        1,
        inputs=[onnx.defs.OpSchema.FormalParameter(n, "T") for n in ("query", "key", "value")],
        outputs=[onnx.defs.OpSchema.FormalParameter("output", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
        attributes=[
            onnx.defs.OpSchema.Attribute("num_heads", onnx.defs.OpSchema.AttrType.INT, ""),
            onnx.defs.OpSchema.Attribute(
                "scale", onnx.defs.OpSchema.AttrType.FLOAT, "", required=False
            ),
        ],
    )
    return values.Op(values.Opset(CONTRIB_DOMAIN, 1), ATTENTION_OP, schema)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export`` needs to translate ``fam::attention`` into one node."""
    op = _attention_op()

    def multi_head_attention(
        query: Any, key: Any, value: Any, heads: int, scale: float | None = None
    ) -> Any:
        if scale is None:
            return op(query, key, value, num_heads=heads)
        return op(query, key, value, num_heads=heads, scale=scale)

    return {torch.ops.fam.attention.default: multi_head_attention}
