"""A graph to export: a torch module together with the interface that the contract gives it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fam_runtime.bundle import TensorSpec

Sizes = Mapping[str, int]
"""Values of the base symbols of shapes: ``{"B": 2}``, for the VAE also ``h`` and ``w``."""

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
}

MAX_TRACED: Mapping[str, int] = {"B": 31, "h": 4096, "w": 4096}
"""Ranges the tracer assumes. diffusers copies a batch of 64 and more before it is upsampled, so the
text batch ``2B`` must stay below; the exported graph is the same for every batch."""

_SYMBOL = re.compile(r"(\d*)([A-Za-z])")


@dataclass(frozen=True)
class GraphDefinition:
    """What is exported under one file name of the bundle.

    Attributes:
        file: name in the bundle, such as ``unet/native.onnx``.
        module: computes the outputs, in the order of `outputs`.
        inputs, outputs: the interface, in graph order; batch and sizes are symbols.
        keyed: the module takes one dictionary keyed by input name instead of positional tensors.
        trace_sizes: sizes for tracing; they must differ from every fixed dimension's neighbour,
            so that no symbol is mistaken for a constant (2 and more: 0 and 1 are specialised).
        check_sizes: sizes at which the exported graph is compared with the module.
        max_sizes: the tracer may assume that sizes are not larger; the graph is the same for all.
    """

    file: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    keyed: bool
    trace_sizes: Sizes
    check_sizes: tuple[Sizes, ...]
    max_sizes: Sizes = field(default_factory=lambda: MAX_TRACED)

    def arguments(self, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
        """Positional arguments of the module for tensors keyed by input name."""
        ordered = {spec.name: tensors[spec.name] for spec in self.inputs}
        return (ordered,) if self.keyed else tuple(ordered.values())

    def run(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The module's outputs, keyed by output name."""
        with torch.no_grad():
            result = self.module(*self.arguments(tensors))
        if isinstance(result, Mapping):
            return {spec.name: result[spec.name] for spec in self.outputs}
        values = result if isinstance(result, tuple) else (result,)
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """``dynamic_shapes`` of ``torch.export`` in the structure of :meth:`arguments`."""
        dims = {
            base: torch.export.Dim(base, min=2, max=self.max_sizes[base])
            for base in self.trace_sizes
        }
        shapes = {
            spec.name: {
                axis: _scaled(dims, dimension)
                for axis, dimension in enumerate(spec.shape)
                if isinstance(dimension, str)
            }
            for spec in self.inputs
        }
        return (shapes,) if self.keyed else tuple(shapes.values())


def split_symbol(symbol: str) -> tuple[int, str]:
    """``"8h"`` → ``(8, "h")``; a symbol is an optional factor and a letter.

    Raises:
        ValueError: `symbol` is nothing of the kind.
    """
    match = _SYMBOL.fullmatch(symbol)
    if match is None:
        raise ValueError(f"not a symbolic dimension: {symbol!r}")
    return int(match[1] or 1), match[2]


def concrete_shape(spec: TensorSpec, sizes: Sizes) -> tuple[int, ...]:
    """The shape of a tensor for given values of the base symbols."""
    shape = []
    for dimension in spec.shape:
        if isinstance(dimension, int):
            shape.append(dimension)
        else:
            factor, base = split_symbol(dimension)
            shape.append(factor * sizes[base])
    return tuple(shape)


def _scaled(dims: Mapping[str, Any], symbol: str) -> Any:
    factor, base = split_symbol(symbol)
    return dims[base] if factor == 1 else factor * dims[base]
