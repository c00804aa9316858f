"""The callback after each step, with diffusers' signature, and the ways to stop.

``callback(pipe, step_index, timestep, callback_kwargs)`` may return a dictionary with ``"latents"``
to go on with other ones. `callback_kwargs` holds ``latents`` (a copy, float32 ``[B, C, h, w]``;
writing to it changes nothing unless it is returned), ``stage``
(``"native"`` or ``"target"``; `step_index` starts at 0 in each) and ``picture_index``, the first
picture of the batch.

A call stops, with :class:`Cancelled`, when the callback sets ``pipe.interrupt = True`` or raises
:class:`Cancelled` itself. Another thread may set it too, even before the first step; the end of the
call resets it. diffusers would decode the half-made latent; we do not, because it is no picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fam_runtime.backends.base import Array, Backend, Value
from fam_runtime.errors import Cancelled, InvalidRequest
from fam_runtime.progress import Progress
from fam_runtime.stage_program import Stage, Watching

if TYPE_CHECKING:
    from fam_runtime.pipeline import FamPipeline
    from fam_runtime.schedulers import StepPlan

CallbackOnStepEnd = Callable[["FamPipeline", int, float, dict[str, Any]], Mapping[str, Any] | None]


class StepWatcher:
    """Moves the progress bar, calls the callback, and stops the run.

    Args:
        pipeline: given to the callback; its `interrupt` is looked at.
        backend: brings latents to the host for the callback.
        progress: the bar.
        callback: the user's, or None.
    """

    def __init__(
        self,
        pipeline: FamPipeline,
        backend: Backend,
        progress: Progress,
        callback: CallbackOnStepEnd | None,
    ) -> None:
        self.pipeline, self.backend, self.progress = pipeline, backend, progress
        self.callback = callback
        self.picture_index = 0

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins.

        Raises:
            Cancelled: the user stopped the run meanwhile.
        """
        self.check_interrupt()
        self.progress.start(stage, total)

    @property
    def watches(self) -> Watching:
        """Latents for a callback, steps for a bar that is seen, else nothing within a stage.

        In the last case a device does a whole stage in one piece, so that `interrupt`, set by
        another thread, is noticed between stages.
        """
        if self.callback is not None:
            return "latents"
        # Progress is anybody's class: whoever does not say otherwise is there to be seen.
        return "steps" if getattr(self.progress, "visible", True) else "stages"

    def after_step(self, stage: Stage, index: int, step: StepPlan, latent: Value) -> Array | None:
        """What happens after step `index` of `stage`; returns the latent to go on with, if another.

        Raises:
            Cancelled: the user stops the run.
            InvalidRequest: the callback returned something else, or latents that do not fit.
        """
        self.progress.advance()
        replaced: Array | None = None
        if self.callback is not None:
            latents = self.backend.download(latent).copy()  # theirs to write to
            kwargs = {"latents": latents, "stage": stage, "picture_index": self.picture_index}
            returned = _returned_latents(self.callback(self.pipeline, index, step.timestep, kwargs))
            if returned is not None:
                replaced = _checked(returned, latents.shape)
        self.check_interrupt()
        return replaced

    def check_interrupt(self) -> None:
        """Stop if the user asked for it.

        Raises:
            Cancelled: they did.
        """
        if self.pipeline.interrupt:
            raise Cancelled("the generation was stopped", fix="nothing was written")


def _returned_latents(returned: object) -> Any:
    if returned is None:
        return None
    if not isinstance(returned, Mapping):
        raise InvalidRequest(
            "the callback returned something that is no dictionary",
            got=type(returned).__name__,
            expected='a dictionary such as {"latents": …}, or None',
            fix="return callback_kwargs, or nothing",
        )
    return returned.get("latents")


def _checked(latents: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    try:
        array = np.array(latents, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            "the callback returned latents that are no numbers",
            got=str(error),
            expected=f"float32 of the shape {shape}",
            fix="return the array that came in, or none",
        ) from error
    if array.shape != shape:
        raise InvalidRequest(
            "the callback returned latents of another shape",
            got=array.shape,
            expected=str(shape),
            fix="return latents of the shape that came in, or none",
        )
    return array
