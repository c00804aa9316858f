"""A sampling run as numbers: what the runtime feeds to the step graph, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fam_runtime.contract import StepCoefficient


@dataclass(frozen=True, eq=False)
class StepPlan:
    """One denoising step.

    With c the coefficients, z the latent after FM, r the clean reference latent, eps the
    reference noise, m the guided model output, D_prev the data prediction of the step before:

        reference  = c[REFERENCE_SIGNAL] r + c[REFERENCE_NOISE] eps
        input      = c[MODEL_INPUT_SCALE] z
        prediction = c[PREDICTION_FROM_LATENT] z + c[PREDICTION_FROM_OUTPUT] m
        next       = c[NEXT_FROM_LATENT] z + c[NEXT_FROM_OUTPUT] m
                     + c[NEXT_FROM_PREVIOUS] D_prev + c[NEXT_FROM_NOISE] noise
    """

    timestep: float
    """What the model is told; a whole number except for Euler's linspace and Karras timesteps."""
    fm_index: int
    """Row of the FM tables: the nearest training timestep (half to even), in [0, T - 1]."""
    coefficients: npt.NDArray[np.float32]
    """float32 [9] in the order of `StepCoefficient`, rounded from `coefficients64`."""
    coefficients64: npt.NDArray[np.float64]
    """The same in float64."""
    needs_noise: bool
    """Whether this step draws one fresh noise of the latent's shape.

    True for every step of an ancestral sampler, even for the last one, whose noise has weight 0:
    diffusers draws it there too, and the stream must stay in step across several pictures. LCM
    draws none at its last step, as in diffusers.
    """


@dataclass(frozen=True, eq=False)
class SamplingPlan:
    """All steps of one run, and how its first latent is made.

    - Native stage: `z = init_noise_sigma * eps` (diffusers' `prepare_latents`).
    - Target stage: `z = initial_signal * z0_up + initial_noise * eps` (diffusers' `add_noise` at
      the first timestep); equal to the first step's reference.
    """

    steps: tuple[StepPlan, ...]
    initial_signal: float
    initial_noise: float
    init_noise_sigma: float


def step_plan(
    *,
    timestep: float,
    num_train_timesteps: int,
    values: Mapping[StepCoefficient, float],
    needs_noise: bool = False,
) -> StepPlan:
    """Return a step from its coefficients by name; those not named are 0."""
    coefficients64 = np.zeros(len(StepCoefficient), dtype=np.float64)
    for coefficient, value in values.items():
        coefficients64[coefficient] = value
    coefficients = coefficients64.astype(np.float32)
    coefficients64.setflags(write=False)
    coefficients.setflags(write=False)
    return StepPlan(
        timestep=float(timestep),
        fm_index=min(max(round(float(timestep)), 0), num_train_timesteps - 1),
        coefficients=coefficients,
        coefficients64=coefficients64,
        needs_noise=needs_noise,
    )


def sampling_plan(steps: list[StepPlan], init_noise_sigma: float) -> SamplingPlan:
    """Return the plan of `steps`, whose first reference is where the target stage starts."""
    first = steps[0].coefficients64
    return SamplingPlan(
        steps=tuple(steps),
        initial_signal=float(first[StepCoefficient.REFERENCE_SIGNAL]),
        initial_noise=float(first[StepCoefficient.REFERENCE_NOISE]),
        init_noise_sigma=float(init_noise_sigma),
    )
