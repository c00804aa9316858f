"""The buffers of a plan in device memory, where later calls find them at the same addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fam_runtime.device.buffer_plan import Buffer, BufferPlan
from fam_runtime.device.memory import Block, aligned
from fam_runtime.device.tensor import DeviceTensor
from fam_runtime.errors import OutOfMemory

if TYPE_CHECKING:
    from fam_runtime.device.api import DeviceApi

_MEBIBYTE = 1 << 20


class Workspace:
    """Named memory that grows when a plan needs more, and never moves otherwise.

    Args:
        api: the device.
    """

    def __init__(self, api: DeviceApi) -> None:
        self._api = api
        self._blocks: dict[str, Block] = {}

    @property
    def nbytes(self) -> int:
        """What is held."""
        return sum(block.nbytes for block in self._blocks.values())

    def ensure(self, plan: BufferPlan) -> list[range]:
        """Hold every buffer of `plan`.

        Returns:
            addresses that were given up for larger buffers.

        Raises:
            OutOfMemory: the device has not so much memory free.
        """
        grown = [
            buffer
            for buffer in plan.buffers
            if buffer.name not in self._blocks
            or self._blocks[buffer.name].nbytes < aligned(buffer.nbytes)
        ]
        if not grown:
            return []
        self._check_room(plan, grown)
        given_up = [self._blocks.pop(buffer.name, None) for buffer in grown]
        ranges = [range(b.address, b.address + b.nbytes) for b in given_up if b is not None]
        del given_up  # the last references, unless somebody holds a value of the last call
        self._api.memory.trim()
        for buffer in grown:
            self._blocks[buffer.name] = self._api.memory.block(buffer.nbytes)
        return ranges

    def slot(self, buffer: Buffer, index: int) -> DeviceTensor:
        """The tensor in slot `index` of `buffer`, in place."""
        block = self._blocks[buffer.name]
        address = block.address + index * buffer.slot_bytes
        return DeviceTensor(address, buffer.shape, buffer.dtype, block)

    def close(self) -> None:
        """Give everything up."""
        self._blocks.clear()

    def _check_room(self, plan: BufferPlan, grown: list[Buffer]) -> None:
        needed = sum(aligned(buffer.nbytes) for buffer in grown)
        held = sum(self._blocks[b.name].nbytes for b in grown if b.name in self._blocks)
        free, total = self._api.memory_bytes()
        room = free + self._api.memory.cached_bytes + held
        if needed > room:
            raise OutOfMemory(
                f"the buffers of this call do not fit on {self._api.device_name}",
                got=f"{needed // _MEBIBYTE} MiB to take, of {plan.nbytes // _MEBIBYTE} in all",
                expected=f"at most {room // _MEBIBYTE} MiB; {free // _MEBIBYTE} of "
                f"{total // _MEBIBYTE} MiB are free",
                fix="native_attention='replay', fewer pictures_per_batch, or a smaller size",
            )
