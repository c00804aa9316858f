"""Euler's method with ancestral noise, as diffusers' EulerAncestralDiscreteScheduler."""

from __future__ import annotations

import math

import numpy as np

from fam_runtime.contract import StepCoefficient
from fam_runtime.schedulers._sigma_space import (
    euler_common_values,
    euler_init_noise_sigma,
    euler_next_values,
    euler_timesteps_and_sigmas,
)
from fam_runtime.schedulers.noise_schedule import NoiseSchedule
from fam_runtime.schedulers.plan import SamplingPlan, sampling_plan, step_plan


def euler_ancestral_plan(schedule: NoiseSchedule, num_inference_steps: int) -> SamplingPlan:
    """Return the plan of `num_inference_steps` steps; latents are `x = x0 + sigma eps`.

        sigma_up^2 = sigma'^2 (sigma^2 - sigma'^2) / sigma^2
        sigma_down = sqrt(sigma'^2 - sigma_up^2) = sigma'^2 / sigma
        x' = x + (x - D) / sigma * (sigma_down - sigma) + sigma_up noise

    One noise per step, the last one included (its weight is 0), in the order of the steps. As in
    diffusers the last level is always 0, and Karras levels are not used.
    """
    timesteps, sigmas = euler_timesteps_and_sigmas(schedule, num_inference_steps, karras=False)
    steps = []
    for timestep, sigma, sigma_next in zip(
        timesteps, sigmas, np.append(sigmas[1:], 0.0), strict=True
    ):
        ratio = float(sigma_next / sigma)
        common = euler_common_values(schedule, float(sigma))
        square = ratio * ratio
        noise = float(sigma_next) * math.sqrt(max(1 - square, 0.0))
        steps.append(
            step_plan(
                timestep=timestep,
                num_train_timesteps=schedule.num_train_timesteps,
                values=common
                | euler_next_values(common, square)
                | {StepCoefficient.NEXT_FROM_NOISE: noise},
                needs_noise=True,
            )
        )
    return sampling_plan(steps, euler_init_noise_sigma(schedule, sigmas))
