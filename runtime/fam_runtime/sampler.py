"""The two stages: the native trajectory, and diffuse-denoise at the target size.

The step graphs hold all the arithmetic on tensors; this file only decides what is fed when. The one
exception is the first latent of each stage, computed on the host in float32:

- native: ``z_T^n = init_noise_sigma · ε_n``;
- target: ``z̃_T = initial_signal · z̃_0 + initial_noise · ε``, each product rounded to float32 before
  the sum, or ``init_noise_sigma · ε`` for direct inference.

**Order of noise**, per picture and from one stream: the native ``ε_n``; one draw for each native
step that needs noise; the target ``ε``; one draw for each target step that needs noise. A method
that takes nothing from the native stage (direct) draws nothing for it. A draw has the shape
``[1, C, height, width]`` of one latent, so a picture does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fam_runtime import contract
from fam_runtime.backends.base import Array, Backend, Runner, Value, Values
from fam_runtime.bundle import KernelTables
from fam_runtime.contract import StepCoefficient
from fam_runtime.errors import NumericError
from fam_runtime.methods import Method, skip_residual_weight

if TYPE_CHECKING:
    from fam_runtime.bundle.manifest_parts import ModelDtype
    from fam_runtime.native_attention import NativeAttentionSource
    from fam_runtime.noise import NoiseSource
    from fam_runtime.schedulers import SamplingPlan, StepPlan

Float32Array = npt.NDArray[np.float32]
Stage = Literal["native", "target"]

_FP16_OVERFLOWS = (
    "float16 overflows above 65504, in some checkpoints: export with --dtype bf16 or fp32, or use "
    "a checkpoint that was made for fp16"
)

AfterStep = Callable[[Stage, int, "StepPlan", Value], Value]
"""Called after every step with the stage, its index, its plan and the new latent; returns the
latent to go on with. It stops the run by raising."""


@dataclass(frozen=True)
class NativeTrajectory:
    """What the native stage leaves behind.

    Attributes:
        final: ``z_0^n``.
        latents: ``z_t^n`` at the beginning of every step.
        taps: the taps of every step, when they were asked for; a list, so that whoever takes them
            can take them out (they are the largest thing in memory).
    """

    final: Value
    latents: tuple[Value, ...]
    taps: list[Values | None] = field(default_factory=list)


@dataclass
class PictureNoise:
    """The noise of a batch: one stream per picture."""

    sources: Sequence[NoiseSource]

    def draw(self, latent_shape: tuple[int, ...]) -> Float32Array:
        """One latent of noise per picture, float32 ``[B, C, height, width]``."""
        return np.concatenate([source.normal((1, *latent_shape)) for source in self.sources])


@dataclass
class StageRun:
    """A stage's fixed parts.

    Attributes:
        stage: for messages and `after_step`.
        backend: owner of the values.
        runner: the stage's step graph.
        plan: the sampler's steps.
        conditions: feeds that are the same at every step.
        noise: the batch's noise.
        after_step: see :data:`AfterStep`.
        dtype: of the model's weights, for messages.
    """

    stage: Stage
    backend: Backend
    runner: Runner
    plan: SamplingPlan
    conditions: Values
    noise: PictureNoise
    after_step: AfterStep
    dtype: ModelDtype = "fp32"
    _zeros: dict[tuple[int, ...], Value] = field(default_factory=dict)

    def step(
        self,
        index: int,
        latent: Value,
        prediction: Value | None,
        extra: dict[str, Value],
        outputs: Sequence[str] = (),
    ) -> dict[str, Value]:
        """Run step `index`: the sampler's outputs, and `outputs`."""
        step = self.plan.steps[index]
        zeros = self._zeros_like(latent)
        feeds = step_feeds(
            step,
            latent,
            prediction=zeros if prediction is None else prediction,
            noise=self.noise.draw(latent.shape[1:]) if step.needs_noise else zeros,
        )
        feeds |= {**self.conditions, **extra}
        values = self.runner.run(feeds, (contract.NEXT_LATENT, contract.PREDICTION, *outputs))
        values[contract.NEXT_LATENT] = self.after_step(
            self.stage, index, step, values[contract.NEXT_LATENT]
        )
        return values

    def _zeros_like(self, latent: Value) -> Value:
        if latent.shape not in self._zeros:
            self._zeros[latent.shape] = self.backend.zeros(latent.shape, "float32")
        return self._zeros[latent.shape]


