"""Feeds of a step graph for measuring it: NumPy only, of the size and kind that a run feeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fam_runtime import contract
from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.schedulers import NoiseSchedule, make_plan

if TYPE_CHECKING:
    from fam_runtime.bundle import Manifest, TensorSpec
    from fam_runtime.schedulers import StepPlan

SEED = 0
STEPS, STEP_INDEX = 50, 25
"""A step in the middle of the trajectory, where every term has weight."""

TIME_ID_PIXELS = 1024.0


def step_inputs(manifest: Manifest, graph: str) -> dict[str, NDArray[Any]]:
    """One array per input of the step graph `graph`, for one picture.

    A tensor depends on its name, its shape and the seed alone: graphs that share an input get the
    same one.
    """
    specs = manifest.graphs[graph].inputs
    scalars = scalar_inputs(manifest)
    return {spec.name: _array(spec, scalars) for spec in specs}


def scalar_inputs(manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """What a step is told besides tensors, from the bundle's own schedule and defaults."""
    step, defaults = probe_step(manifest), manifest.defaults
    rho = step.timestep / manifest.noise_schedule["num_train_timesteps"]
    return {
        contract.TIMESTEP: np.asarray(step.timestep, np.float32),
        contract.STEP_COEFFICIENTS: step.coefficients,
        contract.GUIDANCE_SCALE: np.asarray(defaults.guidance_scale, np.float32),
        contract.AM_STRENGTH: np.asarray(defaults.am_strength, np.float32),
        contract.FM_WEIGHT: np.asarray(1 - rho, np.float32),
    }


def probe_step(manifest: Manifest) -> StepPlan:
    """The step of the sampler that all inputs belong to; it draws no noise."""
    schedule = NoiseSchedule.from_config(manifest.noise_schedule)
    return make_plan("ddim", schedule, STEPS).steps[STEP_INDEX]


def _array(spec: TensorSpec, scalars: Mapping[str, NDArray[np.float32]]) -> NDArray[Any]:
    if spec.name in scalars:
        return scalars[spec.name]
    shape = shape_from_symbols(spec.shape, {"B": 1})
    if spec.name in (contract.FM_KERNEL_ROWS, contract.FM_KERNEL_COLUMNS):
        return _quarter_band_kernel(shape[0])
    generator = np.random.default_rng([SEED, *spec.name.encode()])
    if spec.name == contract.TIME_IDS:
        return np.full(shape, TIME_ID_PIXELS, np.float32)
    if spec.name.startswith("attention_map."):
        return generator.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(spec.dtype)
    return generator.standard_normal(shape, np.float32).astype(spec.dtype)


def _quarter_band_kernel(length: int) -> NDArray[np.float32]:
    """FM's kernel (Eq. 8) whose box holds a quarter of the band."""
    box = np.abs(np.fft.fftfreq(length)) < 1 / 8
    return np.fft.ifft(box).real.astype(np.float32)
