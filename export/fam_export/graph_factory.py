"""The graphs of a checkpoint: from a name to the definition that is exported under it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch

from fam_export import definitions
from fam_export.checkpoint import Checkpoint
from fam_export.deferred import defer
from fam_export.definitions import UnetFacts, unet_facts
from fam_export.graph_definition import GraphDefinition
from fam_export.options import ExportOptions
from fam_export.precision import dtype_of_part
from fam_graph.attention_modulation import Grid
from fam_runtime.bundle import PixelSize, Target

if TYPE_CHECKING:
    from torch import nn

GraphKind = Literal[
    "text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "native", "upsample", "target"
]


MIN_TWIN_UNITS = 2
"""Of the sizes that a UNet can do: with one, a single token would be left in its middle, and its
attention would have nothing to choose from."""

MAX_TWIN_UNITS = 4
TWIN_FRACTION = Fraction(3, 2)
"""Stands for factors such as 33/32, whose own twin would be as large as the original."""


@dataclass(frozen=True)
class GraphName:
    """One graph of a bundle; `target` for the two kinds that each target has."""

    kind: GraphKind
    target: Target | None = None

    @property
    def part(self) -> str:
        """The part of the checkpoint that the graph's weights come from."""
        if self.kind in ("native", "target"):
            return "unet"
        return self.kind if self.kind.startswith("text_encoder") else "vae"


class GraphFactory:
    """Makes definitions; modules are made, without data, when the first graph needs them.

    Args:
        checkpoint: whose graphs they are.
        options: of the export.
        reference: make the modules that the numeric check compares with: the weights that the
            graphs hold, but interfaces and arithmetic in fp32.
    """

    def __init__(
        self, checkpoint: Checkpoint, options: ExportOptions, *, reference: bool = False
    ) -> None:
        self.checkpoint, self.reference = checkpoint, reference
        self.options = replace(options, dtype="fp32") if reference else options
        self._stored_dtype = options.dtype
        self._modules: dict[str, nn.Module] = {}

    def module(self, part: str) -> Any:
        """The module of a part; it has shapes, and the data is read when asked for."""
        if part not in self._modules:
            module = self.checkpoint.empty_module(part)
            dtype = dtype_of_part(part, self._stored_dtype)
            compute_dtype = torch.float32 if self.reference else None
            defer(module, self.checkpoint.weights(part), dtype, compute_dtype=compute_dtype)
            self._modules[part] = module
        return self._modules[part]

    @property
    def pixels_per_latent(self) -> int:
        """The VAE's factor, from its configuration."""
        return int(1 << (len(self.checkpoint.config("vae")["block_out_channels"]) - 1))

    @cached_property
    def facts(self) -> UnetFacts:
        """Sizes, widths and tap layers."""
        return unet_facts(self.module("unet"), self.pixels_per_latent, self.options)

    def definition(self, graph: GraphName) -> GraphDefinition:
        """What is exported as `graph`."""
        return self._definition(graph, self.facts)

    def twin(self, graph: GraphName) -> GraphDefinition:
        """The same at a tiny latent; see :mod:`fam_export.parity.twin`."""
        facts = self.facts
        multiple = facts.size_multiple // facts.pixels_per_latent
        native = facts.latent_native
        target = native if graph.target is None else facts.latent_of(graph.target)
        small_native, small_target = twin_grids(native, target, multiple)
        module = self.module("unet")
        small_facts = unet_facts(module, self.pixels_per_latent, self.options, small_native)
        pixels = PixelSize(*(samples * self.pixels_per_latent for samples in small_target))
        small = graph.target and Target.for_size(pixels.height, pixels.width)
        definition = self._definition(replace(graph, target=small), small_facts)
        return replace(definition, file=self.file(graph))

    def file(self, graph: GraphName) -> str:
        """Name of the graph's file in the bundle."""
        return definitions.file_of(graph.kind, graph.target)

    def _definition(self, graph: GraphName, facts: UnetFacts) -> GraphDefinition:
        options, module = self.options, self.module(graph.part)
        if graph.kind == "native":
            return definitions.native_step(module, facts, options)
        if graph.kind == "vae_decoder":
            return definitions.vae_decoder(module, facts.pixels_per_latent)
        if graph.kind == "vae_encoder":
            return definitions.vae_encoder(module, facts.pixels_per_latent)
        if graph.target is None:
            return definitions.text_encoder(
                module, graph.kind, sdxl=self.checkpoint.family == "sdxl"
            )
        if graph.kind == "upsample":
            return definitions.upsample(module, facts, graph.target, options)
        return definitions.target_step(module, facts, graph.target, options)


def twin_grids(native: Grid, target: Grid, multiple: int) -> tuple[Grid, Grid]:
    """Small latents with the same factors between them, or others of the same kind.

    Args:
        native: native latent size (height, width).
        target: target latent size.
        multiple: latent sizes must be multiples of it.

    Returns:
        Native and target latent size of the twin.
    """
    pairs = [_twin_axis(n, t, multiple) for n, t in zip(native, target, strict=True)]
    return (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1])


def _twin_axis(native: int, target: int, multiple: int) -> tuple[int, int]:
    factor = Fraction(target, native)
    if factor.denominator > MAX_TWIN_UNITS:
        factor = TWIN_FRACTION
    units = factor.denominator
    while units < MIN_TWIN_UNITS:
        units += factor.denominator
    return units * multiple, int(units * factor) * multiple
