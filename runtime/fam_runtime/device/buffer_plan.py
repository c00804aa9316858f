"""Which buffers a call keeps on the device: pure data, drawn in docs/buffer_plan.md.

Every buffer has slots, each padded to 256 bytes, so that a slot is addressed in place. Nothing is
copied between the steps of a stage: the host writes before the first one and reads after the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fam_runtime import contract
from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.bundle.manifest import TensorSpec
from fam_runtime.device.memory import aligned
from fam_runtime.device.tensor import tensor_bytes
from fam_runtime.stage_program import Stage, StageShape

PER_STEP_INPUTS = frozenset(
    {
        contract.TIMESTEP,
        contract.STEP_COEFFICIENTS,
        contract.FM_KERNEL_ROWS,
        contract.FM_KERNEL_COLUMNS,
        contract.FM_WEIGHT,
    }
)
"""Inputs with a row per step; what is neither here nor below is the same at every step."""
_FLOWING_INPUTS = frozenset({contract.LATENT, contract.PREVIOUS_PREDICTION, contract.STEP_NOISE})

LATENTS, PREDICTIONS, TAPS = "latents", "predictions", "taps"
Copied = Literal["once a stage, from the host", "never"]


@dataclass(frozen=True)
class Buffer:
    """One buffer.

    Attributes:
        name: ``<stage>.<what>``, or ``taps.<tensor>``.
        slots: how many tensors it holds.
        shape, dtype: of one of them.
        owner: the stage that it belongs to; taps belong to both.
        written_by, read_by: who does, in words.
        copied: how often.
    """

    name: str
    slots: int
    shape: tuple[int, ...]
    dtype: str
    owner: Stage | Literal["both"]
    written_by: str
    read_by: str
    copied: Copied

    @property
    def slot_bytes(self) -> int:
        """From one slot to the next."""
        return aligned(tensor_bytes(self.shape, self.dtype))

    @property
    def nbytes(self) -> int:
        """All slots."""
        return self.slots * self.slot_bytes


@dataclass(frozen=True)
class BufferPlan:
    """The buffers of one stage, or of a call.

    Attributes:
        buffers: each name once.
    """

    buffers: tuple[Buffer, ...]

    @property
    def nbytes(self) -> int:
        """What they take together."""
        return sum(buffer.nbytes for buffer in self.buffers)

    @cached_property
    def by_name(self) -> Mapping[str, Buffer]:
        """The buffers by their names."""
        return {buffer.name: buffer for buffer in self.buffers}


def plan_buffers(stages: Iterable[StageShape], *, every_output_bound: bool) -> BufferPlan:
    """The buffers of `stages`; what they share is as large as the larger need.

    Args:
        stages: one, or both of a call.
        every_output_bound: the library writes every output, wanted or not.
    """
    largest: dict[str, Buffer] = {}
    for stage in stages:
        for buffer in (*_stage_buffers(stage), *_tap_buffers(stage, every_output_bound)):
            known = largest.get(buffer.name)
            if known is None or known.nbytes < buffer.nbytes:
                largest[buffer.name] = buffer
    return BufferPlan(tuple(largest.values()))


def _stage_buffers(stage: StageShape) -> Iterable[Buffer]:
    name, steps = stage.stage, len(stage.noisy)
    graph, sizes = f"{name} graph", {"B": stage.batch}
    once: Copied = "once a stage, from the host"
    inputs = {spec.name: spec for spec in stage.spec.inputs}

    def buffer(what: str, slots: int, spec: TensorSpec, writer: str, copied: Copied) -> Buffer:
        shape = shape_from_symbols(spec.shape, sizes)
        full = f"{name}.{what}"
        return Buffer(full, slots, shape, spec.dtype, name, writer, graph, copied)

    latent = inputs[contract.LATENT]
    slots = steps + 1 if stage.keep_trajectory else 2
    yield buffer(LATENTS, slots, latent, f"host (slot 0), {graph}", once)
    yield buffer(PREDICTIONS, 2, latent, f"zeros (slot 1), {graph}", "never")
    rows = sum(stage.noisy) + (not all(stage.noisy))
    yield buffer(contract.STEP_NOISE, rows, latent, "host, zeros (last slot)", once)
    taps = {spec.name for spec in stage.taps}
    for spec in stage.spec.inputs:
        if spec.name not in _FLOWING_INPUTS | taps:
            slots = steps if spec.name in PER_STEP_INPUTS else 1
            yield buffer(spec.name, slots, spec, "host", once)


def _tap_buffers(stage: StageShape, every_output_bound: bool) -> Iterable[Buffer]:
    slots = stage.tap_slots
    if stage.stage == "native" and not slots and every_output_bound:
        slots = 1  # written, and never read
    if not slots:
        return
    sizes = {"B": stage.batch}
    for spec in stage.taps:
        shape = shape_from_symbols(spec.shape, sizes)
        yield Buffer(
            f"{TAPS}.{spec.name}",
            slots,
            shape,
            spec.dtype,
            "both",
            "native graph; zeros without AM",
            "target graph",
            "never",
        )
