"""A graph's inputs and outputs as Triton sees them: types, dimensions, and what may be batched.

Triton has no tensors without dimensions (it refuses ``reshape { shape: [ ] }`` in a model with
``max_batch_size: 0``): a scalar of the manifest travels as one number, ``[1]``. Triton's own ONNX
Runtime backend takes it so; the sampler and the Python model of a graph turn it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fam_runtime.backends.checks import Dimension, split_symbol
from fam_runtime.errors import InvalidRequest

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec, TensorSpec

Array = npt.NDArray[Any]

BATCH = "B"
"""The manifest's symbol for the number of pictures."""

ANY_SIZE = -1

TRITON_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "float32": "TYPE_FP32",
        "float16": "TYPE_FP16",
        "bfloat16": "TYPE_BF16",
        "int64": "TYPE_INT64",
        "int32": "TYPE_INT32",
        "bool": "TYPE_BOOL",
    }
)
"""Dtype of the manifest to `data_type` of a configuration."""


class GraphTensor(NamedTuple):
    """An input or output of a graph's configuration.

    Attributes:
        name: as in the graph; Triton accepts dots in it.
        data_type: such as ``TYPE_FP32``.
        dims: -1 is any size; without the batch dimension where Triton adds it.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]


def can_batch(spec: GraphSpec) -> bool:
    """Whether requests can be joined: every tensor has `B` first, and nowhere else."""
    return all(
        tensor.shape
        and tensor.shape[0] == BATCH
        and not any(_is_batch(dimension) for dimension in tensor.shape[1:])
        for tensor in (*spec.inputs, *spec.outputs)
    )


def graph_io(
    spec: GraphSpec, *, batched: bool, sizes: Mapping[str, int] | None = None
) -> tuple[tuple[GraphTensor, ...], tuple[GraphTensor, ...]]:
    """Inputs and outputs of a graph's configuration.

    Args:
        spec: the graph, from the manifest.
        batched: for a model with a `max_batch_size` above 0; otherwise it must be 0.
        sizes: of symbols that have one size only, such as ``{"B": 1}``; others may have any.

    Raises:
        InvalidRequest: `batched`, and the graph's tensors do not all have `B` first.
    """
    if batched and not can_batch(spec):
        raise InvalidRequest(
            "requests for this graph cannot be batched",
            got=", ".join(f"{t.name} {list(t.shape)}" for t in (*spec.inputs, *spec.outputs)),
            expected="B as the first dimension of every input and output",
            fix="use max_batch_size 0 for it",
        )
    known = sizes or {}
    return _tensors(spec.inputs, batched, known), _tensors(spec.outputs, batched, known)


def for_triton(array: Array) -> Array:
    """`array`, contiguous; a scalar as ``[1]``."""
    return np.ascontiguousarray(array).reshape(array.shape or (1,))


def from_triton(array: Array, shape: Sequence[Dimension]) -> Array:
    """`array`, as a scalar where the manifest's `shape` is one."""
    return array.reshape(()) if not shape and array.shape == (1,) else array


def dims_of_shape(shape: Sequence[Dimension], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Triton's `dims` of a manifest's shape: -1 for symbols without a size, [1] for a scalar."""
    return tuple(_size(dimension, sizes) for dimension in shape) or (1,)


def _tensors(
    specs: Sequence[TensorSpec], batched: bool, sizes: Mapping[str, int]
) -> tuple[GraphTensor, ...]:
    return tuple(
        GraphTensor(
            spec.name, TRITON_TYPES[spec.dtype], dims_of_shape(spec.shape[int(batched) :], sizes)
        )
        for spec in specs
    )


def _size(dimension: Dimension, sizes: Mapping[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    factor, symbol = split_symbol(dimension)
    return factor * sizes[symbol] if symbol in sizes else ANY_SIZE


def _is_batch(dimension: Dimension) -> bool:
    return isinstance(dimension, str) and split_symbol(dimension)[1] == BATCH
