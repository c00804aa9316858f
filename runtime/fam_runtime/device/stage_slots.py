"""Which slot each step of a stage reads and writes, and what the host writes before the first."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from fam_runtime import contract
from fam_runtime.device.buffer_plan import LATENTS, PREDICTIONS, TAPS, Buffer, BufferPlan
from fam_runtime.device.tensor import DeviceTensor
from fam_runtime.stage_program import StageProgram

if TYPE_CHECKING:
    from fam_runtime.backends.base import Array
    from fam_runtime.device.api import DeviceApi
    from fam_runtime.device.workspace import Workspace


class StageSlots:
    """The slots of one stage.

    Args:
        program: the stage.
        plan: its buffers, which `workspace` holds.
        workspace: where they are.
        api: the device.
    """

    def __init__(
        self, program: StageProgram, plan: BufferPlan, workspace: Workspace, api: DeviceApi
    ) -> None:
        self.program, self._plan, self._workspace, self._api = program, plan, workspace, api
        needs = [step.needs_noise for step in program.steps]
        # The rows of steps that need noise, in order; all others read the zeros behind them.
        self._noise_rows = [
            drawn - 1 if needed else sum(needs)
            for needed, drawn in zip(needs, accumulate(needs), strict=True)
        ]

    def latent(self, index: int) -> DeviceTensor:
        """What step `index` starts from; behind the last step, the stage's result."""
        slot = index if self.program.keep_trajectory else index % 2
        return self._slot(LATENTS, slot)

    def prediction(self, index: int) -> DeviceTensor:
        """What step `index` writes; before the first step there are zeros."""
        return self._slot(PREDICTIONS, index % 2)

    def noise(self, index: int) -> DeviceTensor:
        """The noise of step `index`."""
        return self._slot(contract.STEP_NOISE, self._noise_rows[index])

    def taps(self, names: tuple[str, ...], slot: int) -> dict[str, DeviceTensor]:
        """Slot `slot` of the tap tensors `names`."""
        return {n: self._workspace.slot(self._plan.by_name[f"{TAPS}.{n}"], slot) for n in names}

    def inputs(self, index: int) -> dict[str, DeviceTensor]:
        """What step `index` reads, but for taps."""
        return {
            **{name: self._slot(name, 0) for name in self.program.constants},
            **{name: self._slot(name, index) for name in self.program.tables},
            contract.LATENT: self.latent(index),
            contract.PREVIOUS_PREDICTION: self.prediction(index - 1),
            contract.STEP_NOISE: self.noise(index),
        }

    def outputs(self, index: int) -> dict[str, DeviceTensor]:
        """What step `index` writes, but for taps."""
        return {
            contract.NEXT_LATENT: self.latent(index + 1),
            contract.PREDICTION: self.prediction(index),
        }

    def replayed(self, index: int, latent: DeviceTensor) -> dict[str, DeviceTensor]:
        """Inputs and unwanted outputs of step `index` at `latent`, done again for its taps.

        They depend on neither the prediction nor the noise: both inputs are some finite latent,
        and both slots of the predictions are free to be written to.
        """
        return {
            **self.inputs(index),
            contract.LATENT: latent,
            contract.PREVIOUS_PREDICTION: self.noise(index),
            contract.NEXT_LATENT: self.prediction(0),
            contract.PREDICTION: self.prediction(1),
        }

    def upload_inputs(self) -> None:
        """Write what the program feeds as it is: constants, and a row of each table per step."""
        for name, constant in self.program.constants.items():
            self._write(self._buffer(name), constant[None])
        for name, table in self.program.tables.items():
            self._write(self._buffer(name), table)

    def upload_start(self) -> None:
        """Write what the steps start from: latent, noise, zeros."""
        program = self.program
        first = np.ascontiguousarray(program.first_latent)
        self._api.copy_to_device(self.latent(0).address, first)
        self.fill_zero(self.prediction(-1))
        for index, step in enumerate(program.steps):
            if step.needs_noise:
                self._api.copy_to_device(self.noise(index).address, program.draw_noise())
        if not all(step.needs_noise for step in program.steps):
            rows = self._buffer(contract.STEP_NOISE).slots
            self.fill_zero(self._slot(contract.STEP_NOISE, rows - 1))

    def fill_zero(self, value: DeviceTensor) -> None:
        """Write zeros."""
        self._api.fill_zero(value.address, value.nbytes)

    def _buffer(self, what: str) -> Buffer:
        return self._plan.by_name[f"{self.program.stage}.{what}"]

    def _slot(self, what: str, index: int) -> DeviceTensor:
        return self._workspace.slot(self._buffer(what), index)

    def _write(self, buffer: Buffer, rows: Array) -> None:
        """Write all rows of a buffer in one copy, each padded to its slot."""
        padded = np.zeros((len(rows), buffer.slot_bytes), np.uint8)
        content = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
        padded[:, : content.shape[1]] = content
        self._api.copy_to_device(self._workspace.slot(buffer, 0).address, padded)