def step_feeds(
    step: StepPlan, latent: Value, *, prediction: Value, noise: Value
) -> dict[str, Value]:
    """What every step graph is fed besides its conditions.

    Args:
        step: timestep and coefficients.
        latent: ``z_t``.
        prediction: the data prediction of the step before.
        noise: of an ancestral sampler's step; the shape of `latent`, like `prediction`.
    """
    return {
        contract.LATENT: latent,
        contract.TIMESTEP: np.asarray(step.timestep, np.float32),
        contract.STEP_COEFFICIENTS: step.coefficients,
        contract.PREVIOUS_PREDICTION: prediction,
        contract.STEP_NOISE: noise,
    }


def run_native_stage(
    run: StageRun, latent_shape: tuple[int, int, int], tap_names: Sequence[str] = ()
) -> NativeTrajectory:
    """Sample ``z_0^n`` with the unmodified UNet and keep the trajectory.

    Args:
        run: the stage.
        latent_shape: channels, height and width of a native latent.
        tap_names: taps to keep at every step; none by default.

    Raises:
        NumericError: the latent holds NaN or infinity.
    """
    start = np.float32(run.plan.init_noise_sigma) * run.noise.draw(latent_shape)
    latent = run.backend.upload(start)
    prediction: Value | None = None
    latents: list[Value] = []
    taps: list[Values | None] = []
    for index in range(len(run.plan.steps)):
        latents.append(latent)
        values = run.step(index, latent, prediction, {}, tap_names)
        latent, prediction = values[contract.NEXT_LATENT], values[contract.PREDICTION]
        if tap_names:
            taps.append({name: values[name] for name in tap_names})
    check_finite("the native latent", run.backend.download(latent), run.dtype)
    return NativeTrajectory(latent, tuple(latents), taps)


def run_target_stage(
    run: StageRun,
    reference_latent: Array,
    method: Method,
    am_strength: float,
    tables: KernelTables,
    attention: NativeAttentionSource,
) -> Value:
    """Denoise at the target size; returns ``z_0``.

    Args:
        run: the stage.
        reference_latent: ``z̃_0``, float32 ``[B, C, H, W]``.
        method: what is fed for FM.
        am_strength: λ.
        tables: FM kernels of this size.
        attention: the native attention of every step.

    Raises:
        NumericError: the latent holds NaN or infinity.
    """
    noise = run.noise.draw(reference_latent.shape[1:])
    latent = run.backend.upload(first_target_latent(method, run.plan, reference_latent, noise))
    fixed: dict[str, Value] = {
        contract.REFERENCE_LATENT: run.backend.upload(reference_latent),
        contract.REFERENCE_NOISE: run.backend.upload(noise),
        contract.AM_STRENGTH: np.asarray(am_strength, np.float32),
    }
    prediction: Value | None = None
    for index, step in enumerate(run.plan.steps):
        fed = {
            **fixed,
            **fm_feeds(method, tables, step),
            contract.STEP_COEFFICIENTS: reference_coefficients(method, step),
        }
        # No name for the taps here: it would keep them alive while the next step's are made.
        values = run.step(index, latent, prediction, {**fed, **attention.taps(index)})
        latent, prediction = values[contract.NEXT_LATENT], values[contract.PREDICTION]
    check_finite("the target latent", run.backend.download(latent), run.dtype)
    return latent


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


def fm_feeds(method: Method, tables: KernelTables, step: StepPlan) -> dict[str, Value]:
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
