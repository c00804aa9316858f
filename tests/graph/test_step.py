"""One step of each module against diffusers' UNet, guidance and DDIM, and the dense reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from fam_graph.attention import attention_map
from fam_graph.attention_modulation import TapForm
from fam_graph.reference.am_dense import AttentionMaps, processors_in_place
from fam_graph.reference.components import ReferenceComponents
from fam_graph.reference.pipeline import (
    ReferenceRequest,
    guided_output,
    modulate_latent,
    modulating,
    recording,
    stage_conditions,
)
from fam_graph.step import NativeStep
from fam_graph.taps import default_tap_layers
from fam_runtime import contract
from fam_runtime.contract import StepCoefficient, tap_names
from tests.checkpoints import RECIPES, make_unet
from tests.graph.tolerances import ONE_STEP, largest_difference
from tests.graph.two_stage import Tensors, TwoStageDriver

NATIVE, TARGET = (16, 16), (32, 24)
INDEX = 2
FORMS: list[TapForm] = ["qk", "maps"]


def request_of(batch: int, *, guidance_scale: float | None = 3.0) -> ReferenceRequest:
    return ReferenceRequest(
        prompts=["the red cat", "a box", "on a cat"][:batch],
        native_latent=NATIVE,
        target_latent=TARGET,
        num_inference_steps=5,
        guidance_scale=guidance_scale,
    )


def native_inputs(driver: TwoStageDriver, latent: torch.Tensor) -> Tensors:
    request = driver.request
    conditions = stage_conditions(driver.components, request, request.native_latent)
    step = driver.plan.steps[INDEX]
    inputs = driver.step_inputs(step, latent, torch.zeros_like(latent), conditions)
    return {**inputs, contract.STEP_NOISE: torch.zeros_like(latent)}


@pytest.mark.parametrize("guidance_scale", [3.0, None])
@pytest.mark.parametrize("batch", [1, 3])
def test_native_step_is_diffusers(
    components: ReferenceComponents, batch: int, guidance_scale: float | None
) -> None:
    request = request_of(batch, guidance_scale=guidance_scale)
    latent = torch.randn(batch, 4, *NATIVE)
    scheduler = components.scheduler("ddim", 5)
    t = scheduler.timesteps[INDEX]
    conditions = stage_conditions(components, request, NATIVE)
    recorded = AttentionMaps()
    with processors_in_place(components.unet, recording(components, recorded)):
        output = guided_output(components, request, conditions, scheduler, latent, t)
    components.unet.set_attn_processor(AttnProcessor2_0())
    plain = guided_output(components, request, conditions, scheduler, latent, t)
    assert largest_difference(output, plain) < ONE_STEP
    expected, prediction = scheduler.step(plain, t, latent, return_dict=False)

    driver = TwoStageDriver(components, request)
    outputs = driver.native_step(native_inputs(driver, latent))
    assert largest_difference(outputs[contract.NEXT_LATENT], expected) < ONE_STEP
    assert largest_difference(outputs[contract.PREDICTION], prediction) < ONE_STEP
    assert list(outputs) == [contract.NEXT_LATENT, contract.PREDICTION, *driver.tap_names()]
    for layer in default_tap_layers(components.unet):
        query, key = (outputs[name] for name in tap_names(layer, "qk"))
        attn = components.unet.get_submodule(layer)
        # A checkpoint that asks for upcast_attention hands over queries that are scaled already.
        native_map = attention_map(query, key, attn.heads, 1.0 if attn.upcast_attention else None)
        assert largest_difference(native_map, recorded.maps[layer]) < ONE_STEP


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 3])
def test_target_step_is_the_reference(
    components: ReferenceComponents, batch: int, form: TapForm
) -> None:
    request = request_of(batch)
    native, latent = torch.randn(batch, 4, *NATIVE), torch.randn(batch, 4, *TARGET)
    clean, noise = torch.randn(2, batch, 4, *TARGET)
    scheduler = components.scheduler("ddim", 5)
    t = scheduler.timesteps[INDEX]
    recorded = AttentionMaps()
    conditions = stage_conditions(components, request, NATIVE)
    with processors_in_place(components.unet, recording(components, recorded)):
        guided_output(components, request, conditions, scheduler, native, t)
    conditions = stage_conditions(components, request, TARGET)
    f = modulate_latent(request, scheduler, latent, clean, noise, t)
    with processors_in_place(components.unet, modulating(components, request, recorded)):
        output = guided_output(components, request, conditions, scheduler, f, t)
    expected, prediction = scheduler.step(output, t, f, return_dict=False)

    driver = TwoStageDriver(components, request, form)
    taps = driver.native_step(native_inputs(driver, native))
    step = driver.plan.steps[INDEX]
    outputs = driver.target_step(
        {
            **driver.step_inputs(step, latent, torch.zeros_like(latent), conditions),
            **driver.modulation_inputs(step),
            **{name: taps[name] for name in driver.tap_names()},
            contract.STEP_NOISE: torch.zeros_like(latent),
            contract.REFERENCE_LATENT: clean,
            contract.REFERENCE_NOISE: noise,
        }
    )
    assert largest_difference(outputs[contract.NEXT_LATENT], expected) < ONE_STEP
    assert largest_difference(outputs[contract.PREDICTION], prediction) < ONE_STEP


def test_rows_of_a_batch_do_not_mix(components: ReferenceComponents) -> None:
    latent = torch.randn(3, 4, *NATIVE)
    together = TwoStageDriver(components, request_of(3))
    outputs = together.native_step(native_inputs(together, latent))
    prompt = request_of(3).prompts[1]
    alone = TwoStageDriver(components, replace(request_of(1), prompts=[prompt]))
    single = alone.native_step(native_inputs(alone, latent[1:2]))
    difference = largest_difference(
        outputs[contract.NEXT_LATENT][1:2], single[contract.NEXT_LATENT]
    )
    assert difference < ONE_STEP


def test_guidance_embedding_is_that_of_the_consistency_pipeline() -> None:
    from diffusers import LatentConsistencyModelPipeline

    torch.manual_seed(0)
    unet = make_unet(RECIPES["sd15"], time_cond_proj_dim=8)
    latent, prompt = torch.randn(2, 4, *NATIVE), torch.randn(2, 77, 16)
    scale = torch.tensor(8.5)
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    condition = embed(None, (scale - 1).repeat(2), embedding_dim=8)
    plain = unet(latent, torch.tensor(437.0), prompt, timestep_cond=condition).sample

    step = NativeStep(unet, default_tap_layers(unet), guidance=False)
    coefficients = torch.zeros(len(StepCoefficient))
    coefficients[StepCoefficient.MODEL_INPUT_SCALE] = 1
    coefficients[StepCoefficient.NEXT_FROM_OUTPUT] = 1
    outputs = step(
        {
            contract.LATENT: latent,
            contract.TIMESTEP: torch.tensor(437.0),
            contract.STEP_COEFFICIENTS: coefficients,
            contract.PREVIOUS_PREDICTION: torch.zeros_like(latent),
            contract.STEP_NOISE: torch.zeros_like(latent),
            contract.GUIDANCE_SCALE: scale,
            contract.PROMPT_EMBEDS: prompt,
        }
    )
    assert largest_difference(outputs[contract.NEXT_LATENT], plain) < ONE_STEP
    other = unet(latent, torch.tensor(437.0), prompt, timestep_cond=condition.flip(1)).sample
    assert largest_difference(other, plain) > 100 * ONE_STEP, "the embedding matters"
