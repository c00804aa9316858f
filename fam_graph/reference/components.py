"""A loaded checkpoint, and the diffusers parts that the reference uses of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from unittest import mock

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete, scheduling_lcm

from fam_graph.attention_modulation import Grid


class Scheduler(Protocol):
    """The part of diffusers' schedulers that the reference uses."""

    config: Mapping[str, Any]
    timesteps: torch.Tensor
    init_noise_sigma: float

    def set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:
        """Choose the timesteps of a run."""

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The latent as the UNet expects it."""
        ...

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Diffuse clean latents, in this scheduler's scaling."""
        ...

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        *,
        return_dict: Literal[False],
    ) -> tuple[torch.Tensor, ...]:
        """One update; the next latent comes first."""
        ...


SCHEDULERS: Mapping[str, Callable[[Mapping[str, Any]], Scheduler]] = {
    "ddim": DDIMScheduler.from_config,
    "euler": EulerDiscreteScheduler.from_config,
    "euler-a": EulerAncestralDiscreteScheduler.from_config,
    "dpm++2m": DPMSolverMultistepScheduler.from_config,
    "lcm": LCMScheduler.from_config,
}
"""The samplers by the names that the runtime uses."""


@dataclass(frozen=True)
class Conditions:
    """What the UNet is told besides latent and timestep; the unconditional half comes first.

    Attributes:
        prompt_embeds: ``[2B, 77, D]``, or ``[B, 77, D]`` without guidance.
        added: SDXL's ``text_embeds`` and ``time_ids``, else None.
    """

    prompt_embeds: torch.Tensor
    added: dict[str, torch.Tensor] | None


@dataclass(frozen=True)
class ReferenceComponents:
    """A checkpoint as diffusers loads it."""

    pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> ReferenceComponents:
        """Load the checkpoint at `path`; `options` go to diffusers."""
        pipeline = DiffusionPipeline.from_pretrained(path, **options)
        if not isinstance(pipeline, StableDiffusionPipeline | StableDiffusionXLPipeline):
            raise ValueError(
                f"{path} holds a {type(pipeline).__name__}; expected a StableDiffusionPipeline or "
                "a StableDiffusionXLPipeline"
            )
        return cls(pipeline)

    @property
    def unet(self) -> UNet2DConditionModel:
        """The checkpoint's UNet."""
        unet: UNet2DConditionModel = self.pipeline.unet
        return unet

    @property
    def vae(self) -> AutoencoderKL:
        """The checkpoint's VAE."""
        vae: AutoencoderKL = self.pipeline.vae
        return vae

    def scheduler(self, name: str, num_inference_steps: int) -> Scheduler:
        """A fresh scheduler of that name with its timesteps set."""
        if name not in SCHEDULERS:
            raise ValueError(f"unknown scheduler {name!r}; known: {', '.join(SCHEDULERS)}")
        scheduler = SCHEDULERS[name](self.pipeline.scheduler.config)
        scheduler.set_timesteps(num_inference_steps, device=self.unet.device)
        return scheduler

    def conditions(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None,
        guidance: bool,
        size_latent: Grid,
    ) -> Conditions:
        """Encode prompts with diffusers' own code, for a stage of `size_latent`.

        SDXL's size conditions: the paper is silent. We give each stage its own size, crop (0, 0),
        as diffusers does for a direct run at that size.
        """
        encoded = self.pipeline.encode_prompt(
            prompt=list(prompts),
            device=self.unet.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guidance,
            negative_prompt=None if negative_prompts is None else list(negative_prompts),
        )
        prompt_embeds = with_unconditional(encoded[0], encoded[1], guidance)
        if isinstance(self.pipeline, StableDiffusionPipeline):
            return Conditions(prompt_embeds, None)
        height, width = (side * self.pipeline.vae_scale_factor for side in size_latent)
        ids = [height, width, 0, 0, height, width]
        time_ids = torch.tensor(ids, dtype=prompt_embeds.dtype, device=prompt_embeds.device)
        added = {
            "text_embeds": with_unconditional(encoded[2], encoded[3], guidance),
            "time_ids": time_ids.repeat(len(prompt_embeds), 1),
        }
        return Conditions(prompt_embeds, added)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent → picture, as diffusers' pipelines decode."""
        vae = self.vae
        latent = (latent / vae.config["scaling_factor"]).to(vae.dtype)
        image: torch.Tensor = vae.decode(latent, return_dict=False)[0]
        return image

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Picture → the mode of its posterior, scaled."""
        posterior = self.vae.encode(image.to(self.vae.dtype)).latent_dist
        latent: torch.Tensor = posterior.mode() * self.vae.config["scaling_factor"]
        return latent


def with_unconditional(
    conditional: torch.Tensor, unconditional: torch.Tensor | None, guidance: bool
) -> torch.Tensor:
    """``[uncond, cond]`` along the batch, or the conditional half alone."""
    if not guidance or unconditional is None:
        return conditional
    return torch.cat([unconditional, conditional])


@contextmanager
def given_noise(noise: torch.Tensor | None) -> Iterator[None]:
    """Let diffusers' ancestral and LCM samplers draw `noise`; `step` takes a generator only."""
    if noise is None:
        yield
        return
    with ExitStack() as patched:
        for module in (scheduling_euler_ancestral_discrete, scheduling_lcm):
            draw = mock.patch.object(module, "randn_tensor", lambda *_, **__: noise)
            patched.enter_context(draw)
        yield
