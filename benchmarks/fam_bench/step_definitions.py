"""The PyTorch modules behind a bundle's step graphs, and the plain target step beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fam_bench.full_size_step import options_of

if TYPE_CHECKING:
    from fam_export.graph_definition import GraphDefinition
    from fam_runtime.bundle import Manifest, Target


@dataclass(frozen=True)
class StepDefinitions:
    """The steps of one target: native, FM + AM, and *plain*, the same UNet at the target's size
    without FM, AM and taps."""

    native: GraphDefinition
    target: GraphDefinition
    plain: GraphDefinition


def step_definitions(manifest: Manifest, model: str, target: Target) -> StepDefinitions:
    """The definitions, on one UNet with its weights.

    Args:
        manifest: of the bundle.
        model: its checkpoint, as ``fam-export --model`` takes it.
        target: which one.
    """
    from fam_export import definitions
    from fam_export.checkpoint import open_checkpoint
    from fam_export.precision import dtype_of_part
    from fam_graph.step import NativeStep

    options = options_of(manifest)
    unet = open_checkpoint(model).load_unet(dtype_of_part("unet", options.dtype))
    facts = definitions.unet_facts(unet, manifest.model.vae_scale_factor, options)
    full = definitions.target_step(unet, facts, target, options)
    plain = replace(
        full,
        file="plain.onnx",
        module=NativeStep(unet, (), guidance=options.guidance),
        inputs=definitions.step_inputs(facts, facts.latent_of(target), options),
    )
    return StepDefinitions(definitions.native_step(unet, facts, options), full, plain)
