"""A stage as data: what is fed to its step graph, and what is kept of it.

The sampler writes a :class:`StageProgram`; a :class:`~fam_runtime.stage_loop.StageLoop` carries it
out, step by step on the host, or from buffers that stay on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fam_runtime.backends.base import Array, Runner, Value, Values
    from fam_runtime.bundle import GraphSpec, TensorSpec
    from fam_runtime.schedulers import StepPlan

Float32Array = npt.NDArray[np.float32]
Stage = Literal["native", "target"]
Watching = Literal["stages", "steps", "latents"]
"""What an observer looks at: nothing within a stage, that a step is done, or its latent."""


class StepObserver(Protocol):
    """Told about finished steps."""

    @property
    def watches(self) -> Watching:
        """How closely; a loop that knows may leave more to the device."""
        ...

    def after_step(self, stage: Stage, index: int, step: StepPlan, latent: Value) -> Array | None:
        """Called after every step; where only stages are watched, a loop may leave out all but
        the last. Unless latents are watched, `latent` may be another step's by then.

        Returns:
            a latent to go on with instead, float32 of the same shape, from an observer that watches
            latents; None: `latent` itself. It stops the run by raising.
        """
        ...


class Unwatched:
    """Nobody looks."""

    @property
    def watches(self) -> Watching:
        """At nothing within a stage."""
        return "stages"

    def after_step(self, stage: Stage, index: int, step: StepPlan, latent: Value) -> Array | None:
        """Go on."""
        return None


@dataclass(frozen=True)
class NoNativeAttention:
    """Zeros, for λ = 0, which multiplies them by zero.

    Attributes:
        taps: shape and dtype of every tap input of the target graph, by name.
    """

    taps: Mapping[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True, eq=False)
class StoredAttention:
    """Taps kept by the native stage.

    Attributes:
        steps: of every step (0 is the noisiest); a loop takes each step's out of this very list,
            so that nothing keeps them once they were used.
    """

    steps: list[Values | None]


@dataclass(frozen=True, eq=False)
class ReplayedAttention:
    """Taps computed again: they depend on latent, timestep and conditions alone, so bits are equal.

    Attributes:
        program: of the native stage.
        latents: ``z_t^n`` at the beginning of each of its steps.
        names: the native graph's tap outputs.
    """

    program: StageProgram
    latents: Sequence[Value]
    names: tuple[str, ...]


NativeAttention = NoNativeAttention | StoredAttention | ReplayedAttention
"""Where the target stage gets the native attention of each step."""


@dataclass(frozen=True, eq=False)
class StageProgram:
    """One stage.

    Attributes:
        stage: which.
        runner: its step graph.
        steps: the sampler's steps, noisiest first.
        first_latent: float32 ``[B, C, h, w]``.
        constants: inputs that are the same at every step, by name.
        tables: inputs that change with the step, ``[T, …]``, row `i` for step `i`, by name.
        draw_noise: the noise of the next step that needs some, float32 like `first_latent`. It is
            called once for each of them, in their order.
        observer: told about steps.
        keep_trajectory: keep the latent at the beginning of every step.
        kept_taps: outputs to keep of every step.
        attention: what feeds the tap inputs; None: the graph has none.
    """

    stage: Stage
    runner: Runner
    steps: tuple[StepPlan, ...]
    first_latent: Float32Array
    constants: Mapping[str, Array]
    tables: Mapping[str, Array]
    draw_noise: Callable[[], Float32Array]
    observer: StepObserver
    keep_trajectory: bool = False
    kept_taps: tuple[str, ...] = ()
    attention: NativeAttention | None = None

    def row(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """What step `index` is fed of the tables."""
        return {name: np.asarray(table[index]) for name, table in self.tables.items()}


@dataclass(frozen=True, eq=False)
class StageResult:
    """What a stage leaves behind, where the backend computes.

    On a device these are views of buffers that the next run of the same stage writes to.

    Attributes:
        final: ``z_0``.
        latents: ``z_t`` at the beginning of every step, where the program keeps them.
        taps: kept outputs of every step; a list, so that whoever uses them can take them out (they
            are the largest thing in memory).
        step_seconds: mean time of a step on the device, where it was measured: not with a callback,
            which the device waits for.
    """

    final: Value
    latents: tuple[Value, ...]
    taps: list[Values | None]
    step_seconds: float | None = None


@dataclass(frozen=True)
class StageShape:
    """What decides the memory of a stage, known before anything is loaded.

    Attributes:
        stage: which.
        spec: interface of its step graph.
        batch: pictures that go through it together.
        noisy: for every step, whether it needs noise.
        keep_trajectory: the latent at the beginning of every step is kept.
        taps: its tap tensors: outputs of the native graph, inputs of the target's.
        tap_slots: steps whose taps have a place of their own: all of them in a native stage that
            keeps them; one in a target stage that does not get them from there; else none.
    """

    stage: Stage
    spec: GraphSpec
    batch: int
    noisy: tuple[bool, ...]
    keep_trajectory: bool
    taps: tuple[TensorSpec, ...] = ()
    tap_slots: int = 0
