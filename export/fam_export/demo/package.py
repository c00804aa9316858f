"""Writes the trained parts as a checkpoint folder that diffusers loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
    StableDiffusionPipeline,
)

from fam_export.demo.architecture import make_sampling_scheduler
from fam_export.demo.tokens import save_tokenizer
from fam_export.demo.trained import TextParts

MAX_CHECKPOINT_BYTES = 30_000_000  # what may live in the repository


def package(text: TextParts, vae: AutoencoderKL, unet: UNet2DConditionModel, folder: Path) -> int:
    """Write `folder` in diffusers' layout with float16 safetensors; returns its size in bytes.

    The folder is written beside its final place and then swapped in.  Raises ValueError when it
    is larger than MAX_CHECKPOINT_BYTES.
    """
    # Typed as Any: its annotations forbid the very values (None, DDIM) that its code allows.
    make_pipeline: Any = StableDiffusionPipeline
    pipeline = make_pipeline(
        vae=vae,
        text_encoder=text.encoder,
        tokenizer=text.tokenizer,
        unet=unet,
        scheduler=make_sampling_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    temporary = folder.with_name(folder.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(temporary, safe_serialization=True)
    save_tokenizer(text.tokenizer, temporary / "tokenizer")
    files = [path for path in temporary.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)  # safetensors writes 0600
    size_bytes = sum(path.stat().st_size for path in files)
    if size_bytes > MAX_CHECKPOINT_BYTES:
        raise ValueError(
            f"checkpoint size | got {size_bytes} bytes | expected at most {MAX_CHECKPOINT_BYTES}"
            " | make unet_channels or vae_channels smaller"
        )
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return size_bytes
