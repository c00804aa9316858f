"""Torch module → ONNX model, in a form that is the same byte for byte every time."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from fam_export.attention_node import translation_table
from fam_export.graph_definition import GraphDefinition
from fam_export.probe import probe_inputs

OPSET_VERSION = 20
"""The oldest that has Gelu as one node; ONNX Runtime, TensorRT and TensorRT-RTX all read it."""

TRACE_SEED = 0


def onnx_model_from_definition(definition: GraphDefinition) -> ir.Model:
    """Trace, translate and clean one graph; its weights stay references to the module's.

    Raises:
        ValueError: the traced graph's interface is not the definition's.
    """
    example = probe_inputs(definition, definition.trace_sizes, seed=TRACE_SEED)
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            definition.module,
            definition.arguments(example),
            dynamic_shapes=definition.dynamic_shapes(),
            strict=False,
        )
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET_VERSION,
            input_names=[spec.name for spec in definition.inputs],
            output_names=[spec.name for spec in definition.outputs],
            custom_translation_table=translation_table(),
            optimize=True,
            verbose=False,
        )
    assert onnx_program is not None
    model = onnx_program.model
    _normalise(model)
    _name_dimensions(model, definition)
    return model


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
