"""Both stages: the step modules, driven by sampling plans, against the literal reference."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from fam_graph.reference.components import SCHEDULERS, ReferenceComponents
from fam_graph.reference.pipeline import (
    Method,
    ReferenceNoise,
    ReferenceRequest,
    ReferenceResult,
    run_reference,
)
from tests.checkpoints import Kind
from tests.graph.tolerances import TWO_STAGES, VISIBLE, largest_difference
from tests.graph.two_stage import TwoStageDriver

STEPS = 5
NATIVE, TARGET = (16, 16), (32, 32)
METHODS: tuple[Method, ...] = get_args(Method)

REQUEST = ReferenceRequest(
    prompts=("the red cat",),
    negative_prompts=("a box",),
    native_latent=NATIVE,
    target_latent=TARGET,
    num_inference_steps=STEPS,
    guidance_scale=3.0,
)


def noise_of(request: ReferenceRequest, seed: int = 1) -> ReferenceNoise:
    generator = torch.Generator().manual_seed(seed)
    batch = len(request.prompts)

    def normal(size: tuple[int, int]) -> torch.Tensor:
        return torch.randn(batch, 4, *size, generator=generator)

    native, target = request.native_latent, request.target_latent
    steps = range(request.num_inference_steps) if request.scheduler in ("euler-a", "lcm") else ()
    return ReferenceNoise(
        normal(native),
        normal(target),
        [normal(native) for _ in steps],
        [normal(target) for _ in steps],
    )


@cache
def reference_of(components: ReferenceComponents, request: ReferenceRequest) -> ReferenceResult:
    """The reference's answer, once per request: it is the slow side."""
    components.unet.set_attn_processor(AttnProcessor2_0())
    components.vae.set_attn_processor(AttnProcessor2_0())
    return run_reference(components, request, noise_of(request), decode=False)


def assert_agree(components: ReferenceComponents, request: ReferenceRequest) -> None:
    expected = reference_of(components, request)
    got = TwoStageDriver(components, request).run(noise_of(request))
    assert largest_difference(got.native, expected.native_latent) < TWO_STAGES
    assert largest_difference(got.reference, expected.reference_latent) < TWO_STAGES
    assert largest_difference(got.target, expected.target_latent) < TWO_STAGES


@pytest.mark.parametrize("method", METHODS)
def test_every_method(components: ReferenceComponents, method: Method) -> None:
    assert_agree(components, replace(REQUEST, method=method))


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "ddim"])
def test_every_scheduler(components: ReferenceComponents, scheduler: str) -> None:
    # A distilled sampler is for few steps; in more, a v-prediction amplifies the last bits.
    steps = 3 if scheduler == "lcm" else REQUEST.num_inference_steps
    assert_agree(components, replace(REQUEST, scheduler=scheduler, num_inference_steps=steps))


@pytest.mark.parametrize("scheduler", ["euler", "dpm++2m"])
def test_skip_residual_with_fractional_timesteps(
    all_components: dict[Kind, ReferenceComponents], scheduler: str
) -> None:
    request = replace(REQUEST, scheduler=scheduler, method="skip-residual", num_inference_steps=7)
    assert_agree(all_components["sd15"], request)


OPTIONS: list[dict[str, Any]] = [
    {"cutoff_reference": "native"},
    {"inside_box": "one_minus_rho"},
    {"upsample_space": "pixel"},
    {"upsample_mode": "nearest"},
    {"size_conditions": "native"},
    {"target_latent": (32, 64)},
    {"target_latent": (24, 16)},
    {"guidance_scale": None, "negative_prompts": None},
    {"negative_prompts": None},
    {"prompts": ("the red cat", "a cat", "on"), "negative_prompts": ("", "box", "")},
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: "-".join(map(str, option)))
def test_every_option(
    all_components: dict[Kind, ReferenceComponents], option: dict[str, Any]
) -> None:
    assert_agree(all_components["sdxl"], replace(REQUEST, **option))


def test_methods_are_told_apart(components: ReferenceComponents) -> None:
    latents = {
        method: reference_of(components, replace(REQUEST, method=method)).target_latent
        for method in METHODS
    }
    for index, one in enumerate(METHODS):
        for other in METHODS[index + 1 :]:
            assert largest_difference(latents[one], latents[other]) > VISIBLE, (one, other)


def test_readings_and_size_conditions_are_told_apart(
    all_components: dict[Kind, ReferenceComponents],
) -> None:
    components = all_components["sdxl"]
    latents = [
        reference_of(components, replace(REQUEST, **option)).target_latent
        for option in [{}, *OPTIONS[:5]]
    ]
    for index, one in enumerate(latents):
        for other in latents[index + 1 :]:
            assert largest_difference(one, other) > VISIBLE


def test_native_stage_is_a_diffusers_pipeline(components: ReferenceComponents) -> None:
    pipeline = components.pipeline
    pipeline.set_progress_bar_config(disable=True)
    noise = noise_of(REQUEST)
    before = pipeline.scheduler
    pipeline.scheduler = components.scheduler("ddim", STEPS)
    expected = pipeline(
        list(REQUEST.prompts),
        negative_prompt=list(REQUEST.negative_prompts or ()),
        height=128,
        width=128,
        num_inference_steps=STEPS,
        guidance_scale=REQUEST.guidance_scale,
        latents=noise.native_initial,
        output_type="latent",
    ).images
    pipeline.scheduler = before
    got = reference_of(components, REQUEST).native_latent
    assert largest_difference(got, expected) < TWO_STAGES
