"""A stage on a device: everything is uploaded first, then the steps follow each other in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fam_runtime import contract
from fam_runtime.backends.base import Values
from fam_runtime.backends.checks import check_feeds
from fam_runtime.device.buffer_plan import BufferPlan, plan_buffers
from fam_runtime.device.captured import CapturedStages, Enqueue, StepWork
from fam_runtime.device.runner import DeviceRunner
from fam_runtime.device.stage_slots import StageSlots
from fam_runtime.device.tensor import DeviceTensor
from fam_runtime.device.workspace import Workspace
from fam_runtime.stage_loop import StageLoop
from fam_runtime.stage_program import (
    ReplayedAttention,
    StageProgram,
    StageResult,
    StageShape,
    StoredAttention,
)

if TYPE_CHECKING:
    from fam_runtime.device.api import DeviceApi

STEPS_AHEAD = 2
"""Steps that the host may be ahead of the device while somebody watches: enough to keep it busy."""

_SAMPLER_OUTPUTS = (contract.NEXT_LATENT, contract.PREDICTION)


class DeviceStageLoop(StageLoop):
    """Carries out programs whose runners are :class:`DeviceRunner`.

    Args:
        api: the device.
        capture_at_use: a stage is captured when it comes for the so-manieth time; 0: never.
        every_output_bound: whether graphs write every output, wanted or not, for what is reserved
            before they are loaded.
    """

    def __init__(self, api: DeviceApi, *, capture_at_use: int, every_output_bound: bool) -> None:
        self._api, self._every_output_bound = api, every_output_bound
        self._workspace = Workspace(api)
        self._captured = CapturedStages(api, at_use=capture_at_use)
        self._native: StageSlots | None = None

    @property
    def buffer_bytes(self) -> int:
        """What the buffers take that stay between calls."""
        return self._workspace.nbytes

    def reserve(self, stages: Sequence[StageShape]) -> int:
        """Have the buffers of `stages` ready; see :meth:`StageLoop.reserve`."""
        self._api.activate()
        plan = plan_buffers(stages, every_output_bound=self._every_output_bound)
        self._hold(plan)
        return plan.nbytes

    def run(self, program: StageProgram) -> StageResult:
        """All steps of a stage; see :meth:`StageLoop.run`."""
        self._api.activate()
        slots = self._slots(program)
        steps = self._work(slots)
        _check(program, steps[0][-1])
        slots.upload_inputs()
        slots.upload_start()
        if program.stage == "native":
            self._native = slots
        seconds = self._drive(slots, steps)
        count, kept = len(steps), program.keep_trajectory
        return StageResult(
            slots.latent(count),
            tuple(slots.latent(index) for index in range(count)) if kept else (),
            self._kept_taps(slots),
            # With a callback the time is the callback's, too.
            None if program.observer.watches == "latents" else seconds / count,
        )

    def forget_graphs(self) -> None:
        """Destroy captured graphs, whose engines are about to use other memory."""
        self._captured.close()

    def close(self) -> None:
        """Destroy graphs and give the buffers up; both are made again when they are needed."""
        with ExitStack() as closing:
            closing.callback(self._workspace.close)
            closing.callback(self._captured.close)
            self._native = None

    def _hold(self, plan: BufferPlan) -> None:
        self._captured.forget_addresses(self._workspace.ensure(plan))

    def _slots(self, program: StageProgram) -> StageSlots:
        """The program's buffers, held; what they contain is not written yet."""
        shape = _shape_of(program)
        wanted = (*_SAMPLER_OUTPUTS, *program.kept_taps)
        required = _runner(program).device_graph.required_outputs(wanted)
        bound = any(spec.name in required for spec in shape.taps)
        plan = plan_buffers([shape], every_output_bound=bound)
        self._hold(plan)
        return StageSlots(program, plan, self._workspace, self._api)

    def _work(self, slots: StageSlots) -> list[StepWork]:
        """What each step puts on the stream."""
        attention = slots.program.attention
        count = len(slots.program.steps)
        if slots.program.stage == "native":
            return [[self._native_step(slots, index)] for index in range(count)]
        if isinstance(attention, ReplayedAttention):
            native = self._replayable(attention.program)
            return [
                [
                    _replay(native, index, attention, slots.taps(attention.names, 0)),
                    _target_step(slots, index, slots.taps(attention.names, 0)),
                ]
                for index in range(count)
            ]
        if isinstance(attention, StoredAttention):
            return [[_target_step(slots, i, _taken(attention, i))] for i in range(count)]
        names = () if attention is None else tuple(attention.taps)
        zeros = slots.taps(names, 0)
        for value in zeros.values():
            slots.fill_zero(value)
        return [[_target_step(slots, index, zeros)] for index in range(count)]

    def _native_step(self, slots: StageSlots, index: int) -> Enqueue:
        program, runner = slots.program, _runner(slots.program)
        required = runner.device_graph.required_outputs((*_SAMPLER_OUTPUTS, *program.kept_taps))
        names = tuple(name for name in required if name not in _SAMPLER_OUTPUTS)
        taps = slots.taps(names, index if program.kept_taps else 0)
        return Enqueue(runner, {**slots.inputs(index), **slots.outputs(index), **taps})

    def _replayable(self, program: StageProgram) -> StageSlots:
        """The native stage's buffers, which hold its inputs and its trajectory still."""
        if self._native is None or self._native.program is not program:
            raise RuntimeError("what is to be replayed is not the last native stage that ran")
        return self._native

    def _kept_taps(self, slots: StageSlots) -> list[Values | None]:
        names = slots.program.kept_taps
        if not names:
            return []
        return [slots.taps(names, index) for index in range(len(slots.program.steps))]

    def _drive(self, slots: StageSlots, steps: Sequence[StepWork]) -> float:
        """Put the steps on the stream as closely as they are watched.

        Returns:
            seconds that they took on the device.
        """
        in_one = slots.program.observer.watches == "stages"
        graphs = self._captured.graphs(steps, in_one=in_one)
        launches: list[Callable[[], None]]
        if graphs is not None:
            launches = [partial(self._api.launch, graph) for graph in graphs]
        else:
            launches = [partial(_enqueue, step) for step in steps]
        events = [self._api.record_event()]
        try:
            if in_one:
                for launch in launches:
                    launch()
                self._after(slots, len(steps) - 1)
            elif slots.program.observer.watches == "latents":
                for index, launch in enumerate(launches):
                    launch()
                    self._after(slots, index)
            else:
                self._launch_watched(slots, launches)
            events.append(self._api.record_event())
            self._api.wait_for_event(events[1])
            return self._api.elapsed_ms(*events) / 1000
        finally:
            for event in events:
                self._api.destroy_event(event)

    def _launch_watched(self, slots: StageSlots, launches: Sequence[Callable[[], None]]) -> None:
        """Tell of each step when it is done, with the host a little ahead."""
        pending: deque[tuple[int, Any]] = deque()

        def finish_one() -> None:
            index, event = pending.popleft()
            try:
                self._api.wait_for_event(event)
            finally:
                self._api.destroy_event(event)
            self._after(slots, index)

        try:
            for index, launch in enumerate(launches):
                launch()
                pending.append((index, self._api.record_event()))
                if len(pending) > STEPS_AHEAD:
                    finish_one()
            while pending:
                finish_one()
        finally:
            for _, event in pending:
                self._api.destroy_event(event)

    def _after(self, slots: StageSlots, index: int) -> None:
        program, latent = slots.program, slots.latent(index + 1)
        replaced = program.observer.after_step(program.stage, index, program.steps[index], latent)
        if replaced is not None:
            self._api.copy_to_device(latent.address, np.ascontiguousarray(replaced))


