"""Memory for the tensors inside graphs: one block for all engines, for only one runs at a time.

Left to itself, every context has its own, and the native step's would lie idle beside the target's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fam_runtime.errors import BackendError, OutOfMemory

if TYPE_CHECKING:
    from fam_runtime.device.api import DeviceApi
    from fam_runtime.device.memory import Block


class Scratch:
    """As large as the neediest engine needs; it moves when a needier one comes.

    Args:
        api: the device, whose one stream keeps the engines apart.
        before_moving: called before the address changes, and by engines before their shapes do;
            captured CUDA graphs hold both.
    """

    def __init__(self, api: DeviceApi, before_moving: Callable[[], None]) -> None:
        self._api, self.before_moving = api, before_moving
        self._block: Block | None = None
        self._contexts: list[Any] = []

    @property
    def nbytes(self) -> int:
        """What it takes now."""
        return 0 if self._block is None else self._block.nbytes

    def join(self, context: Any, nbytes: int) -> None:
        """Give `context` the memory, at least `nbytes` of it.

        Raises:
            BackendError: the device has not so much left.
        """
        self._contexts.append(context)
        if self._block is None or self._block.nbytes < nbytes:
            self._api.synchronize()
            self.before_moving()
            kept, self._block = self.nbytes, None  # first, so that both need not fit
            self._api.memory.trim()
            try:
                self._move(nbytes)
            except BackendError:
                self._contexts.remove(context)
                if self._contexts:
                    self._move(kept)  # which was just freed: the others go on
                raise
        else:
            context.set_device_memory(self._block.address, self._block.nbytes)

    def check(self) -> None:
        """Refuse to run on memory that was lost.

        Raises:
            BackendError: making it larger failed, and it could not be had back.
        """
        if self._block is None:
            raise OutOfMemory(
                "the engines lost their scratch memory when it had to grow",
                expected="free memory on the GPU",
                fix="free memory on the GPU, and load the bundle again",
            )

    def leave(self, context: Any) -> None:
        """`context` is no more; the last one leaves nothing behind."""
        self._contexts = [each for each in self._contexts if each is not context]
        if not self._contexts:
            self._block = None
            self._api.memory.trim()

    def _move(self, nbytes: int) -> None:
        self._block = self._api.memory.block(nbytes)
        for context in self._contexts:
            context.set_device_memory(self._block.address, self._block.nbytes)
