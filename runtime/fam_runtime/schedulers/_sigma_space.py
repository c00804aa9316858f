"""What Euler's two samplers share: latents `x = x0 + sigma eps`, timesteps, first latent."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fam_runtime.contract import StepCoefficient
from fam_runtime.schedulers.karras import karras_sigmas
from fam_runtime.schedulers.noise_schedule import NoiseSchedule
from fam_runtime.schedulers.prediction import data_prediction
from fam_runtime.schedulers.timesteps import spaced_timesteps, timesteps_from_sigmas

Float64Array = npt.NDArray[np.float64]


def euler_timesteps_and_sigmas(
    schedule: NoiseSchedule, num_inference_steps: int, *, karras: bool
) -> tuple[Float64Array, Float64Array]:
    """Return the timesteps and the noise levels sigma at them, float64 [n] each.

    Sigma is linear between training timesteps; a timestep beyond the last one has its sigma.
    Timesteps are rounded to float32, as diffusers keeps them.
    """
    trained = schedule.sigmas
    timesteps = spaced_timesteps(
        schedule.timestep_spacing or "linspace",
        schedule.num_train_timesteps,
        num_inference_steps,
        schedule.steps_offset,
    )
    timesteps = timesteps.astype(np.float32).astype(np.float64)
    sigmas = np.interp(timesteps, np.arange(len(trained)), trained)
    if karras:
        sigmas = karras_sigmas(sigmas[0], sigmas[-1], num_inference_steps)
        timesteps = timesteps_from_sigmas(sigmas, trained).astype(np.float32).astype(np.float64)
    return timesteps, sigmas


def euler_init_noise_sigma(schedule: NoiseSchedule, sigmas: Float64Array) -> float:
    """Return the factor of the native stage's first noise: sigma, or sqrt(sigma^2 + 1) if leading.

    With leading spacing the first timestep is well below T, where the latent still holds signal;
    diffusers accounts for its variance, 1.
    """
    sigma = float(sigmas.max())
    return math.sqrt(sigma * sigma + 1) if schedule.timestep_spacing == "leading" else sigma


def euler_common_values(schedule: NoiseSchedule, sigma: float) -> dict[StepCoefficient, float]:
    """Return the coefficients of the reference, the model input and the data prediction.

    The model sees `x / sqrt(sigma^2 + 1)`, a latent with alpha = 1 / sqrt(sigma^2 + 1).
    """
    alpha = 1 / math.sqrt(sigma * sigma + 1)
    d, e = data_prediction(schedule.prediction_type, alpha, sigma * alpha)
    return {
        StepCoefficient.REFERENCE_SIGNAL: 1.0,
        StepCoefficient.REFERENCE_NOISE: sigma,
        StepCoefficient.MODEL_INPUT_SCALE: alpha,
        StepCoefficient.PREDICTION_FROM_LATENT: d * alpha,
        StepCoefficient.PREDICTION_FROM_OUTPUT: e,
    }


def euler_next_values(
    common: dict[StepCoefficient, float], ratio: float
) -> dict[StepCoefficient, float]:
    """Return the coefficients of an Euler step to `ratio * sigma`.

    `x' = x + (x - D) / sigma * (ratio sigma - sigma) = ratio x + (1 - ratio) D`.
    """
    d = common[StepCoefficient.PREDICTION_FROM_LATENT]
    e = common[StepCoefficient.PREDICTION_FROM_OUTPUT]
    return {
        StepCoefficient.NEXT_FROM_LATENT: ratio + (1 - ratio) * d,
        StepCoefficient.NEXT_FROM_OUTPUT: (1 - ratio) * e,
    }
