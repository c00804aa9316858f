"""Peak activation memory against sums made by hand."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from fam_export.activation_memory import peak_activation_bytes

FLOAT = ir.TensorType(ir.DataType.FLOAT)


def value(name: str, *shape: int | str | None) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=FLOAT)


def model_of(nodes: list[ir.Node], inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Model:
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("batch", [1, 3])
def test_chain_holds_two_neighbours(batch: int) -> None:
    x, a, b, c = (value(n, "B", s) for n, s in (("x", 10), ("a", 100), ("b", 20), ("c", 5)))
    nodes = [
        ir.Node("", "Relu", [x], outputs=[a]),
        ir.Node("", "Relu", [a], outputs=[b]),
        ir.Node("", "Relu", [b], outputs=[c]),
    ]
    assert peak_activation_bytes(model_of(nodes, [x], [c]), {"B": batch}) == 4 * batch * 120


def test_skip_connection_stays_alive() -> None:
    x, a, b, c = (value(n, s) for n, s in (("x", 10), ("a", 100), ("b", 20), ("c", 30)))
    nodes = [
        ir.Node("", "Relu", [x], outputs=[a]),
        ir.Node("", "Relu", [a], outputs=[b]),
        ir.Node("", "Concat", [b, x], outputs=[c]),
    ]
    assert peak_activation_bytes(model_of(nodes, [x], [c]), {}) == 4 * (10 + 100 + 20)


def test_views_take_nothing_and_keep_their_source() -> None:
    x, a, b, c = value("x", 50), value("a", 50), value("b", "n", 25), value("c", 50)
    shape = value("shape", 2)
    nodes = [
        ir.Node("", "Relu", [x], outputs=[a]),
        ir.Node("", "Reshape", [a, shape], outputs=[b]),
        ir.Node("", "Relu", [b], outputs=[c]),
    ]
    assert peak_activation_bytes(model_of(nodes, [x], [c]), {"n": 2}) == 4 * 100


def test_unknown_shape_counts_as_what_it_was_made_from() -> None:
    x, a, b = value("x", 40), value("a", None), value("b", 1)
    nodes = [ir.Node("", "Relu", [x], outputs=[a]), ir.Node("", "ReduceMean", [a], outputs=[b])]
    assert peak_activation_bytes(model_of(nodes, [x], [b]), {}) == 4 * 80
