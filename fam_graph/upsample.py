"""The step between the stages: ``z̃_0 = U(z_0ⁿ, s)`` (§3.1), in latent or in pixel space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from fam_graph.attention_modulation import Grid
from fam_graph.interpolation import (
    InterpolationMode,
    interpolate_separable,
    interpolation_matrix,
)
from fam_graph.vae import VaeDecoder, VaeEncoder, vae_scale_factor


class SeparableResize(nn.Module):
    """Interpolation of the last two axes by one constant matrix per axis.

    Args:
        source: size that comes in (height, width).
        target: size that goes out; either axis may be larger, equal or smaller.
        mode: ``bicubic``, ``bilinear`` or ``nearest``.
    """

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, source: Grid, target: Grid, mode: InterpolationMode) -> None:
        super().__init__()
        rows, columns = (
            interpolation_matrix(small, large, mode)
            for small, large in zip(source, target, strict=True)
        )
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``[..., h, w]`` → ``[..., H, W]``, float32."""
        return interpolate_separable(values, self.rows, self.columns)


class LatentUpsample(SeparableResize):
    """`U` in latent space: float32 ``[B, 4, h, w]`` → ``[B, 4, H, W]``.

    §3.1 does not name the interpolation. We do bicubic because later work reports artefacts from
    the coarser ones; bilinear and nearest are options.

    Args:
        native_latent: native latent size (height, width).
        target_latent: target latent size (height, width).
        mode: ``bicubic``, ``bilinear`` or ``nearest``.
    """

    def __init__(
        self, native_latent: Grid, target_latent: Grid, mode: InterpolationMode = "bicubic"
    ) -> None:
        super().__init__(native_latent, target_latent, mode)


class PixelUpsample(nn.Module):
    """`U` in pixel space: decode, resize the picture, encode its mean.

    Interpolation overshoots and the decoder is not bounded. (1) Encode what comes out. (2) Clamp to
    [-1, 1] first. We do (2) because the encoder was trained on pictures, which lie in that range.

    Args:
        vae: decodes at the native size and encodes at the target size.
        native_latent: native latent size (height, width).
        target_latent: target latent size (height, width).
        mode: ``bicubic``, ``bilinear`` or ``nearest``.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        native_latent: Grid,
        target_latent: Grid,
        mode: InterpolationMode = "bicubic",
    ) -> None:
        super().__init__()
        factor = vae_scale_factor(vae)
        self.decoder, self.encoder = VaeDecoder(vae), VaeEncoder(vae)
        self.resize = SeparableResize(
            (native_latent[0] * factor, native_latent[1] * factor),
            (target_latent[0] * factor, target_latent[1] * factor),
            mode,
        )

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """``z_0ⁿ`` float32 ``[B, 4, h, w]`` → ``z̃_0`` float32 ``[B, 4, H, W]``."""
        image: torch.Tensor = self.resize(self.decoder(latent))
        encoded: torch.Tensor = self.encoder(clamp_image(image))
        return encoded


def clamp_image(image: torch.Tensor) -> torch.Tensor:
    """Clamp to [-1, 1] and let NaN through.

    The ``Clip`` of some inference libraries turns NaN into a bound, so that an overflow of the VAE
    would go unnoticed; here NaN stays NaN because the picture itself is a summand.
    """
    return image - F.relu(image - 1) + F.relu(-1 - image)
