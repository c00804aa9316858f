"""Betas and alpha-bar, as diffusers computes them.

diffusers computes betas and their cumulative product in float32 tensors of torch. (1) follow it;
(2) compute in float64. We do (1) because the float32 rounding changes 1 - abar_0 by up to 7e-5 of
its value: a bundle would give other pictures than diffusers. What follows from alpha-bar is
float64.

The values equal those of torch 2.13 on x86 bit for bit, except with zero terminal SNR: there torch
takes a float32 square root from MKL, which does not round correctly; abar agrees to 5e-6 for
T = 1000 and to 3e-5 for T = 37 to 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fam_runtime.errors import InvalidRequest

Float32Array = npt.NDArray[np.float32]

_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_MAX_BETA = 0.999


def betas_from_config(config: Mapping[str, Any]) -> Float32Array:
    """Return beta_t, float32 [T], from a parsed diffusers scheduler config.

    Raises:
        InvalidRequest: the schedule is unknown or the values are no betas.
    """
    steps = int(config.get("num_train_timesteps", 1000))
    trained = config.get("trained_betas")
    if trained is None and steps < 2:
        raise InvalidRequest(
            "num_train_timesteps in the scheduler config is too small",
            got=steps,
            expected="at least 2",
            fix="correct the checkpoint's scheduler_config.json and export again",
        )
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    name = config.get("beta_schedule", "linear")
    if trained is not None:
        betas = np.asarray(trained, dtype=np.float32)
    elif name == "linear":
        betas = _linspace(start, end, steps)
    elif name == "scaled_linear":
        betas = _linspace(math.sqrt(max(start, 0)), math.sqrt(max(end, 0)), steps) ** 2
    elif name == "squaredcos_cap_v2":
        betas = _cosine_betas(steps)
    else:
        raise InvalidRequest(
            "unknown beta_schedule in the scheduler config",
            got=name,
            expected=" or ".join(_BETA_SCHEDULES) + ", or trained_betas",
            fix="correct the checkpoint's scheduler_config.json and export again",
        )
    if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
        raise InvalidRequest(
            "the betas of the scheduler config are no noise schedule",
            got=f"shape {betas.shape}, {betas.min(initial=1)} to {betas.max(initial=0)}",
            expected="at least two values, each above 0 and below 1",
            fix="correct the checkpoint's scheduler_config.json and export again",
        )
    return betas


def alphas_cumprod_from_betas(
    betas: Float32Array, *, zero_terminal_snr: bool
) -> npt.NDArray[np.float64]:
    """Return `abar_t = prod_{s <= t} (1 - beta_s)`, float64 [T] holding float32 values.

    With `zero_terminal_snr`, sqrt(abar) is shifted and scaled so that its last value is 0 and its
    first one stays (Lin et al., arXiv 2305.08891, Algorithm 1).

    Raises:
        InvalidRequest: abar rounds to 1 or to 0 where no zero is asked for.
    """
    alphas_cumprod = _cumulative_product(np.float32(1) - betas)
    _check_alphas_cumprod(alphas_cumprod)
    if zero_terminal_snr:
        betas = _betas_with_zero_terminal_snr(betas)
        alphas_cumprod = _cumulative_product(np.float32(1) - betas)
        _check_alphas_cumprod(alphas_cumprod[:-1])
    return alphas_cumprod.astype(np.float64)


def _check_alphas_cumprod(alphas_cumprod: Float32Array) -> None:
    """Samplers divide by signal and noise: neither may be exactly 0, but for zero terminal SNR."""
    if not ((alphas_cumprod > 0) & (alphas_cumprod < 1)).all():
        raise InvalidRequest(
            "the betas of the scheduler config leave a timestep without noise or without signal",
            got=f"alpha-bar from {alphas_cumprod[0]} to {alphas_cumprod[-1]}",
            expected="float32 values above 0 and below 1 at every timestep",
            fix="correct the checkpoint's scheduler_config.json and export again",
        )


def _linspace(start: float, end: float, steps: int) -> Float32Array:
    """torch.linspace in float32: counted from both ends, product and sum rounded once."""
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(steps - 1))
    index = np.arange(steps)
    from_start = np.float64(first) + step * index
    from_end = np.float64(last) - step * (steps - 1 - index)
    return np.where(index < steps // 2, from_start, from_end).astype(np.float32)


def _cumulative_product(factors: Float32Array) -> Float32Array:
    """torch.cumprod on a CPU: accumulated in float64, each value rounded to float32."""
    return np.cumprod(factors, dtype=np.float64).astype(np.float32)


def _cosine_betas(steps: int) -> Float32Array:
    """Return betas of `abar(u) = cos((u + 0.008) / 1.008 * pi / 2)^2`, capped at 0.999."""

    def alpha_bar(u: float) -> float:
        cosine = math.cos((u + 0.008) / 1.008 * math.pi / 2)
        return cosine * cosine

    betas = [
        min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), _MAX_BETA) for i in range(steps)
    ]
    return np.array(betas, dtype=np.float32)


def _betas_with_zero_terminal_snr(betas: Float32Array) -> Float32Array:
    root: Float32Array = np.sqrt(_cumulative_product(np.float32(1) - betas))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    alphas_cumprod = root**2
    with np.errstate(divide="ignore", invalid="ignore"):  # a zero before the last is refused later
        ratios = alphas_cumprod[1:] / alphas_cumprod[:-1]
    return np.float32(1) - np.concatenate([alphas_cumprod[:1], ratios])
