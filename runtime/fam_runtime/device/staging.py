"""Pinned memory on the way to the device.

A copy from pageable memory may wait for the stream, or may read the array after the call returned,
as the system likes. From pinned memory it does neither: the array is read here, piece by piece into
one half, while the device reads the other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fam_runtime.backends.base import Array
    from fam_runtime.device.api import DeviceApi

HALF_BYTES = 4 << 20
"""Large enough that the copies, and not their number, take the time."""


class PinnedStaging:
    """Two halves of pinned memory, which whoever gave the means to allocate it frees.

    Attributes:
        address: of the memory.

    Args:
        api: whose events tell that a half was read.
        allocate: gives the address of so much pinned memory.
        copy: from pinned memory to the device: addresses, and bytes.
    """

    def __init__(
        self,
        api: DeviceApi,
        allocate: Callable[[int], int],
        copy: Callable[[int, int, int], None],
    ) -> None:
        self._api, self._copy = api, copy
        self.address = allocate(2 * HALF_BYTES)
        self._events: list[Any] = [None, None]
        self._next = 0

    def upload(self, address: int, array: Array) -> None:
        """Write a contiguous array to the device, in the order of the stream."""
        content = array.reshape(-1).view(np.uint8)
        for start in range(0, len(content), HALF_BYTES):
            self._piece(address + start, content[start : start + HALF_BYTES])

    def wait(self) -> None:
        """Wait until the device has read everything."""
        for half in range(2):
            self._wait(half)

    def _piece(self, address: int, content: Array) -> None:
        half, self._next = self._next, 1 - self._next
        self._wait(half)
        pinned = self.address + half * HALF_BYTES
        ctypes.memmove(pinned, content.ctypes.data, content.nbytes)
        self._copy(address, pinned, content.nbytes)
        self._events[half] = self._api.record_event()

    def _wait(self, half: int) -> None:
        event, self._events[half] = self._events[half], None
        if event is not None:
            self._api.wait_for_event(event)
            self._api.destroy_event(event)
