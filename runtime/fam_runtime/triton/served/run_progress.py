"""How far a run of the pipeline is: told to its clients and counters, and stopped by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fam_runtime.triton.interface import STEPS_METRIC
from fam_runtime.triton.served.client_request import ClientRequest
from fam_runtime.triton.served.counters import Counters

if TYPE_CHECKING:
    from fam_runtime.pipeline import FamPipeline

_DECODING = "decode"
"""Begins the name of the pipeline's stages that work on one picture after another."""


@dataclass(frozen=True, eq=False)
class WantedPicture:
    """One picture of a request: whose it is, and its number in it."""

    request: ClientRequest
    index: int


class RunProgress:
    """Progress of one call of the pipeline, which makes pictures for one or several requests.

    A client that cannot be told, or asked, is no reason to stop the others' pictures.

    Args:
        pipe: is interrupted once no client waits any more.
        pictures: what the call makes, in its order.
        counters: count steps, by which a probe tells a busy model from a dead one.
        log: told what went wrong with a client.
    """

    visible = True
    """So that a device stops between steps, where a client may have cancelled."""

    def __init__(
        self,
        pipe: FamPipeline,
        pictures: Sequence[WantedPicture],
        counters: Counters,
        log: Callable[[str], object],
    ) -> None:
        self._pipe, self._pictures, self._counters = pipe, list(pictures), counters
        self._log = log
        self._stage, self._step, self._steps, self._decoded = "", 0, 0, 0

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins."""
        self._stage, self._step, self._steps = stage, 0, total
        self._decoded += stage.startswith(_DECODING)

    def advance(self) -> None:
        """A step is done; the pipeline looks at `interrupt` right after this."""
        self._step += 1
        self._counters.count(STEPS_METRIC)
        waiting = [picture for picture in self._pictures if self._waits(picture)]
        for picture in waiting:
            if self._is_about(picture):
                self._tell(picture)
        if not waiting:
            self._pipe.interrupt = True

    def close(self) -> None:
        """The call is over; what it held of the server's memory is given back."""
        self._pictures = []

    def _is_about(self, picture: WantedPicture) -> bool:
        """Whether the step was a step of `picture`: pictures are decoded one after another."""
        if not self._stage.startswith(_DECODING):
            return True
        return picture is self._pictures[self._decoded - 1]

    def _waits(self, picture: WantedPicture) -> bool:
        try:
            return not picture.request.cancelled
        except Exception as error:
            self._log(f"a client could not be asked whether it waits: {error}")
            return True

    def _tell(self, picture: WantedPicture) -> None:
        progress = {
            "picture": picture.index,
            "stage": self._stage,
            "step": self._step,
            "steps": self._steps,
        }
        try:
            picture.request.tell(progress)
        except Exception as error:
            self._log(f"a client could not be told of a step: {error}")
