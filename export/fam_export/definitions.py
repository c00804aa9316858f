"""The graphs of a bundle as definitions: which module, under which file, with which interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fam_export.checkpoint import PROMPT_TOKENS
from fam_export.graph_definition import MAX_TRACED, GraphDefinition
from fam_export.options import ExportOptions
from fam_graph.attention_modulation import Grid
from fam_graph.step import NativeStep, TargetStep, guidance_embedding_width
from fam_graph.taps import latent_multiple, resolve_tap_layers, token_grid
from fam_graph.text_encoder import TextEncoder
from fam_graph.upsample import LatentUpsample, PixelUpsample
from fam_graph.vae import VaeDecoder, VaeEncoder
from fam_runtime import contract
from fam_runtime.bundle import (
    NATIVE_GRAPH,
    TENSOR_DTYPE_OF_MODEL,
    PixelSize,
    TapLayer,
    Taps,
    Target,
    TensorSpec,
)
from fam_runtime.contract import StepCoefficient, tap_names

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

BATCH_TRACE = {"B": 3}
BATCH_CHECKS = ({"B": 1}, {"B": 2})
UPSAMPLING, MAX_UPSAMPLED_VALUES = 2, 2**31
"""Factor of each of the UNet's upsamplings; what diffusers compares values times that with."""

VAE_TRACE = {"B": 3, "h": 10, "w": 12}
VAE_CHECKS = ({"B": 1, "h": 8, "w": 12}, {"B": 2, "h": 16, "w": 8})


@dataclass(frozen=True)
class UnetFacts:
    """What the configuration of a UNet and its VAE says about sizes and embeddings.

    Attributes:
        latent_native: native latent size (height, width).
        pixels_per_latent: the VAE's factor.
        embedding_width: ``D`` of `prompt_embeds`.
        pooled_width: ``P`` of `pooled_prompt_embeds`; None without SDXL's conditions.
        guidance_embedding: the UNet takes the guidance scale as an embedding (LCM).
        taps: tap layers with their native token grids.
        size_multiple: pixels; sizes must be multiples of it.
    """

    latent_native: Grid
    pixels_per_latent: int
    embedding_width: int
    pooled_width: int | None
    guidance_embedding: bool
    taps: Taps
    size_multiple: int

    @property
    def native(self) -> PixelSize:
        """Native size in pixels."""
        height, width = self.latent_native
        return PixelSize(height * self.pixels_per_latent, width * self.pixels_per_latent)

    def latent_of(self, size: PixelSize | Target) -> Grid:
        """Latent size of a picture."""
        return size.height // self.pixels_per_latent, size.width // self.pixels_per_latent


def file_of(kind: str, target: Target | None = None) -> str:
    """Name in the bundle of the graph of that kind."""
    if target is not None:
        return target.upsample if kind == "upsample" else target.step
    return NATIVE_GRAPH if kind == "native" else f"{kind}/model.onnx"


def unet_facts(
    unet: UNet2DConditionModel,
    pixels_per_latent: int,
    options: ExportOptions,
    latent_native: Grid | None = None,
) -> UnetFacts:
    """Read the facts off a UNet; it needs no data.

    Args:
        unet: the UNet.
        pixels_per_latent: the VAE's factor.
        options: of the export.
        latent_native: native latent size; None is that of the configuration.

    Raises:
        fam_graph.taps.UnknownTapLayer: the options name a layer that the UNet does not have.
    """
    config = unet.config
    sample = config["sample_size"]
    if latent_native is None:
        latent_native = (sample, sample) if isinstance(sample, int) else (sample[0], sample[1])
    layers = []
    for name in resolve_tap_layers(unet, options.tap_layers):
        attention = unet.get_submodule(name)
        layers.append(
            TapLayer(
                name=name,
                heads=int(attention.heads),
                channels=int(attention.to_q.out_features),
                tokens=token_grid(name, unet, latent_native),
            )
        )
    pooled_width = None
    if config.get("addition_embed_type") == "text_time":
        time_features = 6 * config["addition_time_embed_dim"]
        pooled_width = config["projection_class_embeddings_input_dim"] - time_features
    return UnetFacts(
        latent_native=latent_native,
        pixels_per_latent=pixels_per_latent,
        embedding_width=int(config["cross_attention_dim"]),
        pooled_width=pooled_width,
        guidance_embedding=guidance_embedding_width(unet) is not None,
        taps=Taps(options.tap_form, tuple(layers)),
        size_multiple=latent_multiple(unet) * pixels_per_latent,
    )


