"""The twin of a step graph: the same UNet, exported the same way, at a latent of a few samples.

A forward pass of full SDXL at 2x takes minutes on a CPU. Its twin computes with every weight and
every node in seconds; that the graph at full size is the twin but for its sizes is compared node by
node.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
import onnx_ir as ir

from fam_runtime.errors import ParityError

COMPUTED_INTEGER = "computed integer"
INTEGER_TYPES = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})

MIN_SIZE = 2
"""Smaller integers are axes, indices, signs: they have to be the same."""

ROW_SUM_TOLERANCE = 1e-2

Operation = tuple[object, ...]


def check_same_graph(file: str, full: ir.Model, twin: ir.Model) -> None:
    """Check that two graphs differ in nothing but sizes.

    Operators, attributes and what feeds them agree, in order; weights are the same places in the
    same file; constants agree as :class:`_Constant` says. Integers that are computed are sizes: how
    they are computed is not compared.

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
    integers: set[ir.Value] = set()
    for value in model.graph.inputs:
        described[value] = value.name
    for value in model.graph.initializers.values():
        described[value] = _description(value)
        if value.const_value is not None and value.const_value.dtype in INTEGER_TYPES:
            integers.add(value)
    position = 0
    for node in model.graph:
        sources = [value for value in node.inputs if value is not None]
        of_integers = bool(sources) and integers.issuperset(sources) and not _casts_to_float(node)
        if node.op_type == "Shape" or of_integers:
            integers.update(node.outputs)
            described.update(dict.fromkeys(node.outputs, COMPUTED_INTEGER))
            continue
        attributes = tuple(sorted((n, str(a.value)) for n, a in node.attributes.items()))
        fed = tuple("" if value is None else described[value] for value in node.inputs)
        yield node.domain, node.op_type, attributes, fed
        for index, value in enumerate(node.outputs):
            described[value] = (position, index)
        position += 1
    for value in model.graph.outputs:
        yield value.name, described[value]


def _casts_to_float(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() not in INTEGER_TYPES


def _description(value: ir.Value) -> object:
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        return tensor.location, tensor.offset, tensor.length, str(tensor.dtype)
    return value.name if tensor is None else _Constant(tensor)


class _Constant:
    """A constant inside a graph: equal to one that differs in nothing but sizes.

    Of one shape, floating-point constants hold the same numbers. Of different shapes, they are
    interpolation matrices, whose rows or columns sum to one. Integers may differ where they can be
    sizes: the full graph's is the larger. An integer may be a constant here and computed there.

    Args:
        tensor: the constant.
    """

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self._values = tensor.numpy()
        self._integer = not tensor.dtype.is_floating_point()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self._integer and other == COMPUTED_INTEGER
        if not isinstance(other, _Constant) or self._values.dtype != other._values.dtype:
            return False
        ours, theirs = self._values, other._values
        if ours.shape == theirs.shape:
            sizes = self._integer & (ours >= theirs) & (theirs >= MIN_SIZE)
            return bool(((ours == theirs) | sizes).all())
        return not self._integer and _interpolates(ours) and _interpolates(theirs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"constant {self._values.dtype}{list(self._values.shape)}"


def _interpolates(matrix: np.ndarray) -> bool:
    """Whether the rows sum to one; or the columns, of a matrix that stands transposed."""
    if matrix.ndim < 2:
        return False
    sums = (matrix.astype(np.float32).sum(axis=axis) for axis in (-1, -2))
    return any(float(np.abs(total - 1).max()) < ROW_SUM_TOLERANCE for total in sums)
