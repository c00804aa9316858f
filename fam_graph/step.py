"""One denoising step as a module: FM, the guidance batch, the UNet with AM, guidance, the sampler.

Everything that happens to a tensor during a step is here, so that a runtime only feeds scalars and
swaps latent buffers. Inputs and outputs are dictionaries keyed by the names of
:mod:`fam_runtime.contract`; shapes below use ``B`` pictures, native latents ``h × w`` and target
latents ``H × W``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from fam_graph.attention_modulation import (
    Grid,
    NativeAttention,
    NativeMap,
    NativeQueryKey,
    TapForm,
    TokenGridResampler,
)
from fam_graph.attention_processors import (
    AttentionExchange,
    NativeGuidance,
    TapRecorder,
    fuse_attention,
)
from fam_graph.frequency_modulation import modulate_frequencies
from fam_graph.taps import token_grid
from fam_runtime import contract
from fam_runtime.contract import StepCoefficient, tap_names

Tensors = Mapping[str, torch.Tensor]


class DenoisingStep(nn.Module):
    """What the native and the target step share.

    Args:
        unet: its attention processors are replaced by the fused one, which all steps share.
        layers: tap layers in graph order.
        form: `qk` or `maps`.
        guidance: whether the graph holds the classifier-free-guidance batch.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        layers: Sequence[str],
        form: TapForm,
        guidance: bool,
    ) -> None:
        super().__init__()
        self.unet, self.layers, self.form, self.guidance = unet, tuple(layers), form, guidance
        fuse_attention(unet)

    def predict(
        self, latent: torch.Tensor, inputs: Tensors, exchange: AttentionExchange
    ) -> torch.Tensor:
        """The guided model output `m` for a latent `z`, both float32 ``[B, 4, h, w]``.

        ``m = m_uncond + g · (m_cond - m_uncond)``; prompt embeddings hold the unconditional half
        first, as diffusers orders them.
        """
        coefficients = inputs[contract.STEP_COEFFICIENTS]
        model_input = latent * coefficients[StepCoefficient.MODEL_INPUT_SCALE]
        if self.guidance:
            model_input = torch.cat([model_input, model_input])
        output = self.unet(
            model_input.to(self.unet.dtype),
            inputs[contract.TIMESTEP],
            encoder_hidden_states=inputs[contract.PROMPT_EMBEDS].to(self.unet.dtype),
            timestep_cond=self._guidance_condition(inputs, model_input.shape[0]),
            added_cond_kwargs=added_conditions(inputs),
            cross_attention_kwargs={"exchange": exchange},
            return_dict=False,
        )[0].to(torch.float32)
        if not self.guidance:
            return output
        # A slice by the symbolic batch keeps the batch a real dimension; chunk(2) would fix it.
        batch = latent.shape[0]
        unconditional, conditional = output[:batch], output[batch:]
        return unconditional + inputs[contract.GUIDANCE_SCALE] * (conditional - unconditional)

    def _guidance_condition(self, inputs: Tensors, batch: int) -> torch.Tensor | None:
        """The guidance scale as the embedding that latent consistency models were distilled with.

        Its range in their training is that of ``g - 1``, where ``g`` is the guidance scale that
        users know; None for every other UNet.
        """
        width = guidance_embedding_width(self.unet)
        if width is None:
            return None
        embedding = sinusoidal_embedding(inputs[contract.GUIDANCE_SCALE] - 1, width)
        return embedding.to(self.unet.dtype).expand(batch, width)

    def advance(
        self, latent: torch.Tensor, output: torch.Tensor, inputs: Tensors
    ) -> dict[str, torch.Tensor]:
        """The sampler's update, linear in everything (see :class:`StepCoefficient`)."""
        c = inputs[contract.STEP_COEFFICIENTS]
        prediction = (
            c[StepCoefficient.PREDICTION_FROM_LATENT] * latent
            + c[StepCoefficient.PREDICTION_FROM_OUTPUT] * output
        )
        next_latent = (
            c[StepCoefficient.NEXT_FROM_LATENT] * latent
            + c[StepCoefficient.NEXT_FROM_OUTPUT] * output
            + c[StepCoefficient.NEXT_FROM_PREVIOUS] * inputs[contract.PREVIOUS_PREDICTION]
            + c[StepCoefficient.NEXT_FROM_NOISE] * inputs[contract.STEP_NOISE]
        )
        return {contract.NEXT_LATENT: next_latent, contract.PREDICTION: prediction}


