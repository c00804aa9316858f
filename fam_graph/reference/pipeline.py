"""FAM Diffusion from prompt to picture, in the order in which the paper tells it.

1. **Native stage**: sample ``z_0ⁿ`` at the trained size, keep the trajectory ``z_tⁿ``.
2. Upsample: ``z̃_0 = U(z_0ⁿ, s)``; diffuse with one noise ``ε``: ``z̃_t = √ᾱ_t z̃_0 + √(1-ᾱ_t) ε``.
3. **Target stage**: from ``z̃_T`` on, at each step FM on the latent (Eqs. 3-5), then the UNet with
   AM in its self-attention (Eqs. 6-7), then guidance, then the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F

from fam_graph.attention_modulation import Grid
from fam_graph.frequency_modulation import CutoffReference, InsideBox
from fam_graph.interpolation import InterpolationMode
from fam_graph.reference.am_dense import (
    AttentionMaps,
    DenseAttentionProcessor,
    ModulatingProcessor,
    RecordingProcessor,
    processors_in_place,
)
from fam_graph.reference.components import (
    Conditions,
    ReferenceComponents,
    Scheduler,
    given_noise,
)
from fam_graph.reference.fm_fft import (
    cutoff_size,
    frequency_filter,
    modulate_frequencies_fft,
    skip_residual,
)
from fam_graph.taps import default_tap_layers, token_grid

Method = Literal[
    "fam", "fm", "am", "skip-residual", "direct", "direct-latent", "constant-lf", "swapping"
]


@dataclass(frozen=True)
class MethodParts:
    """What a method is made of (the paper's Figs. 3, 7, 8).

    Attributes:
        frequency: what stands between ``z_t`` and the UNet.
        attention: whether AM acts; its λ is the request's, or `strength`.
        strength: λ where the method fixes it.
        from_noise: start from random noise instead of ``z̃_T``.
        constant_reference: FM takes its low frequencies from ``z̃_0`` instead of ``z̃_t``.
    """

    frequency: Literal["fm", "skip-residual", "none"]
    attention: bool
    strength: float | None = None
    from_noise: bool = False
    constant_reference: bool = False


METHODS: dict[Method, MethodParts] = {
    "fam": MethodParts("fm", attention=True),
    "fm": MethodParts("fm", attention=False),
    "am": MethodParts("none", attention=True),
    "skip-residual": MethodParts("skip-residual", attention=False),
    "direct": MethodParts("none", attention=False, from_noise=True),
    "direct-latent": MethodParts("none", attention=False),
    "constant-lf": MethodParts("fm", attention=True, constant_reference=True),
    "swapping": MethodParts("fm", attention=True, strength=1.0),
}


@dataclass(frozen=True)
class ReferenceRequest:
    """What to generate. Sizes are latent samples, (height, width)."""

    prompts: Sequence[str]
    native_latent: Grid
    target_latent: Grid
    negative_prompts: Sequence[str] | None = None
    method: Method = "fam"
    scheduler: str = "ddim"
    num_inference_steps: int = 50
    guidance_scale: float | None = 7.5
    am_strength: float = 0.7
    cutoff_reference: CutoffReference = "target"
    inside_box: InsideBox = "rho"
    upsample_space: Literal["latent", "pixel"] = "latent"
    upsample_mode: InterpolationMode = "bicubic"
    size_conditions: Literal["stage", "native"] = "stage"


@dataclass(frozen=True)
class ReferenceNoise:
    """Every random number of a run.

    Attributes:
        native_initial: ``[B, 4, h, w]``, unit variance.
        target: ``ε``, ``[B, 4, H, W]``: the one noise that diffuses ``z̃_0``; for the method
            ``direct`` the noise that the target stage starts from.
        native_steps, target_steps: one noise per step, for ancestral samplers only.
    """

    native_initial: torch.Tensor
    target: torch.Tensor
    native_steps: Sequence[torch.Tensor] = ()
    target_steps: Sequence[torch.Tensor] = ()


@dataclass
class ReferenceResult:
    """Everything that a test may want to compare.

    Attributes:
        native_trajectory: ``z_tⁿ`` before each step, as the scheduler holds it.
        native_latent: ``z_0ⁿ``.
        reference_latent: ``z̃_0``.
        target_trajectory: ``z_t`` before each step, before FM.
        target_latent: the last latent at the target size.
        image: the picture, not clamped; None if it was not asked for.
    """

    native_trajectory: list[torch.Tensor] = field(default_factory=list)
    native_latent: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    reference_latent: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    target_trajectory: list[torch.Tensor] = field(default_factory=list)
    target_latent: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    image: torch.Tensor | None = None


@torch.no_grad()
def run_reference(
    components: ReferenceComponents,
    request: ReferenceRequest,
    noise: ReferenceNoise,
    *,
    decode: bool = True,
) -> ReferenceResult:
    """Both stages; see the head of this file."""
    result = ReferenceResult()
    native_conditions = stage_conditions(components, request, request.native_latent)
    sample_native(components, request, noise, native_conditions, result)
    result.reference_latent = upsample(components, request, result.native_latent)
    sample_target(components, request, noise, native_conditions, result)
    if decode:
        result.image = components.decode(result.target_latent)
    return result


def stage_conditions(
    components: ReferenceComponents, request: ReferenceRequest, latent: Grid
) -> Conditions:
    """Prompt and size conditions of the stage that works at `latent`."""
    size = request.native_latent if request.size_conditions == "native" else latent
    guidance = request.guidance_scale is not None
    return components.conditions(request.prompts, request.negative_prompts, guidance, size)


def sample_native(
    components: ReferenceComponents,
    request: ReferenceRequest,
    noise: ReferenceNoise,
    conditions: Conditions,
    result: ReferenceResult,
) -> None:
    """Stage 1: the unmodified model at the size it was trained at."""
    scheduler = components.scheduler(request.scheduler, request.num_inference_steps)
    z = noise.native_initial * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        result.native_trajectory.append(z)
        m = guided_output(components, request, conditions, scheduler, z, t)
        with given_noise(noise_of_step(noise.native_steps, index)):
            z = scheduler.step(m, t, z, return_dict=False)[0]
    result.native_latent = z


def sample_target(
    components: ReferenceComponents,
    request: ReferenceRequest,
    noise: ReferenceNoise,
    native_conditions: Conditions,
    result: ReferenceResult,
) -> None:
    """Stage 2: denoise at the target size under FM and AM."""
    parts = METHODS[request.method]
    conditions = stage_conditions(components, request, request.target_latent)
    scheduler = components.scheduler(request.scheduler, request.num_inference_steps)
    z = diffuse(scheduler, result.reference_latent, noise.target, scheduler.timesteps[0])
    if parts.from_noise:
        z = noise.target * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        result.target_trajectory.append(z)
        f = modulate_latent(request, scheduler, z, result.reference_latent, noise.target, t)
        recorded = AttentionMaps()
        if parts.attention:
            # Mⁿ of this step: the native model on the native latent of the same step, once more.
            native = result.native_trajectory[index]
            with processors_in_place(components.unet, recording(components, recorded)):
                guided_output(components, request, native_conditions, scheduler, native, t)
        processors = modulating(components, request, recorded) if parts.attention else {}
        with processors_in_place(components.unet, processors):
            m = guided_output(components, request, conditions, scheduler, f, t)
        with given_noise(noise_of_step(noise.target_steps, index)):
            z = scheduler.step(m, t, f, return_dict=False)[0]
    result.target_latent = z


def upsample(
    components: ReferenceComponents, request: ReferenceRequest, latent: torch.Tensor
) -> torch.Tensor:
    """``z̃_0 = U(z_0ⁿ, s)``, §3.1; in pixel space the picture is clamped before it is encoded."""
    mode, size = request.upsample_mode, request.target_latent
    align_corners = None if mode == "nearest" else False
    if request.upsample_space == "latent":
        return F.interpolate(latent, size=size, mode=mode, align_corners=align_corners)
    factor = components.pipeline.vae_scale_factor
    pixels = (size[0] * factor, size[1] * factor)
    image = components.decode(latent)
    image = F.interpolate(image, size=pixels, mode=mode, align_corners=align_corners)
    return components.encode(image.clamp(-1, 1))


def diffuse(
    scheduler: Scheduler, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """``z̃_t = √ᾱ_t z̃_0 + √(1-ᾱ_t) ε``, in the scheduler's own scaling (Euler: ``z̃_0 + σ_t ε``)."""
    return scheduler.add_noise(clean, noise, t[None])


def modulate_latent(
    request: ReferenceRequest,
    scheduler: Scheduler,
    z: torch.Tensor,
    reference_latent: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
) -> torch.Tensor:
    """``f_t`` of Eq. 4, or what the method puts in its place.

    ``ρ = t/T``. Euler's timesteps may be fractional; for FM the nearest whole one sets ρ (halves to
    even), because the kernels of a bundle exist for those. The skip residual takes `t` as it is.
    """
    parts = METHODS[request.method]
    if parts.frequency == "none":
        return z
    reference = diffuse(scheduler, reference_latent, noise, t)
    if parts.constant_reference:
        # FM mixes z̃_0 into z before the model's input is scaled. Euler keeps z / √ᾱ_t, which the
        # scaling takes back, so z̃_0 is divided by that scale for the model to see z̃_0 itself.
        scale = scheduler.scale_model_input(torch.ones_like(reference_latent), t)
        reference = reference_latent / scale
    total = int(scheduler.config["num_train_timesteps"])
    if parts.frequency == "skip-residual":
        return skip_residual(z, reference, float(t), total)
    whole_t = min(round(float(t)), total - 1)
    size = cutoff_size(request.native_latent, request.target_latent, request.cutoff_reference)
    k = frequency_filter(request.target_latent, size, whole_t, total, request.inside_box)
    return modulate_frequencies_fft(z, reference, k)


def guided_output(
    components: ReferenceComponents,
    request: ReferenceRequest,
    conditions: Conditions,
    scheduler: Scheduler,
    latent: torch.Tensor,
    t: torch.Tensor,
) -> torch.Tensor:
    """``m = m_uncond + g · (m_cond - m_uncond)``, the batch ordered [uncond, cond]."""
    scaled = scheduler.scale_model_input(latent, t)
    guidance = request.guidance_scale
    batch = scaled if guidance is None else torch.cat([scaled, scaled])
    output: torch.Tensor = components.unet(
        batch.to(components.unet.dtype),
        t,
        encoder_hidden_states=conditions.prompt_embeds,
        added_cond_kwargs=conditions.added,
        return_dict=False,
    )[0].to(latent.dtype)
    if guidance is None:
        return output
    unconditional, conditional = output.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def recording(
    components: ReferenceComponents, recorded: AttentionMaps
) -> dict[str, DenseAttentionProcessor]:
    """Processors that keep the native maps of the layers that AM acts on."""
    layers = default_tap_layers(components.unet)
    return {layer: RecordingProcessor(layer, recorded) for layer in layers}


def modulating(
    components: ReferenceComponents, request: ReferenceRequest, recorded: AttentionMaps
) -> dict[str, DenseAttentionProcessor]:
    """Processors that mix the native maps in (Eq. 7)."""
    unet = components.unet
    fixed = METHODS[request.method].strength
    strength = request.am_strength if fixed is None else fixed
    return {
        layer: ModulatingProcessor(
            layer,
            recorded,
            strength,
            token_grid(layer, unet, request.native_latent),
            token_grid(layer, unet, request.target_latent),
        )
        for layer in default_tap_layers(unet)
    }


def noise_of_step(noises: Sequence[torch.Tensor], index: int) -> torch.Tensor | None:
    """The given noise of a step, or None where the sampler needs none."""
    return noises[index] if noises else None
