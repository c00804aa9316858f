"""A driver of the two step modules, as plain as a runtime: scalars in, latents swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fam_graph.frequency_modulation import frequency_modulation_tables
from fam_graph.reference.components import Conditions, ReferenceComponents
from fam_graph.reference.pipeline import ReferenceNoise, ReferenceRequest, stage_conditions
from fam_graph.step import NativeStep, TargetStep
from fam_graph.taps import default_tap_layers
from fam_graph.upsample import LatentUpsample, PixelUpsample
from fam_runtime import contract
from fam_runtime.contract import StepCoefficient, TapForm, tap_names
from fam_runtime.methods import METHODS, resolve_am_strength, skip_residual_weight
from fam_runtime.schedulers import NoiseSchedule, SamplingPlan, StepPlan, make_plan

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TwoStageLatents:
    """What the driver returns."""

    native: torch.Tensor
    reference: torch.Tensor
    target: torch.Tensor


class TwoStageDriver:
    """Runs a :class:`ReferenceRequest` through `NativeStep`, `U` and `TargetStep`."""

    def __init__(
        self, components: ReferenceComponents, request: ReferenceRequest, form: TapForm = "qk"
    ) -> None:
        self.components, self.request, self.form = components, request, form
        self.layers = default_tap_layers(components.unet)
        native, target = request.native_latent, request.target_latent
        guidance = request.guidance_scale is not None
        self.native_step = NativeStep(components.unet, self.layers, form=form, guidance=guidance)
        self.target_step = TargetStep(
            components.unet, self.layers, native, target, form=form, guidance=guidance
        )
        self.tables = frequency_modulation_tables(
            *target,
            *native,
            cutoff_reference=request.cutoff_reference,
            inside_box=request.inside_box,
        )
        schedule = NoiseSchedule.from_config(written_config(components))
        self.plan: SamplingPlan = make_plan(
            request.scheduler, schedule, request.num_inference_steps
        )

    def run(self, noise: ReferenceNoise) -> TwoStageLatents:
        """Both stages, the taps of every native step kept."""
        native, taps = self.run_native(noise)
        reference = self.upsample()(native)
        return TwoStageLatents(native, reference, self.run_target(noise, reference, taps))

    def upsample(self) -> LatentUpsample | PixelUpsample:
        request = self.request
        sizes = (request.native_latent, request.target_latent, request.upsample_mode)
        if request.upsample_space == "latent":
            return LatentUpsample(*sizes)
        return PixelUpsample(self.components.vae, *sizes)

    def run_native(self, noise: ReferenceNoise) -> tuple[torch.Tensor, list[Tensors]]:
        conditions = stage_conditions(self.components, self.request, self.request.native_latent)
        latent = self.plan.init_noise_sigma * noise.native_initial
        previous, taps = torch.zeros_like(latent), []
        for index, step in enumerate(self.plan.steps):
            inputs = self.step_inputs(step, latent, previous, conditions)
            inputs[contract.STEP_NOISE] = step_noise(noise.native_steps, index, latent)
            outputs = self.native_step(inputs)
            latent, previous = outputs[contract.NEXT_LATENT], outputs[contract.PREDICTION]
            taps.append({name: outputs[name] for name in self.tap_names()})
        return latent, taps

    def run_target(
        self, noise: ReferenceNoise, reference: torch.Tensor, taps: Sequence[Tensors]
    ) -> torch.Tensor:
        method = METHODS[self.request.method]
        conditions = stage_conditions(self.components, self.request, self.request.target_latent)
        latent = self.plan.initial_signal * reference + self.plan.initial_noise * noise.target
        if method.start == "noise":
            latent = self.plan.init_noise_sigma * noise.target
        previous = torch.zeros_like(latent)
        for index, step in enumerate(self.plan.steps):
            inputs = self.step_inputs(step, latent, previous, conditions)
            inputs[contract.STEP_NOISE] = step_noise(noise.target_steps, index, latent)
            inputs |= {
                contract.REFERENCE_LATENT: reference,
                contract.REFERENCE_NOISE: noise.target,
                **self.modulation_inputs(step),
                **taps[index],
            }
            outputs = self.target_step(inputs)
            latent, previous = outputs[contract.NEXT_LATENT], outputs[contract.PREDICTION]
        return latent

    def step_inputs(
        self,
        step: StepPlan,
        latent: torch.Tensor,
        previous: torch.Tensor,
        conditions: Conditions,
    ) -> Tensors:
        inputs = {
            contract.LATENT: latent,
            contract.TIMESTEP: torch.tensor(step.timestep, dtype=torch.float32),
            contract.STEP_COEFFICIENTS: torch.tensor(step.coefficients),
            contract.PREVIOUS_PREDICTION: previous,
            contract.PROMPT_EMBEDS: conditions.prompt_embeds,
        }
        if self.request.guidance_scale is not None:
            inputs[contract.GUIDANCE_SCALE] = torch.tensor(self.request.guidance_scale)
        if conditions.added is not None:
            inputs[contract.POOLED_PROMPT_EMBEDS] = conditions.added["text_embeds"]
            inputs[contract.TIME_IDS] = conditions.added["time_ids"]
        return inputs

    def modulation_inputs(self, step: StepPlan) -> Tensors:
        """FM kernels and weight, λ, and the reference's coefficients, as the method has them."""
        method, total = METHODS[self.request.method], len(self.tables.weight)
        rows, columns = self.tables.rows[step.fm_index], self.tables.columns[step.fm_index]
        weight = self.tables.weight[step.fm_index]
        if method.fm_kernel == "delta":
            rows, columns = torch.eye(len(rows))[0], torch.eye(len(columns))[0]
        if method.fm_weight == "cosine":
            weight = torch.tensor(skip_residual_weight(step.timestep, total))
        if method.fm_kernel == "off":
            weight = torch.tensor(0.0)
        strength = method.am_strength
        if strength is None:
            strength = resolve_am_strength(self.request.method, self.request.am_strength, 0.7)
        coefficients = torch.tensor(step.coefficients)
        if method.reference == "constant":
            coefficients[StepCoefficient.REFERENCE_SIGNAL] = 1
            coefficients[StepCoefficient.REFERENCE_NOISE] = 0
        return {
            contract.STEP_COEFFICIENTS: coefficients,
            contract.FM_KERNEL_ROWS: rows,
            contract.FM_KERNEL_COLUMNS: columns,
            contract.FM_WEIGHT: weight,
            contract.AM_STRENGTH: torch.tensor(strength),
        }

    def tap_names(self) -> list[str]:
        return [name for layer in self.layers for name in tap_names(layer, self.form)]


def written_config(components: ReferenceComponents) -> dict[str, Any]:
    """The scheduler's configuration as its file has it.

    diffusers adds the loaded class's defaults, and drops them again when another class is made from
    it: SD 1.5's file names no spacing, so PNDM and DDIM space "leading" but Euler "linspace".
    """
    config = components.pipeline.scheduler.config
    added = set(config.get("_use_default_values", ()))
    return {key: value for key, value in config.items() if key not in added}


def step_noise(noises: Sequence[torch.Tensor], index: int, latent: torch.Tensor) -> torch.Tensor:
    """The noise of a step, zeros where the sampler needs none."""
    return noises[index] if noises else torch.zeros_like(latent)
