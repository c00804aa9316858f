"""The VAE's two halves as traceable modules, between the sampler's latents and pictures."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn

from fam_graph.attention_processors import fuse_attention


def vae_scale_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent sample along an axis."""
    return 1 << (len(vae.config["block_out_channels"]) - 1)


class LatentScaling(nn.Module):
    """Between the sampler's latents and the VAE's: ``z_vae = z / scale + shift``.

    ``scale`` is the configuration's ``scaling_factor``, divided by ``latents_std`` where a
    checkpoint has one; ``shift`` is ``shift_factor`` or ``latents_mean``, else 0.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        config = vae.config
        std, mean = config.get("latents_std"), config.get("latents_mean")
        shift = config.get("shift_factor")
        scale_values = torch.full((1,), float(config["scaling_factor"]))
        if std is not None:
            scale_values = scale_values / torch.tensor(std, dtype=torch.float32)
        shift_values = torch.tensor([shift or 0.0] if mean is None else mean, dtype=torch.float32)
        self.register_buffer("scale", scale_values.reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift_values.reshape(1, -1, 1, 1), persistent=False)

    def unscale(self, latent: torch.Tensor) -> torch.Tensor:
        """The sampler's latent → the VAE's."""
        return latent / self.scale + self.shift

    def apply_scale(self, latent: torch.Tensor) -> torch.Tensor:
        """The VAE's latent → the sampler's."""
        return (latent - self.shift) * self.scale


class VaeDecoder(nn.Module):
    """Latent as the sampler leaves it → picture.

    The picture is not clamped: the ``Clip`` of some inference libraries turns NaN into a bound, and
    NaN must stay visible. Whoever makes bytes of it clamps.

    Args:
        vae: its attention processors are replaced by the fused one.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        fuse_attention(vae)
        self.scaling = LatentScaling(vae)
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """float32 ``[B, 4, h, w]`` → float32 ``[B, 3, 8h, 8w]``, nominally in [-1, 1]."""
        values = self.scaling.unscale(latent).to(dtype_of(self.decoder))
        if self.post_quant_conv is not None:
            values = self.post_quant_conv(values)
        image: torch.Tensor = self.decoder(values)
        return image.to(torch.float32)


class VaeEncoder(nn.Module):
    """Picture → the mode of its posterior, scaled as the sampler expects it; deterministic.

    Args:
        vae: its attention processors are replaced by the fused one.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        fuse_attention(vae)
        self.scaling = LatentScaling(vae)
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.latent_channels = int(vae.config["latent_channels"])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """float32 ``[B, 3, 8h, 8w]`` in [-1, 1] → float32 ``[B, 4, h, w]``."""
        moments: torch.Tensor = self.encoder(image.to(dtype_of(self.encoder)))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        # The first half of the channels is the mean, the second the log-variance.
        mean = moments[:, : self.latent_channels].to(torch.float32)
        return self.scaling.apply_scale(mean)


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype that the weights of `module` have."""
    return next(module.parameters()).dtype
