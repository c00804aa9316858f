"""The trained parts of a working directory, ready for use (moving averages, evaluation mode)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from fam_export.demo.architecture import DemoSizes, make_text_encoder, make_unet, make_vae
from fam_export.demo.loop import load_average
from fam_export.demo.scenes import render, sample_scene
from fam_export.demo.tokens import make_tokenizer
from fam_export.demo.train_text import TextTrainee
from fam_export.demo.train_vae import tensor_from_picture

_STATISTICS_SCENES = 256
_STATISTICS_SEED = 2


@dataclass(frozen=True)
class TextParts:
    """The tokenizer and the frozen text encoder."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel


def untrained_text(sizes: DemoSizes) -> TextParts:
    """The tokenizer (which is learnt in a second) and an untrained encoder."""
    tokenizer = make_tokenizer()
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return TextParts(tokenizer, make_text_encoder(sizes, len(tokenizer), start, end))


def trained_text(sizes: DemoSizes, working: Path) -> TextParts:
    """The text encoder of the `text` stage, without its heads."""
    parts = untrained_text(sizes)
    load_average(TextTrainee(parts.encoder), working / "text.pt")
    parts.encoder.train(False).requires_grad_(False)
    return parts


def trained_vae(sizes: DemoSizes, working: Path) -> AutoencoderKL:
    """The autoencoder of the `vae` stage, with balanced latent channels and its scaling factor."""
    vae = make_vae(sizes)
    load_average(vae, working / "vae.pt")
    vae.eval().requires_grad_(False)
    latents = _sample_latents(vae, sizes.native_pixels)
    deviation = balance_channels(vae, latents)
    configurable: Any = vae
    configurable.register_to_config(scaling_factor=round(1.0 / deviation, 5))
    return vae


def trained_unet(sizes: DemoSizes, working: Path) -> UNet2DConditionModel:
    """The noise predictor of the `unet` stage as far as it has come."""
    unet = make_unet(sizes)
    load_average(unet, working / "unet.pt")
    return unet.eval().requires_grad_(False)


def _sample_latents(vae: AutoencoderKL, native_pixels: int) -> Tensor:
    """Means of the latents of some scenes: float32 [n, 4, h, w]."""
    rng = np.random.default_rng(_STATISTICS_SEED)
    latents = []
    for _ in range(0, _STATISTICS_SCENES, 32):
        scenes = [sample_scene(rng) for _ in range(32)]
        pictures = np.stack([render(s, native_pixels, native_pixels) for s in scenes])
        with torch.no_grad():
            latents.append(vae.encode(tensor_from_picture(pictures)).latent_dist.mean)
    return torch.cat(latents)


def balance_channels(vae: AutoencoderKL, latents: Tensor) -> float:
    """Give every latent channel mean 0 and the same deviation; returns that deviation.

    The 1x1 convolutions on both sides of the latent absorb the change exactly, so pictures stay
    the same: z' = (z - mean) * deviation / deviation_of_channel.  The noise schedule then treats
    all channels alike, and its start (pure noise, mean 0) is close to what training saw.
    """
    mean = latents.mean(dim=(0, 2, 3))
    own = latents.std(dim=(0, 2, 3))
    deviation = own.square().mean().sqrt()
    factor = deviation / own
    channels = len(mean)
    before: Any = vae.quant_conv
    after: Any = vae.post_quant_conv
    with torch.no_grad():
        weight, bias = before.weight, before.bias
        weight[:channels] *= factor[:, None, None, None]
        bias[:channels] = (bias[:channels] - mean) * factor
        bias[channels:] += 2.0 * factor.log()
        weight, bias = after.weight, after.bias
        bias += weight[:, :, 0, 0] @ mean
        weight /= factor[None, :, None, None]
    return float(deviation)
