"""Euler's method on the probability-flow ODE (Karras et al., arXiv 2206.00364, Algorithm 2 without
churn and without the second-order correction), as diffusers' EulerDiscreteScheduler."""

from __future__ import annotations

import numpy as np

from fam_runtime.schedulers._sigma_space import (
    euler_common_values,
    euler_init_noise_sigma,
    euler_next_values,
    euler_timesteps_and_sigmas,
)
from fam_runtime.schedulers.noise_schedule import NoiseSchedule
from fam_runtime.schedulers.plan import SamplingPlan, sampling_plan, step_plan


def euler_plan(schedule: NoiseSchedule, num_inference_steps: int) -> SamplingPlan:
    """Return the plan of `num_inference_steps` steps; latents are `x = x0 + sigma eps`.

        x' = x + (x - D) / sigma * (sigma' - sigma)

    with sigma' the next step's level, after the last step 0 or, with `final_sigmas_type`
    "sigma_min", the smallest trained one.
    """
    timesteps, sigmas = euler_timesteps_and_sigmas(
        schedule, num_inference_steps, karras=schedule.use_karras_sigmas
    )
    last = 0.0 if schedule.final_sigmas_type == "zero" else float(schedule.sigmas[0])
    steps = []
    for timestep, sigma, sigma_next in zip(
        timesteps, sigmas, np.append(sigmas[1:], last), strict=True
    ):
        common = euler_common_values(schedule, float(sigma))
        steps.append(
            step_plan(
                timestep=timestep,
                num_train_timesteps=schedule.num_train_timesteps,
                values=common | euler_next_values(common, float(sigma_next / sigma)),
            )
        )
    return sampling_plan(steps, euler_init_noise_sigma(schedule, sigmas))
