"""How a stage program is carried out: the interface, and the loop that feeds a runner by hand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fam_runtime import contract
from fam_runtime.stage_program import (
    NativeAttention,
    NoNativeAttention,
    ReplayedAttention,
    StageProgram,
    StageResult,
    StageShape,
    StoredAttention,
)

if TYPE_CHECKING:
    from fam_runtime.backends.base import Value, Values
    from fam_runtime.backends.place import Place

TapsOfStep = Callable[[int], "Values"]


class StageLoop(ABC):
    """Carries out stage programs."""

    @abstractmethod
    def reserve(self, stages: Sequence[StageShape]) -> int:
        """Make sure that `stages` fit before the first one starts.

        Returns:
            bytes of the buffers that the loop keeps for them.

        Raises:
            BackendError: they do not fit.
        """

    @abstractmethod
    def run(self, program: StageProgram) -> StageResult:
        """All steps of a stage.

        Raises:
            BackendError: a feed does not fit the graph, or the library failed.
            FamError: whatever the program's observer raises.
        """


class HostStageLoop(StageLoop):
    """Feeds every step by hand, on values that are made when they are needed and then dropped.

    Args:
        place: where the values are.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def reserve(self, stages: Sequence[StageShape]) -> int:
        """Nothing: values come and go."""
        return 0

    def run(self, program: StageProgram) -> StageResult:
        """All steps of a stage; see :meth:`StageLoop.run`."""
        upload = self._place.upload
        constants = {name: upload(array) for name, array in program.constants.items()}
        zeros = self._place.zeros(program.first_latent.shape, "float32")
        taps_of_step = self._taps_of(program.attention)
        latent, prediction = upload(program.first_latent), zeros
        latents: list[Value] = []
        taps: list[Values | None] = []
        for index, step in enumerate(program.steps):
            if program.keep_trajectory:
                latents.append(latent)
            # The taps are in a call's arguments only: a name here would keep them alive while the
            # next step's are made.
            values = program.runner.run(
                {
                    **constants,
                    **program.row(index),
                    contract.LATENT: latent,
                    contract.PREVIOUS_PREDICTION: prediction,
                    contract.STEP_NOISE: program.draw_noise() if step.needs_noise else zeros,
                    **taps_of_step(index),
                },
                (contract.NEXT_LATENT, contract.PREDICTION, *program.kept_taps),
            )
            latent, prediction = values[contract.NEXT_LATENT], values[contract.PREDICTION]
            if program.kept_taps:
                taps.append({name: values[name] for name in program.kept_taps})
            replaced = program.observer.after_step(program.stage, index, step, latent)
            if replaced is not None:
                latent = upload(replaced)
        return StageResult(latent, tuple(latents), taps)

    def _taps_of(self, attention: NativeAttention | None) -> TapsOfStep:
        if isinstance(attention, NoNativeAttention):
            zeros = {
                name: self._place.zeros(shape, dtype)
                for name, (shape, dtype) in attention.taps.items()
            }
            return lambda index: zeros
        if isinstance(attention, StoredAttention):
            return _handed_out_once(attention)
        if isinstance(attention, ReplayedAttention):
            return self._replayed(attention)
        return lambda index: {}

    def _replayed(self, attention: ReplayedAttention) -> TapsOfStep:
        """The native graph at ``z_t^n`` for its taps alone."""
        program = attention.program
        upload = self._place.upload
        constants = {name: upload(array) for name, array in program.constants.items()}
        unused = self._place.zeros(program.first_latent.shape, "float32")

        def taps(index: int) -> Values:
            feeds = {
                **constants,
                **program.row(index),
                contract.LATENT: attention.latents[index],
                contract.PREVIOUS_PREDICTION: unused,
                contract.STEP_NOISE: unused,
            }
            return program.runner.run(feeds, attention.names)

        return taps


def _handed_out_once(attention: StoredAttention) -> TapsOfStep:
    def taps(index: int) -> Values:
        taken, attention.steps[index] = attention.steps[index], None
        if taken is None:
            raise RuntimeError(f"stored taps of step {index} were already handed out")
        return taken

    return taps