def _check(program: StageProgram, first_step: Enqueue) -> None:
    """Say in words what does not fit; later steps differ in addresses alone."""
    spec, latent = program.runner.spec, program.first_latent
    # What is bound has the shape that was planned for it: the question is what is written there.
    written = {
        **program.constants,
        **program.row(0),
        contract.LATENT: latent,
        contract.PREVIOUS_PREDICTION: latent,
        contract.STEP_NOISE: latent,
    }
    inputs = {given.name for given in spec.inputs}
    taps = {n: v for n, v in first_step.values.items() if n in inputs and n not in written}
    check_feeds(program.runner.graph, spec.inputs, {**written, **taps})


def _replay(
    native: StageSlots, index: int, attention: ReplayedAttention, taps: dict[str, DeviceTensor]
) -> Enqueue:
    runner = _runner(native.program)
    latent = cast(DeviceTensor, attention.latents[index])
    values = {**native.replayed(index, latent), **taps}
    required = runner.device_graph.required_outputs(attention.names)
    unwanted = [name for name in _SAMPLER_OUTPUTS if name not in required]
    return Enqueue(runner, {name: v for name, v in values.items() if name not in unwanted})


def _target_step(slots: StageSlots, index: int, taps: dict[str, DeviceTensor]) -> Enqueue:
    values = {**slots.inputs(index), **slots.outputs(index), **taps}
    return Enqueue(_runner(slots.program), values)


def _taken(attention: StoredAttention, index: int) -> dict[str, DeviceTensor]:
    taps, attention.steps[index] = attention.steps[index], None
    if taps is None:
        raise RuntimeError(f"stored taps of step {index} were already handed out")
    return {name: cast(DeviceTensor, value) for name, value in taps.items()}


def _enqueue(step: StepWork) -> None:
    for work in step:
        work()


def _runner(program: StageProgram) -> DeviceRunner:
    if not isinstance(program.runner, DeviceRunner):
        raise TypeError(f"{type(program.runner).__name__} is no runner of a device")
    return program.runner


def _shape_of(program: StageProgram) -> StageShape:
    """What the program needs, as :meth:`DeviceStageLoop.reserve` was told before."""
    spec, attention = program.runner.spec, program.attention
    if program.stage == "native":
        taps = tuple(output for output in spec.outputs if output.name not in _SAMPLER_OUTPUTS)
        slots = len(program.steps) if program.kept_taps else 0
    else:
        fed = {*program.constants, *program.tables, contract.STEP_NOISE}
        fed |= {contract.LATENT, contract.PREVIOUS_PREDICTION}
        taps = tuple(given for given in spec.inputs if given.name not in fed)
        slots = 0 if isinstance(attention, StoredAttention) else 1
    return StageShape(
        program.stage,
        spec,
        len(program.first_latent),
        tuple(step.needs_noise for step in program.steps),
        program.keep_trajectory,
        taps,
        slots,
    )
