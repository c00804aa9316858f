"""What the runtime needs of a GPU: one device, one stream on which everything happens in order."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fam_runtime.closing import Closing
from fam_runtime.device.memory import MemoryPool

if TYPE_CHECKING:
    from fam_runtime.backends.base import Array


class DeviceApi(Closing):
    """A device and its stream.

    Addresses, events and graphs are handles: whoever got one gives it back. What `close` freed is
    made anew when it is needed again.

    Attributes:
        device_index: as CUDA counts.
        device_name: such as ``"NVIDIA L4"``.
        compute_capability: major and minor.
        memory: what callers take their tensors from; blocks that are free again are kept in it.
    """

    device_index: int
    device_name: str
    compute_capability: tuple[int, int]

    def __init__(self) -> None:
        self.memory = MemoryPool(self)

    @property
    @abstractmethod
    def stream(self) -> int:
        """Handle of the stream; it does not wait for the legacy stream, nor that for it."""

    def activate(self) -> None:
        """Make the device current in this thread: a thread begins with the first device."""
        return

    @abstractmethod
    def allocate(self, nbytes: int) -> int:
        """The address of `nbytes` of device memory, a multiple of 256.

        Raises:
            OutOfMemory: there is not so much left.
        """

    @abstractmethod
    def free(self, address: int) -> None:
        """Give memory back; work on the stream that uses it ends first."""

    @abstractmethod
    def copy_to_device(self, address: int, array: Array) -> None:
        """Write a contiguous array, in the order of the stream; it may be reused on return."""

    @abstractmethod
    def copy_to_host(self, array: Array, address: int) -> None:
        """Wait for the stream and read into a contiguous array."""

    @abstractmethod
    def fill_zero(self, address: int, nbytes: int) -> None:
        """Write zeros, in the order of the stream."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything on the stream.

        Raises:
            BackendError: something on it failed.
        """

    @abstractmethod
    def record_event(self) -> Any:
        """Mark this point of the stream."""

    @abstractmethod
    def wait_for_event(self, event: Any) -> None:
        """Make the host wait until the stream has passed `event`."""

    @abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have passed."""

    @abstractmethod
    def destroy_event(self, event: Any) -> None:
        """Give an event back."""

    @abstractmethod
    def begin_capture(self) -> None:
        """From now on the stream's work is noted down instead of done."""

    @abstractmethod
    def end_capture(self) -> Any:
        """The graph of what was noted down; the stream works again, also when this raises.

        Raises:
            BackendError: something that cannot be captured was called.
        """

    @abstractmethod
    def launch(self, graph: Any) -> None:
        """Do a graph's work, in the order of the stream."""

    @abstractmethod
    def destroy_graph(self, graph: Any) -> None:
        """Give a graph back that is not being launched."""

    @abstractmethod
    def memory_bytes(self) -> tuple[int, int]:
        """Free and total bytes of the device."""

    def close(self) -> None:
        """Free everything that was not given back, whatever fails; it may be used again."""
        with ExitStack() as closing:
            closing.callback(self.close_impl)
            closing.callback(self.memory.close)

    @abstractmethod
    def close_impl(self) -> None:
        """Destroy the stream and what belongs to it."""
