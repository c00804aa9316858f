"""The two stages: the native trajectory, and diffuse-denoise at the target size.

The step graphs hold all the arithmetic on tensors; this file only decides what is fed when, as a
:class:`~fam_runtime.stage_program.StageProgram`. The one exception is the first latent of each
stage, computed on the host in float32:

- native: ``z_T^n = init_noise_sigma · ε_n``;
- target: ``z̃_T = initial_signal · z̃_0 + initial_noise · ε``, each product rounded to float32 before
  the sum, or ``init_noise_sigma · ε`` for direct inference.

**Order of noise**, per picture and from one stream: the native ``ε_n``; one draw for each native
step that needs noise; the target ``ε``; one draw for each target step that needs noise. A method
that takes nothing from the native stage (direct) draws nothing for it. A draw has the shape
``[1, C, height, width]`` of one latent, so a picture does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fam_runtime import contract
from fam_runtime.backends.base import Array, Backend, Runner
from fam_runtime.bundle import KernelTables
from fam_runtime.contract import StepCoefficient
from fam_runtime.errors import NumericError
from fam_runtime.methods import Method, skip_residual_weight
from fam_runtime.stage_program import (
    NativeAttention,
    StageProgram,
    StageResult,
    StepObserver,
    Unwatched,
)

if TYPE_CHECKING:
    from fam_runtime.bundle.manifest_parts import ModelDtype
    from fam_runtime.noise import NoiseSource
    from fam_runtime.schedulers import SamplingPlan, StepPlan

Float32Array = npt.NDArray[np.float32]

_FP16_OVERFLOWS = (
    "float16 overflows above 65504, in some checkpoints: export with --dtype bf16 or fp32, or use "
    "a checkpoint that was made for fp16"
)


@dataclass
class PictureNoise:
    """The noise of a batch: one stream per picture."""

    sources: Sequence[NoiseSource]

    def draw(self, latent_shape: tuple[int, ...]) -> Float32Array:
        """One latent of noise per picture, float32 ``[B, C, height, width]``."""
        return np.concatenate([source.normal((1, *latent_shape)) for source in self.sources])


@dataclass(frozen=True)
class Sampling:
    """What the programs of both stages have in common.

    Attributes:
        plan: the sampler's steps.
        noise: the batch's noise; a program takes its first latent from it when it is made.
        observer: told about steps.
    """

    plan: SamplingPlan
    noise: PictureNoise
    observer: StepObserver = field(default_factory=Unwatched)


def native_program(
    sampling: Sampling,
    runner: Runner,
    conditions: Mapping[str, Array],
    latent_shape: tuple[int, int, int],
    kept_taps: Sequence[str] = (),
) -> StageProgram:
    """Sample ``z_0^n`` with the unmodified UNet and keep the trajectory.

    Args:
        sampling: plan, noise, observer.
        runner: the native step graph.
        conditions: inputs that are the same at every step.
        latent_shape: channels, height and width of a native latent.
        kept_taps: taps to keep at every step; none by default.
    """
    plan, noise = sampling.plan, sampling.noise
    return StageProgram(
        stage="native",
        runner=runner,
        steps=plan.steps,
        first_latent=np.float32(plan.init_noise_sigma) * noise.draw(latent_shape),
        constants=conditions,
        tables=sampler_tables(plan),
        draw_noise=lambda: noise.draw(latent_shape),
        observer=sampling.observer,
        keep_trajectory=True,
        kept_taps=tuple(kept_taps),
    )


def target_program(
    sampling: Sampling,
    runner: Runner,
    conditions: Mapping[str, Array],
    reference_latent: Float32Array,
    method: Method,
    am_strength: float,
    tables: KernelTables,
    attention: NativeAttention | None,
) -> StageProgram:
    """Denoise at the target size.

    Args:
        sampling: plan, noise, observer.
        runner: the target step graph.
        conditions: inputs that are the same at every step.
        reference_latent: ``z̃_0``, float32 ``[B, C, H, W]``.
        method: what is fed for FM.
        am_strength: λ.
        tables: FM kernels of this size.
        attention: the native attention of every step.
    """
    plan, noise = sampling.plan, sampling.noise
    latent_shape = reference_latent.shape[1:]
    epsilon = noise.draw(latent_shape)
    steps = [fm_feeds(method, tables, step) for step in plan.steps]
    return StageProgram(
        stage="target",
        runner=runner,
        steps=plan.steps,
        first_latent=first_target_latent(method, plan, reference_latent, epsilon),
        constants={
            **conditions,
            contract.REFERENCE_LATENT: reference_latent,
            contract.REFERENCE_NOISE: epsilon,
            contract.AM_STRENGTH: np.asarray(am_strength, np.float32),
        },
        tables={
            **sampler_tables(plan),
            contract.STEP_COEFFICIENTS: np.stack(
                [reference_coefficients(method, step) for step in plan.steps]
            ),
            **{name: np.stack([feeds[name] for feeds in steps]) for name in steps[0]},
        },
        draw_noise=lambda: noise.draw(latent_shape),
        observer=sampling.observer,
        attention=attention,
    )


def run_stage(backend: Backend, program: StageProgram, dtype: ModelDtype = "fp32") -> StageResult:
    """Carry `program` out, and look at the latent it ends with.

    Args:
        backend: whose runner it is.
        program: the stage.
        dtype: of the model's weights, for messages.

    Raises:
        NumericError: the latent holds NaN or infinity.
        BackendError: see :meth:`fam_runtime.stage_loop.StageLoop.run`.
    """
    result = backend.stage_loop().run(program)
    check_finite(f"the {program.stage} latent", backend.download(result.final), dtype)
    return result


def sampler_tables(plan: SamplingPlan) -> dict[str, Float32Array]:
    """What every step graph is told of the sampler: float32 ``[T]`` and ``[T, 9]``."""
    return {
        contract.TIMESTEP: np.array([step.timestep for step in plan.steps], np.float32),
        contract.STEP_COEFFICIENTS: np.stack([step.coefficients for step in plan.steps]),
    }


def first_target_latent(
    method: Method, plan: SamplingPlan, reference_latent: Array, noise: Float32Array
) -> Float32Array:
    """``z_T`` of the target stage, float32, the shape of `noise`; see the module's text."""
    if method.start == "noise":
        return np.float32(plan.init_noise_sigma) * noise
    signal = np.float32(plan.initial_signal) * reference_latent.astype(np.float32, copy=False)
    start: Float32Array = signal + np.float32(plan.initial_noise) * noise
    return start


