"""The whole two-stage run, exported and without PyTorch, against the literal PyTorch reference.

The reference uses diffusers' UNet, text encoders and schedulers, FM by FFT and dense attention
maps, and draws its noise from torch. Nothing of the runtime's arithmetic takes part in it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from fam_export.options import ExportOptions
from fam_graph.reference.components import ReferenceComponents
from fam_graph.reference.pipeline import (
    Method,
    ReferenceNoise,
    ReferenceRequest,
    run_reference,
)
from fam_runtime import FamPipeline
from tests.conftest import Exported, ExportTiny

STEPS = 20
SEED = 5
GUIDANCE_SCALE = 5.0
PROMPT = "a red circle on a white background"
NEGATIVE_PROMPT = "blurry"

LATENT_TOLERANCE = 1e-3
"""Largest error over the largest value after 20 steps; one step differs by some 1e-6, and a chain
of steps with guidance amplifies that."""

METHODS_TOLD_APART = 1e-2
"""The methods must differ by more than this, or the comparison could not tell them apart."""


@cache
def components(checkpoint: Path) -> ReferenceComponents:
    return ReferenceComponents.from_pretrained(checkpoint)


@cache
def pipeline(bundle: Path) -> FamPipeline:
    return FamPipeline.from_pretrained(bundle, progress=False, num_threads=1)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def torch_noise(
    native: tuple[int, int],
    target: tuple[int, int],
    *,
    native_steps: int = 0,
    target_steps: int = 0,
) -> ReferenceNoise:
    """The documented order of draws, from torch's own generator."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(size: tuple[int, int]) -> torch.Tensor:
        return torch.randn(1, 4, *size, generator=generator)

    initial = draw(native)
    steps = [draw(native) for _ in range(native_steps)]
    noise = draw(target)
    return ReferenceNoise(initial, noise, steps, [draw(target) for _ in range(target_steps)])


def compare(
    exported: Exported,
    scale: tuple[float, float],
    method: Method,
    *,
    scheduler: str = "ddim",
    ancestral: bool = False,
    steps: int = STEPS,
) -> np.ndarray:
    """Run both, require equal latents, return the target latent."""
    pipe = pipeline(exported.bundle)
    manifest = pipe.bundle.manifest
    target = manifest.latent_size(manifest.target_for_scale(scale))
    native = manifest.latent_size(manifest.native)
    draws = steps if ancestral else 0
    noise = torch_noise(native, target, native_steps=draws, target_steps=draws)
    if method == "direct":  # takes nothing from the native stage, so draws nothing for it
        generator = torch.Generator().manual_seed(SEED)
        noise = ReferenceNoise(
            noise.native_initial, torch.randn(1, 4, *target, generator=generator)
        )
    expected = run_reference(
        components(exported.checkpoint),
        ReferenceRequest(
            prompts=[PROMPT],
            negative_prompts=[NEGATIVE_PROMPT],
            native_latent=native,
            target_latent=target,
            method=method,
            scheduler=scheduler,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE_SCALE,
        ),
        noise,
        decode=False,
    )
    got = pipe(
        PROMPT,
        NEGATIVE_PROMPT,
        scale=scale,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE_SCALE,
        seed=SEED,
        method=method,
        scheduler=scheduler,
        output_type="latent",
        return_native=method != "direct",
    )
    if got.native_latents is not None:
        native_latent = expected.native_latent.numpy()
        assert relative_error(got.native_latents, native_latent) <= LATENT_TOLERANCE
    assert relative_error(got.latents, expected.target_latent.numpy()) <= LATENT_TOLERANCE
    return got.latents


@pytest.mark.parametrize("scale", [(2.0, 2.0), (3.0, 3.0), (2.0, 4.0)], ids=str)
def test_every_method_equals_the_reference(exported: Exported, scale: tuple[float, float]) -> None:
    methods: tuple[Method, ...] = ("direct", "skip-residual", "fm", "fam")
    latents = {method: compare(exported, scale, method) for method in methods}
    for first in methods:
        for second in methods[: methods.index(first)]:
            difference = relative_error(latents[first], latents[second])
            assert difference > METHODS_TOLD_APART, f"{first} and {second} look the same"


@pytest.mark.parametrize("method", ["am", "direct-latent", "constant-lf", "swapping"])
def test_the_other_methods_equal_the_reference(exported: Exported, method: Method) -> None:
    compare(exported, (2.0, 2.0), method, steps=6)


@pytest.mark.parametrize("scheduler", ["euler", "euler-a", "dpm++2m"])
def test_every_sampler_equals_the_reference(exported: Exported, scheduler: str) -> None:
    compare(
        exported, (2.0, 2.0), "fam", scheduler=scheduler, ancestral=scheduler == "euler-a", steps=8
    )


def test_maps_and_queries_give_the_same_picture(
    export_tiny: ExportTiny,
) -> None:
    latents = [
        compare(
            export_tiny("sd15", ("2",), ExportOptions(tap_form=form)), (2.0, 2.0), "fam", steps=6
        )
        for form in ("qk", "maps")
    ]
    assert relative_error(latents[0], latents[1]) < 1e-4
