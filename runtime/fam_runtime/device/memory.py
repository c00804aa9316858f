"""Device memory that frees itself, and is kept for the next who needs as much."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from fam_runtime.device.tensor import DeviceTensor, tensor_bytes
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    from fam_runtime.backends.base import Array
    from fam_runtime.device.api import DeviceApi

ALIGNMENT_BYTES = 256
"""Of every tensor: TensorRT asks for it."""


def aligned(nbytes: int) -> int:
    """`nbytes`, rounded up to the alignment; at least one unit."""
    return max(-(-nbytes // ALIGNMENT_BYTES), 1) * ALIGNMENT_BYTES


class Block:
    """Device memory; it goes back to its pool with the last reference.

    Attributes:
        address, nbytes: where, and how much.
    """

    def __init__(self, pool: MemoryPool, address: int, nbytes: int, generation: int) -> None:
        self.address, self.nbytes = address, nbytes
        self._pool, self._generation = pool, generation

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.nbytes, self._generation)


class MemoryPool:
    """Blocks by size. One stream orders all work, so a block may be used again at once.

    Args:
        api: where memory comes from.
    """

    def __init__(self, api: DeviceApi) -> None:
        self._api = api
        self._free: dict[int, list[int]] = {}
        self._all: set[int] = set()
        self._generation = 0

    @property
    def cached_bytes(self) -> int:
        """Bytes of blocks that nobody uses."""
        return sum(size * len(addresses) for size, addresses in list(self._free.items()))

    def block(self, nbytes: int) -> Block:
        """A block of at least `nbytes`; its content is left over from whoever had it.

        Raises:
            BackendError: the device has not so much left.
        """
        size = aligned(nbytes)
        addresses = self._free.get(size)
        address = addresses.pop() if addresses else self._allocate(size)
        return Block(self, address, size, self._generation)

    def tensor(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        """A tensor in a block of its own."""
        block = self.block(tensor_bytes(shape, dtype))
        return DeviceTensor(block.address, tuple(shape), dtype, block)

    def upload(self, array: Array) -> DeviceTensor:
        """A copy of `array` on the device."""
        contiguous = np.ascontiguousarray(array)
        value = self.tensor(array.shape, contiguous.dtype.name)
        self._api.copy_to_device(value.address, contiguous)
        return value

    def trim(self) -> None:
        """Give blocks that nobody uses back to the device."""
        # Entry by entry: freeing may collect garbage, and with it further blocks.
        while self._free:
            _, addresses = self._free.popitem()
            while addresses:
                address = addresses.pop()
                self._all.discard(address)
                self._api.free(address)

    def give_back(self, address: int, nbytes: int, generation: int) -> None:
        """Keep a block for the next; for :class:`Block` alone."""
        if generation == self._generation:
            self._free.setdefault(nbytes, []).append(address)

    def close(self) -> None:
        """Free every block, also those that somebody still holds."""
        self._generation += 1
        self._free.clear()
        with ExitStack() as freeing:  # whatever one of them raises
            while self._all:
                freeing.callback(self._api.free, self._all.pop())

    def _allocate(self, size: int) -> int:
        try:
            address = self._api.allocate(size)
        except BackendError:
            if not self._free:
                raise
            self.trim()
            address = self._api.allocate(size)
        self._all.add(address)
        return address