def native_step(
    unet: UNet2DConditionModel, facts: UnetFacts, options: ExportOptions
) -> GraphDefinition:
    """One step at the trained size."""
    latent = _latent_spec(contract.LATENT, facts.latent_native)
    return GraphDefinition(
        file=NATIVE_GRAPH,
        module=NativeStep(
            unet,
            [layer.name for layer in facts.taps.layers],
            form=options.tap_form,
            guidance=options.guidance,
        ),
        inputs=step_inputs(facts, facts.latent_native, options),
        outputs=(
            _renamed(latent, contract.NEXT_LATENT),
            _renamed(latent, contract.PREDICTION),
            *tap_specs(facts.taps, options),
        ),
        keyed=True,
        trace_sizes=BATCH_TRACE,
        check_sizes=BATCH_CHECKS,
        max_sizes=max_unet_sizes(unet, facts.latent_native),
    )


def target_step(
    unet: UNet2DConditionModel, facts: UnetFacts, target: Target, options: ExportOptions
) -> GraphDefinition:
    """One step at a target size."""
    grid = facts.latent_of(target)
    latent = _latent_spec(contract.LATENT, grid)
    return GraphDefinition(
        file=target.step,
        module=TargetStep(
            unet,
            [layer.name for layer in facts.taps.layers],
            facts.latent_native,
            grid,
            form=options.tap_form,
            guidance=options.guidance,
        ),
        inputs=(
            *step_inputs(facts, grid, options),
            _renamed(latent, contract.REFERENCE_LATENT),
            _renamed(latent, contract.REFERENCE_NOISE),
            TensorSpec(contract.FM_KERNEL_ROWS, "float32", (grid[0],)),
            TensorSpec(contract.FM_KERNEL_COLUMNS, "float32", (grid[1],)),
            TensorSpec(contract.FM_WEIGHT, "float32", ()),
            TensorSpec(contract.AM_STRENGTH, "float32", ()),
            *tap_specs(facts.taps, options),
        ),
        outputs=(_renamed(latent, contract.NEXT_LATENT), _renamed(latent, contract.PREDICTION)),
        keyed=True,
        trace_sizes=BATCH_TRACE,
        check_sizes=BATCH_CHECKS,
        max_sizes=max_unet_sizes(unet, grid),
    )


def upsample(
    vae: AutoencoderKL, facts: UnetFacts, target: Target, options: ExportOptions
) -> GraphDefinition:
    """`U`: native z0 → the reference of a target."""
    source, grid = facts.latent_native, facts.latent_of(target)
    mode = options.upsample_mode
    module = (
        PixelUpsample(vae, source, grid, mode)
        if options.upsample_space == "pixel"
        else LatentUpsample(source, grid, mode)
    )
    return GraphDefinition(
        file=target.upsample,
        module=module,
        inputs=(_latent_spec(contract.LATENT, source),),
        outputs=(_latent_spec(contract.REFERENCE_LATENT, grid),),
        keyed=False,
        trace_sizes=BATCH_TRACE,
        check_sizes=BATCH_CHECKS,
    )


def text_encoder(
    model: CLIPTextModel | CLIPTextModelWithProjection, kind: str, *, sdxl: bool
) -> GraphDefinition:
    """Token ids → embeddings; SDXL takes the last but one hidden state and a pooled embedding."""
    module = TextEncoder(model, penultimate=sdxl)
    max_length = int(model.config.max_position_embeddings)
    outputs = [
        TensorSpec(
            contract.PROMPT_EMBEDS, "float32", ("B", max_length, int(model.config.hidden_size))
        )
    ]
    if module.pooled:
        pooled = TensorSpec(
            contract.POOLED_PROMPT_EMBEDS, "float32", ("B", int(model.config.projection_dim))
        )
        outputs.append(pooled)
    return GraphDefinition(
        file=file_of(kind),
        module=module,
        inputs=(TensorSpec(contract.INPUT_IDS, "int64", ("B", max_length)),),
        outputs=tuple(outputs),
        keyed=False,
        trace_sizes=BATCH_TRACE,
        check_sizes=BATCH_CHECKS,
    )


