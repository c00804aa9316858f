"""A loaded graph as the device sees it: work to put on the stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fam_runtime.device.tensor import DeviceTensor


class DeviceGraph(ABC):
    """One graph of a bundle, in an inference library on a device."""

    @property
    @abstractmethod
    def capturable(self) -> bool:
        """Whether its work can be captured; a library may know only after a first run."""

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Have what runs at `sizes` of the symbols ready; see :meth:`Runner.prepare`."""
        return

    @abstractmethod
    def enqueue(self, values: Mapping[str, DeviceTensor]) -> None:
        """Put one run on the stream, and return without waiting.

        Args:
            values: every input, and every output that :meth:`required_outputs` names, by name.
                The memory stays in place until the stream has passed; inputs may share memory
                with each other, outputs with nothing.

        Raises:
            BackendError: the library refuses.
        """

    @abstractmethod
    def required_outputs(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The outputs that must have memory when `wanted` are asked for: these, or more."""

    @abstractmethod
    def close(self) -> None:
        """Free what the graph holds; its work on the stream has ended."""
