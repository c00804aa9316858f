"""DDIM, eta = 0 (Song et al., arXiv 2010.02502, Eq. 12), as diffusers' DDIMScheduler."""

from __future__ import annotations

import math

from fam_runtime.contract import StepCoefficient
from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers.noise_schedule import NoiseSchedule
from fam_runtime.schedulers.plan import SamplingPlan, StepPlan, sampling_plan, step_plan
from fam_runtime.schedulers.prediction import data_prediction
from fam_runtime.schedulers.timesteps import spaced_timesteps


def ddim_plan(schedule: NoiseSchedule, num_inference_steps: int) -> SamplingPlan:
    """Return the plan of `num_inference_steps` steps, 1 <= n <= T.

    With alpha = sqrt(abar), sigma = sqrt(1 - abar), a prime for the timestep stepped to, and
    `eps = (z - alpha D) / sigma`:

        z' = alpha' D + sigma' eps

    The timestep stepped to is `t - floor(T / n)`, whatever the spacing (so with linspace it is not
    quite the next one). (1) that; (2) the next timestep. We do (1) because diffusers does.

    Raises:
        InvalidRequest: a timestep lies beyond the schedule; epsilon prediction at zero SNR.
    """
    total = schedule.num_train_timesteps
    timesteps = spaced_timesteps(
        schedule.timestep_spacing or "leading", total, num_inference_steps, schedule.steps_offset
    ).round()
    if timesteps[0] > total - 1:
        raise InvalidRequest(
            "too many steps for DDIM with steps_offset: the first timestep does not exist",
            got=num_inference_steps,
            expected=f"a first timestep of at most {total - 1}, not {timesteps[0]:.0f}",
            fix="use fewer steps",
        )
    stride = total // num_inference_steps
    return sampling_plan(
        [_step(schedule, int(timestep), int(timestep) - stride) for timestep in timesteps],
        init_noise_sigma=1.0,
    )


def _step(schedule: NoiseSchedule, timestep: int, next_timestep: int) -> StepPlan:
    alpha, sigma = _alpha_sigma(schedule, timestep)
    alpha_next, sigma_next = _alpha_sigma(schedule, next_timestep)
    d, e = data_prediction(schedule.prediction_type, alpha, sigma)
    return step_plan(
        timestep=timestep,
        num_train_timesteps=schedule.num_train_timesteps,
        values={
            StepCoefficient.REFERENCE_SIGNAL: alpha,
            StepCoefficient.REFERENCE_NOISE: sigma,
            StepCoefficient.MODEL_INPUT_SCALE: 1.0,
            StepCoefficient.PREDICTION_FROM_LATENT: d,
            StepCoefficient.PREDICTION_FROM_OUTPUT: e,
            StepCoefficient.NEXT_FROM_LATENT: alpha_next * d + sigma_next * (1 - alpha * d) / sigma,
            StepCoefficient.NEXT_FROM_OUTPUT: alpha_next * e - sigma_next * alpha * e / sigma,
        },
    )


def _alpha_sigma(schedule: NoiseSchedule, timestep: int) -> tuple[float, float]:
    """Return (sqrt(abar), sqrt(1 - abar)) at `timestep`; below 0, those of the final latent."""
    if timestep >= 0:
        alpha_bar = float(schedule.alphas_cumprod[timestep])
    else:
        alpha_bar = 1.0 if schedule.set_alpha_to_one else float(schedule.alphas_cumprod[0])
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
