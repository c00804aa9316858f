"""How much signal and noise a checkpoint was trained with at each timestep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers._betas import alphas_cumprod_from_betas, betas_from_config

PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]
FinalSigmasType = Literal["zero", "sigma_min"]

# diffusers' value of alpha-bar at zero SNR for the samplers that divide by it.
_ALPHA_BAR_AT_ZERO_SNR = 2.0**-24

# Options of diffusers' schedulers that change the result and that no sampler here reproduces,
# with the values that mean "off".
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "thresholding": (None, False),
    "use_exponential_sigmas": (None, False),
    "use_beta_sigmas": (None, False),
    "use_lu_lambdas": (None, False),
    "use_flow_sigmas": (None, False),
    "interpolation_type": (None, "linear"),
    "timestep_type": (None, "discrete"),
    "sigma_min": (None,),
    "sigma_max": (None,),
}


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise schedule of a checkpoint and the habits of its scheduler_config.json.

    `z_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps`, t = 0 .. T - 1.
    """

    alphas_cumprod: npt.NDArray[np.float64]
    """abar, float64 [T], falling; the values are diffusers' float32 ones (see `_betas`)."""
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: TimestepSpacing | None = None
    """None: the sampler's own default, as in diffusers (leading for DDIM, else linspace)."""
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    """DDIM: the last step ends at abar = 1 (True) or at abar_0 (False)."""
    final_sigmas_type: FinalSigmasType = "zero"
    """Euler, DPM-Solver++: the last step ends at sigma = 0 or at the smallest trained sigma."""
    zero_terminal_snr: bool = False
    use_karras_sigmas: bool = False
    lower_order_final: bool = True
    euler_at_final: bool = False
    lambda_min_clipped: float = -math.inf
    original_inference_steps: int = 50
    """LCM: timesteps of the distillation, from which a run takes its own."""
    timestep_scaling: float = 10.0
    """LCM: factor of the timestep in the boundary scalings."""

    def __post_init__(self) -> None:
        alphas_cumprod = np.array(self.alphas_cumprod, dtype=np.float64)
        alphas_cumprod.setflags(write=False)
        object.__setattr__(self, "alphas_cumprod", alphas_cumprod)

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of timesteps of the training schedule."""
        return len(self.alphas_cumprod)

    @property
    def sigmas(self) -> npt.NDArray[np.float64]:
        """sqrt((1 - abar) / abar), float64 [T], increasing; 4096 at zero SNR, as in diffusers."""
        alphas_cumprod = self.alphas_cumprod.copy()
        if self.zero_terminal_snr:
            alphas_cumprod[-1] = _ALPHA_BAR_AT_ZERO_SNR
        return cast(npt.NDArray[np.float64], np.sqrt((1 - alphas_cumprod) / alphas_cumprod))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Return the schedule that a diffusers `scheduler_config.json`, parsed, describes.

        A missing key takes the default of diffusers' schedulers. A saved config names the sampler
        it was written for (`_class_name`); that one is ignored, since a request names its sampler.
        `clip_sample` is honoured by no sampler here: it clips pixels to [-1, 1], which harms
        latents, and a config that asks a DDIM or DDPM scheduler for it is refused.

        Raises:
            InvalidRequest: a value is unknown, or asks for what no sampler here does.
        """
        _refuse_unsupported(config)
        zero_terminal_snr = bool(config.get("rescale_betas_zero_snr", False))
        betas = betas_from_config(config)
        spacing = config.get("timestep_spacing")
        if spacing is not None:
            _require_choice("timestep_spacing", spacing, get_args(TimestepSpacing))
        return cls(
            alphas_cumprod=alphas_cumprod_from_betas(betas, zero_terminal_snr=zero_terminal_snr),
            prediction_type=cast(
                PredictionType, _choice(config, "prediction_type", get_args(PredictionType))
            ),
            timestep_spacing=spacing,
            steps_offset=int(config.get("steps_offset", 0)),
            set_alpha_to_one=bool(config.get("set_alpha_to_one", True)),
            final_sigmas_type=cast(
                FinalSigmasType, _choice(config, "final_sigmas_type", get_args(FinalSigmasType))
            ),
            zero_terminal_snr=zero_terminal_snr,
            use_karras_sigmas=bool(config.get("use_karras_sigmas", False)),
            lower_order_final=bool(config.get("lower_order_final", True)),
            euler_at_final=bool(config.get("euler_at_final", False)),
            lambda_min_clipped=_lambda_min(config.get("lambda_min_clipped")),
            original_inference_steps=int(config.get("original_inference_steps", 50)),
            timestep_scaling=float(config.get("timestep_scaling", 10.0)),
        )


def _lambda_min(value: float | str | None) -> float:
    """Minus infinity where it is missing; diffusers also writes it as a text."""
    return -math.inf if value is None else float(value)


def _choice(config: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    """Return `config[key]`, or the first of `choices` where it is missing."""
    value = config.get(key, choices[0])
    _require_choice(key, value, choices)
    return cast(str, value)


def _require_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidRequest(
            f"unknown {key} in the scheduler config",
            got=value,
            expected=" or ".join(choices),
            fix="correct the checkpoint's scheduler_config.json and export again",
        )


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    for key, off in _UNSUPPORTED.items():
        value = config.get(key)
        if value not in off:
            raise InvalidRequest(
                f"the scheduler config sets {key}, which no sampler here reproduces",
                got=value,
                expected=" or ".join(str(choice) for choice in off),
                fix=f"remove {key} from the checkpoint's scheduler_config.json and export again",
            )
    class_name = str(config.get("_class_name", ""))
    if config.get("clip_sample") and class_name.startswith(("DDIM", "DDPM")):
        raise InvalidRequest(
            "the scheduler config sets clip_sample, which is made for pixels, not for latents",
            got=True,
            expected="false",
            fix="set clip_sample to false in the checkpoint's scheduler_config.json, export again",
        )