def reference_coefficients(method: Method, step: StepPlan) -> Float32Array:
    """The step's coefficients; for a constant reference, those that make ``z̃_t`` be ``z̃_0``.

    A sampler may keep latents scaled: the model sees ``MODEL_INPUT_SCALE · z``. There ``z̃_0`` has
    the coefficient 1, so in the sampler's own convention it has ``1 / MODEL_INPUT_SCALE``.
    """
    if method.reference == "diffused":
        return step.coefficients
    coefficients = step.coefficients.copy()
    scale = step.coefficients64[StepCoefficient.MODEL_INPUT_SCALE]
    coefficients[StepCoefficient.REFERENCE_SIGNAL] = np.float32(1 / scale)
    coefficients[StepCoefficient.REFERENCE_NOISE] = 0
    return coefficients


def fm_feeds(method: Method, tables: KernelTables, step: StepPlan) -> dict[str, Float32Array]:
    """Kernels and weight of FM for a step: float32 ``[H]``, ``[W]`` and ``[]``."""
    train_timesteps = len(tables.weight)
    if method.fm_kernel == "table":
        rows, columns = tables.rows[step.fm_index], tables.columns[step.fm_index]
    else:
        rows, columns = _delta(tables.rows.shape[1]), _delta(tables.columns.shape[1])
    if method.fm_kernel == "off":
        weight = 0.0
    elif method.fm_weight == "table":
        weight = float(tables.weight[step.fm_index])
    else:
        weight = skip_residual_weight(step.timestep, train_timesteps)
    return {
        contract.FM_KERNEL_ROWS: np.ascontiguousarray(rows, np.float32),
        contract.FM_KERNEL_COLUMNS: np.ascontiguousarray(columns, np.float32),
        contract.FM_WEIGHT: np.asarray(weight, np.float32),
    }


def _delta(length: int) -> Float32Array:
    """The kernel whose circulant matrix is the identity."""
    kernel = np.zeros(length, np.float32)
    kernel[0] = 1
    return kernel


def check_finite(what: str, array: npt.NDArray[Any], dtype: ModelDtype = "fp32") -> None:
    """Check that `array`, made by a model in `dtype`, holds neither NaN nor infinity.

    Raises:
        NumericError: it does.
    """
    if not np.isfinite(array).all():
        extremes = "use fewer extremes in the settings (guidance_scale)"
        bad = int(array.size - np.isfinite(array).sum())
        raise NumericError(
            f"{what} is not a number any more",
            got=f"{bad} of {array.size} values are NaN or infinite",
            expected="finite values",
            fix=f"{_FP16_OVERFLOWS}; or {extremes}" if dtype == "fp16" else extremes,
        )
