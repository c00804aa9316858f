"""DPM-Solver++(2M), midpoint (Lu et al., arXiv 2211.01095, Algorithm 2), as diffusers'
DPMSolverMultistepScheduler with `algorithm_type="dpmsolver++"`, `solver_order=2`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fam_runtime.contract import StepCoefficient
from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers._elementwise import logarithms
from fam_runtime.schedulers.karras import karras_sigmas
from fam_runtime.schedulers.noise_schedule import NoiseSchedule
from fam_runtime.schedulers.plan import SamplingPlan, StepPlan, sampling_plan, step_plan
from fam_runtime.schedulers.prediction import data_prediction
from fam_runtime.schedulers.timesteps import spaced_timesteps, timesteps_from_sigmas

Float64Array = npt.NDArray[np.float64]

_FEW_STEPS = 15  # below this number of steps diffusers lowers the order of the last one


def dpmpp_2m_plan(schedule: NoiseSchedule, num_inference_steps: int) -> SamplingPlan:
    """Return the plan of `num_inference_steps` steps; latents are `z = alpha x0 + sigma eps`.

    With s = sigma / alpha the level, alpha = 1 / sqrt(s^2 + 1), lambda = -log s, a prime for the
    level stepped to, h = lambda' - lambda and r = (lambda - lambda_prev) / h:

        first order   z' = (sigma' / sigma) z + alpha' (1 - s' / s) D
        second order  the same with D + (D - D_prev) / (2 r) instead of D

    The first step is of first order, and so is the last one if it ends at s = 0, or if
    `euler_at_final`, or if `lower_order_final` and there are fewer than 15 steps.

    Raises:
        InvalidRequest: two steps would fall on one timestep, or `lambda_min_clipped` leaves none.
    """
    timesteps, levels = _timesteps_and_levels(schedule, num_inference_steps)
    if (np.diff(levels) >= 0).any():
        raise InvalidRequest(
            "too many steps for DPM-Solver++ on this schedule: two would share a timestep",
            got=num_inference_steps,
            expected="levels of noise that fall from step to step",
            fix="use fewer steps or the ddim scheduler",
        )
    last = 0.0 if schedule.final_sigmas_type == "zero" else float(schedule.sigmas[0])
    last_is_first_order = (
        schedule.euler_at_final
        or (schedule.lower_order_final and num_inference_steps < _FEW_STEPS)
        or schedule.final_sigmas_type == "zero"
    )
    levels = np.append(levels, last)
    steps = []
    for index, timestep in enumerate(timesteps):
        final = index == len(timesteps) - 1
        second_order = index > 0 and not (final and last_is_first_order)
        previous = float(levels[index - 1]) if second_order else None
        steps.append(
            _step(schedule, timestep, previous, float(levels[index]), float(levels[index + 1]))
        )
    return sampling_plan(steps, init_noise_sigma=1.0)


def _timesteps_and_levels(
    schedule: NoiseSchedule, num_inference_steps: int
) -> tuple[Float64Array, Float64Array]:
    """Return timesteps and levels s, float64 [n] each.

    Unlike the others this sampler spaces n + 1 timesteps and leaves the last one, 0, out (linspace
    and leading), counts only timesteps with `lambda >= lambda_min_clipped`, and rounds them.
    """
    trained = schedule.sigmas
    positions = np.arange(len(trained))
    if schedule.use_karras_sigmas:
        levels = karras_sigmas(trained[-1], trained[0], num_inference_steps)
        # (1) round; (2) round, but cut for a cosine schedule, as diffusers does. We do (1): with
        # cosine betas and Karras levels our timesteps differ from diffusers' by up to one.
        return timesteps_from_sigmas(levels, trained).round(), levels
    usable = _usable_timesteps(schedule, trained)
    spacing = schedule.timestep_spacing or "linspace"
    if spacing == "trailing":
        stride = -schedule.num_train_timesteps / num_inference_steps
        timesteps = np.arange(usable, 0, stride)[:num_inference_steps].round() - 1
    else:
        offset = schedule.steps_offset
        timesteps = spaced_timesteps(spacing, usable, num_inference_steps + 1, offset)[:-1].round()
    return timesteps, np.interp(timesteps, positions, trained)


def _usable_timesteps(schedule: NoiseSchedule, trained: Float64Array) -> int:
    """Return the number of timesteps with `lambda >= lambda_min_clipped`."""
    lambdas = -logarithms(trained)
    usable = int(np.count_nonzero(lambdas >= schedule.lambda_min_clipped))
    if usable == 0:
        raise InvalidRequest(
            "the scheduler config's lambda_min_clipped leaves no timestep",
            got=schedule.lambda_min_clipped,
            expected=f"at most {lambdas[0]}",
            fix="use another scheduler than dpm++2m, or correct the checkpoint's "
            "scheduler_config.json and export again",
        )
    return usable


def _step(
    schedule: NoiseSchedule,
    timestep: float,
    previous: float | None,
    level: float,
    level_next: float,
) -> StepPlan:
    """Return one step from `level` to `level_next`; of second order if `previous` is given."""
    alpha = 1 / math.sqrt(level * level + 1)
    alpha_next = 1 / math.sqrt(level_next * level_next + 1)
    sigma, sigma_next = level * alpha, level_next * alpha_next
    d, e = data_prediction(schedule.prediction_type, alpha, sigma)
    weight = alpha_next * (1 - level_next / level)
    extrapolation = 0.0
    if previous is not None:
        step_before, step_now = math.log(previous / level), math.log(level / level_next)
        extrapolation = step_now / (2 * step_before)  # 1 / (2 r)
    weight_now = weight * (1 + extrapolation)
    return step_plan(
        timestep=timestep,
        num_train_timesteps=schedule.num_train_timesteps,
        values={
            StepCoefficient.REFERENCE_SIGNAL: alpha,
            StepCoefficient.REFERENCE_NOISE: sigma,
            StepCoefficient.MODEL_INPUT_SCALE: 1.0,
            StepCoefficient.PREDICTION_FROM_LATENT: d,
            StepCoefficient.PREDICTION_FROM_OUTPUT: e,
            StepCoefficient.NEXT_FROM_LATENT: sigma_next / sigma + weight_now * d,
            StepCoefficient.NEXT_FROM_OUTPUT: weight_now * e,
            StepCoefficient.NEXT_FROM_PREVIOUS: -weight * extrapolation,
        },
    )