class NativeStep(DenoisingStep):
    """A step of the unmodified UNet at its trained resolution, with its taps as outputs."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        layers: Sequence[str],
        *,
        form: TapForm = "qk",
        guidance: bool = True,
    ) -> None:
        super().__init__(unet, layers, form, guidance)

    def forward(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """One native step.

        Args:
            inputs: `latent` float32 ``[B, 4, h, w]``, `timestep` float32 ``[]``,
                `step_coefficients` float32 ``[9]``, `previous_prediction` and `step_noise` like
                `latent`, `guidance_scale` float32 ``[]``, `prompt_embeds` float32 ``[2B, 77, D]``
                and for SDXL `pooled_prompt_embeds` ``[2B, P]``, `time_ids` float32 ``[2B, 6]``.
                Without guidance the batch is ``B``, and `guidance_scale` is absent unless the
                UNet embeds it (latent consistency models).

        Returns:
            `next_latent`, `prediction`, and the taps of every layer.
        """
        recorder = TapRecorder(self.layers, self.form)
        latent = inputs[contract.LATENT]
        outputs = self.advance(latent, self.predict(latent, inputs, recorder), inputs)
        for layer in self.layers:
            names, tensors = tap_names(layer, self.form), tensors_of(recorder.taps[layer])
            outputs.update(zip(names, tensors, strict=True))
        return outputs


class TargetStep(DenoisingStep):
    """A step at the target size: FM on the latent (Eq. 5), AM inside the UNet (Eq. 7).

    Args:
        native_latent: native latent size (height, width).
        target_latent: target latent size (height, width).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        layers: Sequence[str],
        native_latent: Grid,
        target_latent: Grid,
        *,
        form: TapForm = "qk",
        guidance: bool = True,
    ) -> None:
        super().__init__(unet, layers, form, guidance)
        self.resamplers = nn.ModuleList(
            TokenGridResampler(
                token_grid(layer, unet, native_latent), token_grid(layer, unet, target_latent)
            )
            for layer in layers
        )

    def forward(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """One target step.

        Args:
            inputs: those of :class:`NativeStep` at the target size, and `reference_latent`
                (``z̃_0``) and `reference_noise` like `latent`, `fm_kernel_rows` float32 ``[H]``,
                `fm_kernel_columns` float32 ``[W]``, `fm_weight` and `am_strength` float32 ``[]``,
                and the taps of every layer.

        Returns:
            `next_latent` and `prediction`.
        """
        c = inputs[contract.STEP_COEFFICIENTS]
        reference = (
            c[StepCoefficient.REFERENCE_SIGNAL] * inputs[contract.REFERENCE_LATENT]
            + c[StepCoefficient.REFERENCE_NOISE] * inputs[contract.REFERENCE_NOISE]
        )
        latent = modulate_frequencies(
            inputs[contract.LATENT],
            reference,
            inputs[contract.FM_KERNEL_ROWS],
            inputs[contract.FM_KERNEL_COLUMNS],
            inputs[contract.FM_WEIGHT],
        )
        native = {
            layer: native_attention([inputs[name] for name in tap_names(layer, self.form)])
            for layer in self.layers
        }
        resamplers = {
            layer: cast(TokenGridResampler, resampler)
            for layer, resampler in zip(self.layers, self.resamplers, strict=True)
        }
        guidance = NativeGuidance(native, resamplers, inputs[contract.AM_STRENGTH])
        output = self.predict(latent, inputs, guidance)
        if guidance.asked != set(self.layers):
            raise RuntimeError(
                "the UNet's attention processors were replaced after this step was made, so AM "
                f"did not act in {sorted(set(self.layers) - guidance.asked)}; make the step anew"
            )
        return self.advance(latent, output, inputs)


def guidance_embedding_width(unet: UNet2DConditionModel) -> int | None:
    """Width of the embedded guidance scale; None for a UNet that takes none."""
    width = unet.config["time_cond_proj_dim"]
    return None if width is None else int(width)


def sinusoidal_embedding(value: torch.Tensor, width: int) -> torch.Tensor:
    """``[sin(1000·v·f), cos(1000·v·f)]`` with frequencies from 1 down to 1e-4.

    That is ``get_guidance_scale_embedding`` of diffusers' pipelines for one value.

    Args:
        value: float32 scalar.
        width: an even number.

    Returns:
        float32 ``[1, width]``.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=value.device)
    frequencies = torch.exp(exponents * -(math.log(10000.0) / (half - 1)))
    angles = value * 1000.0 * frequencies
    return torch.cat([torch.sin(angles), torch.cos(angles)]).reshape(1, width)


def added_conditions(inputs: Tensors) -> dict[str, torch.Tensor] | None:
    """SDXL's pooled text embedding and size conditions, or None for other checkpoints.

    The UNet joins the pooled embedding with the sinusoids of the sizes, which are float32, and
    casts what comes out: in a graph of half precision both must be float32 until then.
    """
    if contract.TIME_IDS not in inputs:
        return None
    return {
        "text_embeds": inputs[contract.POOLED_PROMPT_EMBEDS],
        "time_ids": inputs[contract.TIME_IDS],
    }


def tensors_of(native: NativeAttention) -> tuple[torch.Tensor, ...]:
    """The tensors of a tap, in the order of :func:`fam_runtime.contract.tap_names`."""
    if isinstance(native, NativeQueryKey):
        return native.query, native.key
    return (native.map,)


def native_attention(tensors: Sequence[torch.Tensor]) -> NativeAttention:
    """The inverse of :func:`tensors_of`."""
    if len(tensors) == 2:
        return NativeQueryKey(*tensors)
    return NativeMap(*tensors)
