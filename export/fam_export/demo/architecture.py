"""The demo model's parts, as diffusers and transformers know them.

A latent diffusion model shaped like a small SDXL: `up_blocks.0` of the UNet has self-attention, so
attention modulation has a layer to work on.  Sizes are data (`DemoSizes`): a machine with a GPU can
train a wider one at a larger native size with the same script.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from transformers import CLIPTextConfig, CLIPTextModel

MAX_TOKENS = 77
LATENT_CHANNELS = 4


@dataclass(frozen=True)
class DemoSizes:
    """Widths and depths; `native_pixels` must be a multiple of the VAE's factor times two."""

    native_pixels: int = 64
    vae_channels: tuple[int, ...] = (24, 48, 96)
    unet_channels: tuple[int, int] = (96, 160)
    unet_layers_per_block: int = 1
    attention_heads: int = 5
    text_width: int = 128
    text_layers: int = 2

    @property
    def vae_factor(self) -> int:
        """Pixels a latent pixel, per axis."""
        return 1 << (len(self.vae_channels) - 1)

    @property
    def native_latent(self) -> int:
        """Height and width of the native latent, in latent pixels."""
        return self.native_pixels // self.vae_factor


def make_vae(sizes: DemoSizes, scaling_factor: float = 1.0) -> AutoencoderKL:
    """Autoencoder [B, 3, f h, f w] <-> [B, 4, h, w], f = vae_factor; without attention."""
    levels = len(sizes.vae_channels)
    vae: AutoencoderKL = AutoencoderKL(
        block_out_channels=sizes.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=sizes.native_pixels,
        scaling_factor=scaling_factor,
    )
    return vae


def make_unet(sizes: DemoSizes) -> UNet2DConditionModel:
    """Noise predictor on [B, 4, h, w] with two levels and attention at the inner one.

    diffusers reads `attention_head_dim` of these UNets as the *number of heads* (a misnomer kept
    for old checkpoints), hence the name on our side.
    """
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=sizes.native_latent,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=sizes.unet_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=sizes.unet_layers_per_block,
        attention_head_dim=sizes.attention_heads,
        cross_attention_dim=sizes.text_width,
        norm_num_groups=16,
    )
    return unet


def make_text_encoder(
    sizes: DemoSizes, vocab_size: int, start_token: int, end_token: int
) -> CLIPTextModel:
    """CLIP text encoder: ids [B, 77] -> hidden states [B, 77, text_width]."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            projection_dim=sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=start_token,
            eos_token_id=end_token,
            pad_token_id=end_token,
        )
    )


_NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 1,
}


def make_training_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule, to add noise in training."""
    scheduler: DDPMScheduler = DDPMScheduler(**_NOISE_SCHEDULE)
    return scheduler


def make_sampling_scheduler() -> DDIMScheduler:
    """The scheduler that ships with the checkpoint: DDIM with Stable Diffusion's settings."""
    scheduler: DDIMScheduler = DDIMScheduler(**_NOISE_SCHEDULE, set_alpha_to_one=False)
    return scheduler
