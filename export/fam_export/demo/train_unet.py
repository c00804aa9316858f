"""Training the noise predictor on cached latents and cached caption embeddings.

Scenes are rendered, encoded and described once (`make_cache`); a step then only reads from memory.
The loss is the plain epsilon loss; a share of the prompts is empty, for classifier-free guidance.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, distributed
from torch.nn import functional
from tqdm import trange
from transformers import CLIPTextModel, CLIPTokenizer

from fam_export.demo.architecture import LATENT_CHANNELS, MAX_TOKENS, make_training_scheduler
from fam_export.demo.loop import LossFunction, process_rank
from fam_export.demo.scenes import caption, render, sample_scene
from fam_export.demo.train_text import token_ids
from fam_export.demo.train_vae import tensor_from_picture

EMPTY_PROMPTS = 0.1  # share of the training samples
CACHE_CHUNK = 40  # scenes encoded at once
CACHE_SEED = 1


@dataclass(frozen=True)
class Cache:
    """Training data in memory-mapped files.

    latents: float32 [N, 4, h, w], the posterior's mean, unscaled.
    embeddings: float16 [N, 77, D], the text encoder's last hidden state of each caption.
    empty: float32 [77, D], the same of the empty prompt.
    scaling_factor: the autoencoder's.
    """

    latents: np.ndarray
    embeddings: np.ndarray
    empty: Tensor
    scaling_factor: float


def embed(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """float32 [B, 77, D] on the encoder's device."""
    with torch.no_grad():
        ids = token_ids(tokenizer, captions).to(encoder.device)
        states: Tensor = encoder(ids).last_hidden_state
    return states


def make_cache(
    vae: AutoencoderKL,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    native_pixels: int,
    count: int,
    folder: Path,
) -> Cache:
    """Render, encode and describe `count` scenes; reads the files back if they are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "latents.npy", folder / "embeddings.npy"]
    if not all(path.exists() for path in paths):
        _write_cache(vae, encoder, tokenizer, native_pixels, count, paths)
    latents, embeddings = (np.load(path, mmap_mode="r") for path in paths)
    empty = embed(encoder, tokenizer, [""])[0].cpu()
    config: Any = vae.config
    return Cache(latents, embeddings, empty, float(config.scaling_factor))


def _write_cache(
    vae: AutoencoderKL,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    native_pixels: int,
    count: int,
    paths: list[Path],
) -> None:
    """Fill both arrays under temporary names and rename them when done.

    In a data-parallel run every process fills its share of the chunks.
    """
    config: Any = vae.config
    side = native_pixels >> (len(config.block_out_channels) - 1)
    shapes = [(count, LATENT_CHANNELS, side, side), (count, MAX_TOKENS, encoder.config.hidden_size)]
    temporary = [path.with_suffix(".tmp") for path in paths]
    if process_rank() == 0:
        for path, dtype, shape in zip(temporary, ("float32", "float16"), shapes, strict=True):
            np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
    _wait_for_processes()
    arrays = [np.lib.format.open_memmap(path, "r+") for path in temporary]
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    first, stride = process_rank() * CACHE_CHUNK, world * CACHE_CHUNK
    for start in trange(first, count, stride, desc="cache", mininterval=10.0):
        rng = np.random.default_rng((CACHE_SEED, start))
        scenes = [sample_scene(rng) for _ in range(min(CACHE_CHUNK, count - start))]
        part = slice(start, start + len(scenes))
        pictures = np.stack([render(s, native_pixels, native_pixels) for s in scenes])
        with torch.no_grad():
            posterior = vae.encode(tensor_from_picture(pictures).to(vae.device)).latent_dist
        arrays[0][part] = posterior.mean.float().cpu().numpy()
        captions = [caption(s, rng) for s in scenes]
        arrays[1][part] = embed(encoder, tokenizer, captions).half().cpu().numpy()
    for array in arrays:
        array.flush()
    _wait_for_processes()
    if process_rank() == 0:
        for source, target in zip(temporary, paths, strict=True):
            os.replace(source, target)
    _wait_for_processes()


def _wait_for_processes() -> None:
    if distributed.is_initialized():
        distributed.barrier()


def unet_loss(unet: UNet2DConditionModel, cache: Cache, batch: int, bf16: bool) -> LossFunction:
    """Mean squared error of the predicted noise at uniformly drawn timesteps."""
    device = unet.device
    scheduler: Any = make_training_scheduler()
    steps = int(scheduler.config["num_train_timesteps"])

    def loss(step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = np.sort(rng.choice(len(cache.latents), batch, replace=False))
        latent = torch.from_numpy(cache.latents[chosen]).to(device) * cache.scaling_factor
        states = torch.from_numpy(cache.embeddings[chosen]).to(device).float()
        states[torch.from_numpy(rng.uniform(size=batch) < EMPTY_PROMPTS)] = cache.empty.to(device)
        # Stratified over the batch: the same distribution, less variance.
        strata = (np.arange(batch) + rng.uniform(size=batch)) / batch
        timesteps = torch.from_numpy((rng.permutation(strata) * steps).astype(np.int64)).to(device)
        noise = torch.randn_like(latent)
        noisy = scheduler.add_noise(latent, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = unet(noisy, timesteps, encoder_hidden_states=states).sample
        return functional.mse_loss(predicted.float(), noise), {}

    return loss
