"""Multistep sampling of a latent consistency model (Luo et al., arXiv 2310.04378, Eq. 9 and
Algorithm 3), as diffusers' LCMScheduler."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fam_runtime.contract import StepCoefficient
from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers.noise_schedule import NoiseSchedule
from fam_runtime.schedulers.plan import SamplingPlan, StepPlan, sampling_plan, step_plan
from fam_runtime.schedulers.prediction import data_prediction

_SIGMA_DATA = 0.5
"""Standard deviation that the boundary scalings assume of the data, fixed in diffusers."""


def lcm_plan(schedule: NoiseSchedule, num_inference_steps: int) -> SamplingPlan:
    """Return the plan of `num_inference_steps` steps, 1 <= n <= original_inference_steps.

    With alpha = sqrt(abar), sigma = sqrt(1 - abar), a prime for the next timestep, and the
    consistency function `f = c_skip z + c_out D`:

        z' = alpha' f + sigma' noise,    after the last step z' = f

    One noise per step but the last, which draws none.

    Raises:
        InvalidRequest: more steps than the distillation had; a distillation with more steps than
            the training; epsilon prediction at zero SNR.
    """
    timesteps = [int(timestep) for timestep in lcm_timesteps(schedule, num_inference_steps)]
    following: list[int | None] = [*timesteps[1:], None]
    return sampling_plan(
        [_step(schedule, t, after) for t, after in zip(timesteps, following, strict=True)],
        init_noise_sigma=1.0,
    )


def lcm_timesteps(schedule: NoiseSchedule, num_inference_steps: int) -> npt.NDArray[np.int64]:
    """Return n timesteps, falling, int64 [n].

    The distillation knew `o = original_inference_steps` timesteps, `k floor(T / o) - 1` for
    k = o .. 1. The run takes those at the places `floor(i o / n)`, i = 0 .. n - 1, whatever the
    `timestep_spacing` and `steps_offset`.

    Raises:
        InvalidRequest: n > o, or o > T.
    """
    total, original = schedule.num_train_timesteps, schedule.original_inference_steps
    if original > total:
        raise InvalidRequest(
            "the scheduler config's original_inference_steps cannot be",
            got=original,
            expected=f"at most num_train_timesteps, {total}",
            fix="use another scheduler than lcm, or correct the checkpoint's "
            "scheduler_config.json and export again",
        )
    if num_inference_steps > original:
        raise InvalidRequest(
            "too many steps for LCM",
            got=num_inference_steps,
            expected=f"at most original_inference_steps, {original}",
            fix="4 to 8 steps are usual",
        )
    known = np.arange(original, 0, -1, dtype=np.int64) * (total // original) - 1
    places = np.floor(np.linspace(0, original, num_inference_steps, endpoint=False))
    return known[places.astype(np.int64)]


def boundary_scalings(timestep: int, timestep_scaling: float) -> tuple[float, float]:
    """Return (c_skip, c_out) of the consistency function: 1 and 0 at timestep 0."""
    scaled = timestep * timestep_scaling
    square = scaled * scaled + _SIGMA_DATA**2
    return _SIGMA_DATA**2 / square, scaled / math.sqrt(square)


def _step(schedule: NoiseSchedule, timestep: int, next_timestep: int | None) -> StepPlan:
    alpha, sigma = _alpha_sigma(schedule, timestep)
    alpha_next, sigma_next = (
        (1.0, 0.0) if next_timestep is None else _alpha_sigma(schedule, next_timestep)
    )
    d, e = data_prediction(schedule.prediction_type, alpha, sigma)
    skip, out = boundary_scalings(timestep, schedule.timestep_scaling)
    return step_plan(
        timestep=timestep,
        num_train_timesteps=schedule.num_train_timesteps,
        values={
            StepCoefficient.REFERENCE_SIGNAL: alpha,
            StepCoefficient.REFERENCE_NOISE: sigma,
            StepCoefficient.MODEL_INPUT_SCALE: 1.0,
            StepCoefficient.PREDICTION_FROM_LATENT: d,
            StepCoefficient.PREDICTION_FROM_OUTPUT: e,
            StepCoefficient.NEXT_FROM_LATENT: alpha_next * (skip + out * d),
            StepCoefficient.NEXT_FROM_OUTPUT: alpha_next * out * e,
            StepCoefficient.NEXT_FROM_NOISE: sigma_next,
        },
        needs_noise=next_timestep is not None,
    )


def _alpha_sigma(schedule: NoiseSchedule, timestep: int) -> tuple[float, float]:
    alpha_bar = float(schedule.alphas_cumprod[timestep])
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
