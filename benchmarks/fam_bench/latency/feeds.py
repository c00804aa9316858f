"""Feeds of a step graph for measuring it: NumPy only, of the size and kind that a run feeds.

All feeds of a step belong to one step in the middle of a trajectory, FM's kernels too, so that the
literal reference can do the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fam_runtime import contract
from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.methods import method_named
from fam_runtime.sampler import fm_feeds
from fam_runtime.schedulers import NoiseSchedule, make_plan

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, GraphSpec, Manifest, Target, TensorSpec
    from fam_runtime.schedulers import StepPlan

SEED = 0
SCHEDULER, STEPS, STEP_INDEX = "ddim", 50, 25
"""A step in the middle of the trajectory, where every term has weight."""

PROMPT = "a red circle on a white background"
"""In the demo's words; for other checkpoints it is as good as any."""

TIME_ID_PIXELS = 1024.0
TAP_PREFIX = "attention_"
"""Of the inputs that carry native attention."""


def step_inputs(
    bundle: Bundle, spec: GraphSpec, target: Target | None, *, at_zero: bool = False
) -> dict[str, NDArray[Any]]:
    """One array per input of a step graph, for one picture.

    A tensor depends on its name, its shape and the seed alone: graphs that share an input get the
    same one.

    Args:
        bundle: with FM's kernels.
        spec: of the graph.
        target: whose step it is; None for the native one.
        at_zero: FM and AM have the weight 0.
    """
    told = scalar_inputs(bundle.manifest)
    if target is not None:
        told |= fm_feeds(
            method_named("fam"), bundle.kernel_tables(target), probe_step(bundle.manifest)
        )
    if at_zero:
        zero = np.zeros((), np.float32)
        told |= {contract.FM_WEIGHT: zero, contract.AM_STRENGTH: zero}
    return {item.name: _array(item, told) for item in spec.inputs}


def scalar_inputs(manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """What a step is told besides tensors, from the bundle's own schedule and defaults."""
    step, defaults = probe_step(manifest), manifest.defaults
    return {
        contract.TIMESTEP: np.asarray(step.timestep, np.float32),
        contract.STEP_COEFFICIENTS: step.coefficients,
        contract.GUIDANCE_SCALE: np.asarray(defaults.guidance_scale, np.float32),
        contract.AM_STRENGTH: np.asarray(defaults.am_strength, np.float32),
    }


def probe_step(manifest: Manifest) -> StepPlan:
    """The step of the sampler that all inputs belong to; it draws no noise."""
    schedule = NoiseSchedule.from_config(manifest.noise_schedule)
    return make_plan(SCHEDULER, schedule, STEPS).steps[STEP_INDEX]


def _array(spec: TensorSpec, told: Mapping[str, NDArray[np.float32]]) -> NDArray[Any]:
    if spec.name in told:
        return told[spec.name]
    shape = shape_from_symbols(spec.shape, {"B": 1})
    if spec.name == contract.TIME_IDS:
        return np.full(shape, TIME_ID_PIXELS, np.float32)
    generator = np.random.default_rng([SEED, *spec.name.encode()])
    if spec.name.startswith("attention_map."):
        return generator.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(spec.dtype)
    return generator.standard_normal(shape, np.float32).astype(spec.dtype)
