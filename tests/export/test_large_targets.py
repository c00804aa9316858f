"""Targets so large that diffusers copies what it upsamples, from some batch on."""

from __future__ import annotations

from fam_export.checkpoint import open_checkpoint
from fam_export.graph_definition import MAX_TRACED
from fam_export.graph_factory import GraphFactory, GraphName
from fam_export.onnx_model import traced_graph
from fam_export.options import ExportOptions
from fam_runtime.bundle import Target
from tests.conftest import Exported

LATENT = 4096
"""Few channels need a large latent for it; SDXL needs 384 samples, 3x."""


def test_a_large_target_is_traced_with_its_batch(tiny: Exported) -> None:
    graphs = GraphFactory(open_checkpoint(str(tiny.checkpoint)), ExportOptions())
    pixels = LATENT * graphs.facts.pixels_per_latent
    definition = graphs.definition(GraphName("target", Target.for_size(pixels, pixels)))
    assert definition.max_sizes["B"] < MAX_TRACED["B"]
    model = traced_graph(definition).model
    (latent,) = (value for value in model.graph.inputs if value.name == "latent")
    assert latent.shape is not None and not isinstance(latent.shape[0], int)
    assert list(latent.shape)[2:] == [LATENT, LATENT]
