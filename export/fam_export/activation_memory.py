"""How much memory the values between the nodes of a graph take at once."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import sympy

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Their outputs share the memory of their first input in every library."""


def peak_activation_bytes(model: ir.Model, sizes: Mapping[str, int]) -> int:
    """The peak, over the graph's order, of the bytes of all values that are still needed.

    Inputs count as long as somebody reads them, outputs to the end. What operators need inside
    (a convolution's workspace) is not known here.

    Args:
        model: shapes of its values are inferred.
        sizes: values of the symbols in shapes, such as ``{"B": 1}``.
    """
    storage = _storages(model)
    last_use: dict[ir.Value, int] = {}
    nodes = list(model.graph)
    for index, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value in storage:
                last_use[storage[value]] = index
    for value in model.graph.outputs:
        last_use[storage.get(value, value)] = len(nodes)
    dying: dict[int, list[ir.Value]] = {}
    for value, index in last_use.items():
        dying.setdefault(index, []).append(value)
    sized = _Sizes(sizes)
    alive = sum(sized.bytes_of(value) for value in model.graph.inputs if value in last_use)
    peak = alive
    for index, node in enumerate(nodes):
        alive += sum(sized.bytes_of(v) for v in node.outputs if storage[v] is v and v in last_use)
        peak = max(peak, alive)
        alive -= sum(sized.bytes_of(value) for value in dying.get(index, ()))
    return peak


def _storages(model: ir.Model) -> dict[ir.Value, ir.Value]:
    """Each value that is computed or fed → the value whose memory it lies in."""
    storage = {value: value for value in model.graph.inputs}
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        is_view = node.op_type in VIEWS and source is not None and source in storage
        for value in node.outputs:
            storage[value] = storage[source] if is_view and source is not None else value
    return storage


class _Sizes:
    """Bytes of values for given symbols; the same few expressions come again and again."""

    def __init__(self, symbols: Mapping[str, int]) -> None:
        self._symbols, self._known = dict(symbols), dict[str, int]()
        self._bytes: dict[ir.Value, int] = {}

    def bytes_of(self, value: ir.Value) -> int:
        """Bytes of a value; one whose shape was lost is as large as what it was made from."""
        if value not in self._bytes:
            self._bytes[value] = self._computed(value)
        return self._bytes[value]

    def _computed(self, value: ir.Value) -> int:
        count = 1
        for dimension in value.shape or (None,):
            size = dimension if isinstance(dimension, int) else self._symbolic(dimension)
            if size is None:
                return self._of_source(value)
            count *= size
        return count * (4 if value.dtype is None else int(value.dtype.itemsize))

    def _of_source(self, value: ir.Value) -> int:
        node = value.producer()
        source = node.inputs[0] if node is not None and node.inputs else None
        return 0 if source is None else self.bytes_of(source)

    def _symbolic(self, dimension: ir.SymbolicDim | None) -> int | None:
        expression = None if dimension is None else dimension.value
        if expression is None:
            return None
        if expression not in self._known:
            number = sympy.sympify(expression).subs(self._symbols)
            if not number.is_number:
                return None
            self._known[expression] = int(number)
        return self._known[expression]
