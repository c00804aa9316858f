"""Training the autoencoder: a square of pixels <-> 4 latent numbers, right at any rendered size.

Loss = L1 + gradient L1 + tiny KL.  Steps come in three kinds, in turn:
* crops of half the native side, out of scenes rendered at one, two and four times the native size:
  cheap, and the decoder learns high-resolution content as well as native content;
* whole native pictures, because GroupNorm sees the whole picture at inference;
* enlarged latents: a crop's latent, bicubically enlarged twofold, must decode to the renderer's
  picture at twice the size (as in EQ-VAE, arXiv 2502.09509), so that interpolated latents mean
  what interpolated pictures mean.  FAM's target stage starts from such latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from fam_export.demo.architecture import LATENT_CHANNELS
from fam_export.demo.loop import LossFunction
from fam_export.demo.scenes import POSITIONS, Scene, Window, render, sample_scene

CROP_SCALES = (1, 1, 2, 4)  # crops come from scenes at these multiples of the native size
NEAR_OBJECT = 0.75  # share of the crops whose middle lies near the object
GRADIENT_WEIGHT = 0.5
KL_WEIGHT = 3e-4  # of the KL divergence's mean per latent number
ENLARGED_WEIGHT = 0.5
INITIAL_LOG_VARIANCE = -6.0


@dataclass(frozen=True)
class VaeBatch:
    """How many pictures each kind of step takes, and the native size in pixels."""

    crops: int = 16
    whole: int = 4
    enlarged: int = 6
    native_pixels: int = 64


def tensor_from_picture(picture: np.ndarray) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in -1..1."""
    return torch.from_numpy(picture).movedim(-1, -3).contiguous().float() / 127.5 - 1.0


def _crop_window(scene: Scene, size: int, crop: int, rng: np.random.Generator) -> Window:
    """A crop x crop window of a size x size picture, mostly near the object."""
    if rng.uniform() < NEAR_OBJECT:
        x, y = POSITIONS[scene.position]
        reach = 1.2 * scene.radius
        middle = np.array([y + scene.offset_y, x + scene.offset_x]) + 0.5
        corner = (middle + rng.uniform(-reach, reach, 2)) * size - crop / 2
    else:
        corner = rng.uniform(0, size - crop, 2)
    top, left = np.clip(np.rint(corner), 0, size - crop).astype(int).tolist()
    return Window(top, left, crop, crop)


def sample_crops(count: int, native: int, rng: np.random.Generator) -> Tensor:
    """Crops of scenes at mixed sizes: float32 [count, 3, native / 2, native / 2] in -1..1."""
    pictures = []
    for _ in range(count):
        scene, size = sample_scene(rng), native * int(rng.choice(CROP_SCALES))
        window = _crop_window(scene, size, native // 2, rng)
        pictures.append(render(scene, size, size, window))
    return tensor_from_picture(np.stack(pictures))


def sample_crop_pairs(count: int, native: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The same crops at native and at twice the native size: [count, 3, n / 2 | n, ...]."""
    small, large = [], []
    for _ in range(count):
        scene = sample_scene(rng)
        w = _crop_window(scene, native, native // 2, rng)
        small.append(render(scene, native, native, w))
        double = Window(2 * w.top, 2 * w.left, 2 * w.height, 2 * w.width)
        large.append(render(scene, 2 * native, 2 * native, double))
    return tensor_from_picture(np.stack(small)), tensor_from_picture(np.stack(large))


def reconstruction_loss(decoded: Tensor, picture: Tensor) -> Tensor:
    """L1 of the pictures plus L1 of their differences between neighbours (edges)."""
    error = decoded - picture
    along_x = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    along_y = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + GRADIENT_WEIGHT * (along_x + along_y)


def start_nearly_deterministic(vae: AutoencoderKL) -> None:
    """Set the posterior's initial standard deviation to about 0.05.

    Left at its default of 1 the noise drowns the signal, and the first minutes teach nothing.
    """
    convolution: Any = vae.quant_conv
    log_variance = slice(LATENT_CHANNELS, None)
    with torch.no_grad():
        convolution.weight[log_variance] *= 0.1
        convolution.bias[log_variance] = INITIAL_LOG_VARIANCE


def vae_loss(vae: AutoencoderKL, batch: VaeBatch, bf16: bool) -> LossFunction:
    """The loss of one training step; see the module's docstring."""
    device = next(vae.parameters()).device

    def loss(step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        enlarged: Tensor | None = None
        if step % 4 == 1:
            scenes = [sample_scene(rng) for _ in range(batch.whole)]
            size = batch.native_pixels
            picture = tensor_from_picture(np.stack([render(s, size, size) for s in scenes]))
        elif step % 4 == 3:
            picture, enlarged = sample_crop_pairs(batch.enlarged, batch.native_pixels, rng)
            enlarged = enlarged.to(device)
        else:
            picture = sample_crops(batch.crops, batch.native_pixels, rng)
        picture = picture.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            posterior = vae.encode(picture).latent_dist
            latent = posterior.sample()
            decoded = vae.decode(latent).sample.float()
            total = reconstruction_loss(decoded, picture)
            if enlarged is not None:
                latent = functional.interpolate(latent.float(), scale_factor=2, mode="bicubic")
                decoded_enlarged = vae.decode(latent).sample.float()
                total = total + ENLARGED_WEIGHT * reconstruction_loss(decoded_enlarged, enlarged)
        divergence = posterior.kl().float().sum() / posterior.mean.numel()
        squared = (decoded.detach() - picture).square().mean().item() / 4.0
        figures = {"psnr": -10.0 * float(np.log10(max(squared, 1e-10)))}
        return total + KL_WEIGHT * divergence, figures

    return loss
