"""Measures the autoencoder of a checkpoint: `python -m fam_export.demo.evaluate_vae`.

Prints the PSNR in dB of fresh scenes at one, two and four times the native size, and of native
latents enlarged bicubically twofold against the renderer's picture of twice the size.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from fam_export.demo.evaluate import CHECKPOINT
from fam_export.demo.scenes import Scene, render, sample_scene
from fam_export.demo.train_vae import tensor_from_picture

SCENE_SEED = 30_000
BATCH = 8


def _pictures(scenes: list[Scene], size: int) -> Tensor:
    """float32 [n, 3, size, size] in -1..1."""
    return tensor_from_picture(np.stack([render(scene, size, size) for scene in scenes]))


def _psnr(squared_error: float) -> float:
    """Decibels, from a mean squared error over the range -1..1."""
    return round(10.0 * float(np.log10(4.0 / squared_error)), 2)


def measure(vae: Any, native: int, count: int) -> dict[str, float]:
    """PSNR in dB by name of the case; means over all pixels of `count` scenes."""
    rng = np.random.default_rng(SCENE_SEED)
    errors: dict[str, list[float]] = {}
    for _ in range(0, count, BATCH):
        scenes = [sample_scene(rng) for _ in range(BATCH)]
        for scale in (1, 2, 4):
            picture = _pictures(scenes, scale * native)
            latent = vae.encode(picture).latent_dist.mean
            error = vae.decode(latent).sample.clamp(-1.0, 1.0) - picture
            errors.setdefault(f"{scale * native} px", []).append(error.square().mean().item())
        latent = vae.encode(_pictures(scenes, native)).latent_dist.mean
        enlarged = functional.interpolate(latent, scale_factor=2, mode="bicubic")
        error = vae.decode(enlarged).sample.clamp(-1.0, 1.0) - _pictures(scenes, 2 * native)
        errors.setdefault("latents enlarged 2x", []).append(error.square().mean().item())
    return {name: _psnr(float(np.mean(values))) for name, values in errors.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Measure a demo checkpoint's autoencoder.")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--scenes", type=int, default=64)
    options = parser.parse_args(arguments)
    vae: Any = AutoencoderKL.from_pretrained(options.checkpoint / "vae").to(torch.float32)
    with torch.no_grad():
        print(json.dumps(measure(vae, int(vae.config.sample_size), options.scenes), indent=2))


if __name__ == "__main__":
    main()
