"""A distilled run, a few steps in each stage, against the literal PyTorch reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fam_graph.reference.components import ReferenceComponents
from fam_graph.reference.pipeline import ReferenceNoise, ReferenceRequest, run_reference
from fam_runtime import FamPipeline
from tests.conftest import Exported

SEED = 3
PROMPT = "a red circle"
TOLERANCE = 1e-5
"""Largest error over the largest value of the latent; seen: 8e-7."""


def noise_of(
    sampler: str, steps: int, native: tuple[int, int], target: tuple[int, int]
) -> ReferenceNoise:
    """The documented order of draws, from torch's own generator.

    The reference asks for a noise at every step and LCM's last one draws none: it gets one that
    is not a number, so that it would show if it were used.
    """
    generator = torch.Generator().manual_seed(SEED)

    def draw(size: tuple[int, int], count: int = 1) -> list[torch.Tensor]:
        return [torch.randn(1, 4, *size, generator=generator) for _ in range(count)]

    def of_steps(size: tuple[int, int]) -> list[torch.Tensor]:
        drawn = {"lcm": steps - 1, "euler-a": steps}.get(sampler, 0)
        unused = [torch.full((1, 4, *size), torch.nan)] if sampler == "lcm" else []
        return draw(size, drawn) + unused

    initial, native_steps = draw(native)[0], of_steps(native)
    return ReferenceNoise(initial, draw(target)[0], native_steps, of_steps(target))


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("lcm", 1), ("lcm", 4), ("euler", 1), ("euler", 4), ("euler-a", 1), ("ddim", 1)],
)
def test_few_steps_in_both_stages(tiny: Exported, sampler: str, steps: int) -> None:
    with FamPipeline.from_pretrained(tiny.bundle, progress=False, num_threads=1) as pipe:
        manifest = pipe.bundle.manifest
        native = manifest.latent_size(manifest.native)
        target = manifest.latent_size(manifest.target_for_scale(2))
        got = pipe(
            PROMPT,
            scale=2,
            num_inference_steps=steps,
            guidance_scale=2.0,
            seed=SEED,
            scheduler=sampler,
            output_type="latent",
        ).latents
    request = ReferenceRequest(
        prompts=[PROMPT],
        native_latent=native,
        target_latent=target,
        scheduler=sampler,
        num_inference_steps=steps,
        guidance_scale=2.0,
    )
    noise = noise_of(sampler, steps, native, target)
    components = ReferenceComponents.from_pretrained(tiny.checkpoint)
    expected = run_reference(components, request, noise, decode=False).target_latent.numpy()
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE
