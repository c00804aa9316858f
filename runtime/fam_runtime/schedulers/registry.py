"""Samplers by name, as a request names them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType

from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers.ddim import ddim_plan
from fam_runtime.schedulers.dpmpp_2m import dpmpp_2m_plan
from fam_runtime.schedulers.euler import euler_plan
from fam_runtime.schedulers.euler_ancestral import euler_ancestral_plan
from fam_runtime.schedulers.lcm import lcm_plan
from fam_runtime.schedulers.noise_schedule import NoiseSchedule
from fam_runtime.schedulers.plan import SamplingPlan

DEFAULT_SAMPLER = "ddim"

SAMPLERS: Mapping[str, Callable[[NoiseSchedule, int], SamplingPlan]] = MappingProxyType(
    {
        "ddim": ddim_plan,
        "dpm++2m": dpmpp_2m_plan,
        "euler": euler_plan,
        "euler-a": euler_ancestral_plan,
        "lcm": lcm_plan,
    }
)


def make_plan(name: str, schedule: NoiseSchedule, num_inference_steps: int) -> SamplingPlan:
    """Return the plan of `num_inference_steps` steps of the sampler called `name`.

    Raises:
        InvalidRequest: the name is unknown, the number is no integer in 1 .. T, or the sampler
            cannot run that many steps on this schedule.
    """
    sampler = SAMPLERS.get(name)
    if sampler is None:
        raise InvalidRequest(
            "unknown scheduler",
            got=name,
            expected=" or ".join(SAMPLERS),
            fix=f"use {DEFAULT_SAMPLER}, the default",
        )
    total = schedule.num_train_timesteps
    try:
        count = operator.index(num_inference_steps)
    except TypeError:
        count = 0
    if not 1 <= count <= total:
        raise InvalidRequest(
            "num_inference_steps is out of range",
            got=num_inference_steps,
            expected=f"a whole number from 1 to {total}",
            fix="20 to 50 steps are usual",
        )
    return sampler(schedule, count)
