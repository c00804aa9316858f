"""Samplers as linear coefficients of the step graph, computed on the host in float64."""

from fam_runtime.schedulers.noise_schedule import NoiseSchedule
from fam_runtime.schedulers.plan import SamplingPlan, StepPlan
from fam_runtime.schedulers.registry import DEFAULT_SAMPLER, SAMPLERS, make_plan

__all__ = [
    "DEFAULT_SAMPLER",
    "SAMPLERS",
    "NoiseSchedule",
    "SamplingPlan",
    "StepPlan",
    "make_plan",
]