def vae_decoder(vae: AutoencoderKL, pixels_per_latent: int) -> GraphDefinition:
    """Latent → picture, for any size."""
    return GraphDefinition(
        file=file_of("vae_decoder"),
        module=VaeDecoder(vae),
        inputs=(TensorSpec(contract.LATENT, "float32", ("B", 4, "h", "w")),),
        outputs=(_image_spec(pixels_per_latent),),
        keyed=False,
        trace_sizes=VAE_TRACE,
        check_sizes=VAE_CHECKS,
    )


def vae_encoder(vae: AutoencoderKL, pixels_per_latent: int) -> GraphDefinition:
    """Picture → latent, for any size."""
    return GraphDefinition(
        file=file_of("vae_encoder"),
        module=VaeEncoder(vae),
        inputs=(_image_spec(pixels_per_latent),),
        outputs=(TensorSpec(contract.LATENT, "float32", ("B", 4, "h", "w")),),
        keyed=False,
        trace_sizes=VAE_TRACE,
        check_sizes=VAE_CHECKS,
    )


def max_unet_sizes(unet: UNet2DConditionModel, latent: Grid) -> dict[str, int]:
    """Up to which batch the tracer meets no branch of diffusers' own.

    Before it upsamples, diffusers copies what has more than 2^31 values, counted once for each
    factor of two; a tracer that may not tell on which side of that a batch is refuses the UNet.

    Args:
        unet: the UNet.
        latent: size of its latent (height, width).
    """
    channels = list(reversed(unet.config["block_out_channels"]))
    values = [
        width * (latent[0] >> depth) * (latent[1] >> depth)
        for width, depth in zip(channels, range(len(channels) - 1, 0, -1), strict=False)
    ]
    text_batch = MAX_UPSAMPLED_VALUES // (UPSAMPLING * max(values, default=1))
    batch = min(text_batch // 2, MAX_TRACED["B"])
    return {**MAX_TRACED, "B": max(batch, BATCH_TRACE["B"])}


def tap_specs(taps: Taps, options: ExportOptions) -> tuple[TensorSpec, ...]:
    """The tensors that carry native attention, in graph order."""
    batch, dtype = _text_batch(options), TENSOR_DTYPE_OF_MODEL[options.dtype]
    specs: list[TensorSpec] = []
    for layer in taps.layers:
        tokens = layer.token_count
        shape = (
            (batch, tokens, layer.channels)
            if taps.form == "qk"
            else (batch, layer.heads, tokens, tokens)
        )
        specs.extend(TensorSpec(name, dtype, shape) for name in tap_names(layer.name, taps.form))
    return tuple(specs)


def step_inputs(facts: UnetFacts, grid: Grid, options: ExportOptions) -> tuple[TensorSpec, ...]:
    """Inputs that both step graphs have, for a latent of `grid` samples, in graph order."""
    latent = _latent_spec(contract.LATENT, grid)
    batch = _text_batch(options)
    specs = [
        latent,
        TensorSpec(contract.TIMESTEP, "float32", ()),
        TensorSpec(contract.STEP_COEFFICIENTS, "float32", (len(StepCoefficient),)),
        _renamed(latent, contract.PREVIOUS_PREDICTION),
        _renamed(latent, contract.STEP_NOISE),
    ]
    if options.guidance or facts.guidance_embedding:
        specs.append(TensorSpec(contract.GUIDANCE_SCALE, "float32", ()))
    specs.append(
        TensorSpec(contract.PROMPT_EMBEDS, "float32", (batch, PROMPT_TOKENS, facts.embedding_width))
    )
    if facts.pooled_width is not None:
        pooled = TensorSpec(contract.POOLED_PROMPT_EMBEDS, "float32", (batch, facts.pooled_width))
        specs += [pooled, TensorSpec(contract.TIME_IDS, "float32", (batch, 6))]
    return tuple(specs)


def _text_batch(options: ExportOptions) -> str:
    return "2B" if options.guidance else "B"


def _latent_spec(name: str, grid: Grid) -> TensorSpec:
    return TensorSpec(name, "float32", ("B", 4, *grid))


def _image_spec(pixels_per_latent: int) -> TensorSpec:
    factor = pixels_per_latent
    return TensorSpec(contract.IMAGE, "float32", ("B", 3, f"{factor}h", f"{factor}w"))


def _renamed(spec: TensorSpec, name: str) -> TensorSpec:
    return TensorSpec(name, spec.dtype, spec.shape)
