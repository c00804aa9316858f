"""Checkpoints that were distilled to sample in a few steps without guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

DISTILLED_STEPS = 4
"""What the makers of LCM, Turbo and Lightning checkpoints recommend, or allow (Turbo: 1 to 4)."""


@dataclass(frozen=True)
class Distilled:
    """How a distilled checkpoint wants to be sampled.

    Attributes:
        kind: the family of distillations.
        scheduler: the sampler's name in the runtime.
        num_inference_steps: by default.
        reason: a sentence that says what it was recognised by.
    """

    kind: Literal["lcm", "turbo/lightning"]
    scheduler: Literal["lcm", "euler", "euler-a"]
    num_inference_steps: int
    reason: str


def distilled_from_config(
    scheduler: Mapping[str, Any], unet: Mapping[str, Any]
) -> Distilled | None:
    """What the configurations of scheduler and UNet say about distillation; None: nothing."""
    name = scheduler.get("_class_name")
    if name == "LCMScheduler":
        return Distilled("lcm", "lcm", DISTILLED_STEPS, "its scheduler is LCMScheduler")
    if unet.get("time_cond_proj_dim") is not None:
        reason = "its UNet takes the guidance scale as a condition (time_cond_proj_dim)"
        return Distilled("lcm", "lcm", DISTILLED_STEPS, reason)
    euler: Mapping[object, Literal["euler", "euler-a"]] = {
        "EulerDiscreteScheduler": "euler",
        "EulerAncestralDiscreteScheduler": "euler-a",
    }
    # SDXL-Turbo, SD-Turbo and Lightning ship this; a base model's Euler has leading timesteps, and
    # a zero-SNR finetune needs trailing ones without being distilled.
    if (
        name in euler
        and scheduler.get("timestep_spacing") == "trailing"
        and scheduler.get("prediction_type", "epsilon") == "epsilon"
        and not scheduler.get("rescale_betas_zero_snr")
    ):
        reason = f"its scheduler is {name} with trailing timesteps"
        return Distilled("turbo/lightning", euler[name], DISTILLED_STEPS, reason)
    return None
