"""Torch module → ONNX model, in a form that is the same byte for byte every time."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import onnxscript.optimizer
import sympy
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fam_export.activation_memory import peak_activation_bytes
from fam_export.attention_node import translation_table
from fam_export.deferred import DeferredParameters, deferred_replaced
from fam_export.deferred_initializers import defer_initializers
from fam_export.graph_definition import (
    TORCH_DTYPES,
    GraphDefinition,
    concrete_shape,
    split_symbol,
)

OPSET_VERSION = 20
"""The oldest that has Gelu as one node; ONNX Runtime, TensorRT and TensorRT-RTX all read it."""

OPSET_VERSION_BF16 = 22
"""The oldest in which convolutions and instance norms may be bf16."""

ACTIVATION_SIZES: Mapping[str, int] = {"B": 1, "h": 64, "w": 64}
"""At which the manifest says what a graph's activations take; docs/bundle_format.md."""


@dataclass(frozen=True)
class TracedGraph:
    """A graph that is ready to be written.

    Attributes:
        model: its weights are still references: to the module's, or to the checkpoint's for
            parameters that are deferred.
        activation_bytes: peak of what is alive between its nodes, for one picture.
    """

    model: ir.Model
    activation_bytes: int


def traced_graph(definition: GraphDefinition) -> TracedGraph:
    """Trace, translate and clean one graph.

    Raises:
        ValueError: the traced graph's interface is not the definition's.
    """
    with _quiet(), torch.no_grad():
        model = _translated(definition)
        defer_initializers(model, DeferredParameters(definition.module))
        onnxscript.optimizer.optimize(model)
    activation_bytes = peak_activation_bytes(model, _tracer_sizes(model, definition))
    _normalise(model)
    _name_dimensions(model, definition)
    return TracedGraph(model, activation_bytes)


def _translated(definition: GraphDefinition) -> ir.Model:
    with _shapes_only(definition.module) as mode:
        with mode:
            example = shape_only_inputs(definition)
        program = torch.export.export(
            definition.module,
            definition.arguments(example),
            dynamic_shapes=definition.dynamic_shapes(),
            strict=False,
        )
    onnx_program = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset_version(definition),
        input_names=[spec.name for spec in definition.inputs],
        output_names=[spec.name for spec in definition.outputs],
        custom_translation_table=translation_table(),
        optimize=False,
        verbose=False,
    )
    assert onnx_program is not None
    return onnx_program.model


def opset_version(definition: GraphDefinition) -> int:
    """The oldest opset that has every operator of the graph in its precision."""
    parameters = definition.module.parameters()
    bf16 = any(parameter.dtype == torch.bfloat16 for parameter in parameters)
    return OPSET_VERSION_BF16 if bf16 else OPSET_VERSION


def shape_only_inputs(definition: GraphDefinition) -> dict[str, torch.Tensor]:
    """Inputs at the sizes for tracing; real ones would take 2 GB for the taps of SDXL."""
    return {
        spec.name: torch.empty(
            concrete_shape(spec, definition.trace_sizes), dtype=TORCH_DTYPES[spec.dtype]
        )
        for spec in definition.inputs
    }


@contextlib.contextmanager
def _shapes_only(module: nn.Module) -> Iterator[FakeTensorMode]:
    """Give deferred parameters the tracer's kind of tensor without data, on the CPU.

    On the meta device, where they are, they could not meet the constants that a model makes.
    """
    mode = FakeTensorMode()
    with deferred_replaced(module) as deferred:
        for owner, name, parameter in deferred:
            with mode:
                shape_only = torch.empty(parameter.shape, dtype=parameter.dtype)
            owner._parameters[name] = nn.Parameter(shape_only, requires_grad=False)
        yield mode


def _normalise(model: ir.Model) -> None:
    """Drop what says where and how the graph was made, and what nothing uses."""
    for clean in (
        IdentityEliminationPass(),
        RemoveUnusedNodesPass(),
        RemoveUnusedOpsetsPass(),
        ClearMetadataAndDocStringPass(),
    ):
        clean(model)
    model.graph.name = "fam"
    model.producer_name, model.producer_version = "fam-export", ""
    interface = {*model.graph.inputs, *model.graph.outputs}
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in interface:
                # Inferred shapes carry the tracer's private symbols; every reader infers its own.
                value.shape = None
                value.type = None
    for value in (*interface, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _tracer_sizes(model: ir.Model, definition: GraphDefinition) -> dict[str, int]:
    """:data:`ACTIVATION_SIZES` by the tracer's private symbols, as the inputs show them."""
    sizes = {}
    for value, spec in zip(model.graph.inputs, definition.inputs, strict=True):
        for dimension, symbol in zip(value.shape or (), spec.shape, strict=False):
            if isinstance(symbol, str):
                (private,) = sympy.sympify(str(dimension)).free_symbols
                sizes[str(private)] = ACTIVATION_SIZES[split_symbol(symbol)[1]]
    return sizes


def _name_dimensions(model: ir.Model, definition: GraphDefinition) -> None:
    """Give the interface the contract's symbols in place of the tracer's."""
    for values, specs in (
        (model.graph.inputs, definition.inputs),
        (model.graph.outputs, definition.outputs),
    ):
        names = [value.name for value in values]
        wanted = [spec.name for spec in specs]
        if names != wanted:
            raise ValueError(f"{definition.file}: traced interface {names}, expected {wanted}")
        for value, spec in zip(values, specs, strict=True):
            if value.shape is not None and len(value.shape) != len(spec.shape):
                raise ValueError(f"{definition.file}: {spec.name} has rank {len(value.shape)}")
            value.shape = ir.Shape(spec.shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter narrates on standard output and warns about libraries nobody asked for."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
