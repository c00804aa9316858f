"""The `noise_schedule` of a manifest: the keys of a diffusers scheduler that count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fam_runtime.bundle._json_cursor import JsonCursor

_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_PREDICTION_TYPES = ("epsilon", "v_prediction")
_TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")
_FINAL_SIGMAS = ("zero", "sigma_min")
_MAX_TRAIN_TIMESTEPS = 100_000
_MAX_LAMBDA = 1000.0
_MAX_TIMESTEP_SCALING = 1e6

NOISE_SCHEDULE_DEFAULTS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "timestep_spacing": None,
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "final_sigmas_type": "zero",
    "use_karras_sigmas": False,
    "lower_order_final": True,
    "euler_at_final": False,
    "lambda_min_clipped": None,
    "original_inference_steps": 50,
    "timestep_scaling": 10.0,
}
"""What a key means that a checkpoint's configuration lacks: the defaults of diffusers' schedulers.
Where these disagree, for `timestep_spacing`, null keeps each sampler's own."""


def noise_schedule_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `noise_schedule` of a checkpoint's `scheduler_config.json`, every key spelled out."""
    schedule = {
        key: default if config.get(key) is None else config[key]
        for key, default in NOISE_SCHEDULE_DEFAULTS.items()
    }
    if schedule["lambda_min_clipped"] == -math.inf:
        schedule["lambda_min_clipped"] = None
    return schedule


def checked_noise_schedule(at: JsonCursor) -> dict[str, Any]:
    """The noise schedule at `at`, every key, each of the right type.

    Raises:
        BundleDamaged: naming the key that is not right.
    """
    steps = at.member("num_train_timesteps").integer(1, _MAX_TRAIN_TIMESTEPS)
    return {
        "num_train_timesteps": steps,
        "beta_start": at.member("beta_start").number(0, 1),
        "beta_end": at.member("beta_end").number(0, 1),
        "beta_schedule": at.member("beta_schedule").choice(_BETA_SCHEDULES),
        "trained_betas": _trained_betas(at.member("trained_betas"), steps),
        "rescale_betas_zero_snr": at.member("rescale_betas_zero_snr").flag(),
        "prediction_type": at.member("prediction_type").choice(_PREDICTION_TYPES),
        "timestep_spacing": _timestep_spacing(at.member("timestep_spacing")),
        "steps_offset": at.member("steps_offset").integer(0, steps),
        "set_alpha_to_one": at.member("set_alpha_to_one").flag(),
        "final_sigmas_type": at.member("final_sigmas_type").choice(_FINAL_SIGMAS),
        "use_karras_sigmas": at.member("use_karras_sigmas").flag(),
        "lower_order_final": at.member("lower_order_final").flag(),
        "euler_at_final": at.member("euler_at_final").flag(),
        "lambda_min_clipped": _lambda_min(at.member("lambda_min_clipped")),
        "original_inference_steps": at.member("original_inference_steps").integer(
            1, _MAX_TRAIN_TIMESTEPS
        ),
        "timestep_scaling": at.member("timestep_scaling").number(1e-6, _MAX_TIMESTEP_SCALING),
    }


def _timestep_spacing(at: JsonCursor) -> str | None:
    return None if at.value is None else at.choice(_TIMESTEP_SPACINGS)


def _lambda_min(at: JsonCursor) -> float | None:
    """Half the log signal-to-noise ratio; null is diffusers' minus infinity, which JSON lacks."""
    return None if at.value is None else at.number(-_MAX_LAMBDA, _MAX_LAMBDA)


def _trained_betas(at: JsonCursor, steps: int) -> list[float] | None:
    if at.value is None:
        return None
    betas = [item.number(0, 1) for item in at.items()]
    if len(betas) != steps:
        raise at.wrong(f"null or {steps} numbers, one per training timestep")
    return betas
