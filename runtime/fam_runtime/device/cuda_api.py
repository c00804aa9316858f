"""A GPU through NVIDIA's own Python package, cuda-python (``cuda.bindings.runtime``)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fam_runtime.device.api import DeviceApi
from fam_runtime.device.staging import PinnedStaging
from fam_runtime.errors import BackendError, OutOfMemory

if TYPE_CHECKING:
    from fam_runtime.backends.base import Array

_MEBIBYTE = 1 << 20
_INSTALL = 'pip install "fam-diffusion[tensorrt]" (or [tensorrt-rtx], [cuda])'


def import_cuda() -> Any:
    """The module ``cuda.bindings.runtime``.

    Raises:
        BackendError: the package is missing.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(
            "a GPU backend needs the cuda-python package",
            got=f"{type(error).__name__}: {error}",
            expected="cuda.bindings.runtime",
            fix=_INSTALL,
        ) from error
    return runtime


def open_cuda() -> CudaApi:
    """The CUDA device that is current.

    Raises:
        BackendError: the package, the driver or the GPU is missing.
    """
    return CudaApi(import_cuda())


def use_device(index: int, runtime: Any = None) -> None:
    """Make device `index` the current one of this thread, which backends then take.

    Args:
        index: as CUDA counts.
        runtime: the module ``cuda.bindings.runtime``; None imports it.

    Raises:
        BackendError: the package, the driver or that GPU is missing.
    """
    cuda = import_cuda() if runtime is None else runtime
    status = cuda.cudaSetDevice(index)[0]
    if status != cuda.cudaError_t.cudaSuccess:
        raise BackendError(
            f"GPU {index} cannot be used",
            got=cuda.cudaGetErrorString(status)[1].decode(),
            expected="one of the devices that nvidia-smi lists",
            fix="choose another GPU",
        )


class CudaApi(DeviceApi):
    """One CUDA device.

    Memory is from ``cudaMalloc``: the pool above it asks rarely, and unlike the driver's own pools
    it is there on every system. A capture is of this thread's calls alone, so that other threads
    may do as they like meanwhile.

    Args:
        runtime: the module ``cuda.bindings.runtime``.

    Raises:
        BackendError: there is no driver, or no GPU.
    """

    def __init__(self, runtime: Any) -> None:
        super().__init__()
        self._cuda = runtime
        self.device_index = self._current_device()
        attributes = runtime.cudaDeviceAttr
        self.device_name = self._name()
        self.compute_capability = (
            self._attribute(attributes.cudaDevAttrComputeCapabilityMajor),
            self._attribute(attributes.cudaDevAttrComputeCapabilityMinor),
        )
        self._stream: Any = None
        self._staging: PinnedStaging | None = None
        self._events: set[Any] = set()
        self._graphs: set[Any] = set()

    @property
    def stream(self) -> int:
        """Handle of the stream; see :attr:`DeviceApi.stream`."""
        return int(self._handle)

    def allocate(self, nbytes: int) -> int:
        """Device memory; see :meth:`DeviceApi.allocate`."""
        result = self._cuda.cudaMalloc(nbytes)
        if result[0] == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            self._cuda.cudaGetLastError()  # it would be reported again by a later call
            free, total = self.memory_bytes()
            raise OutOfMemory(
                f"{self.device_name} has not enough memory left",
                got=f"{-(-nbytes // _MEBIBYTE)} MiB were asked for",
                expected=f"at most {free // _MEBIBYTE} MiB, of {total // _MEBIBYTE}",
                fix="low_memory=True, native_attention='replay', fewer pictures_per_batch, a "
                "smaller size or tile; or end other programs that use the GPU",
            )
        return int(self._checked("allocate memory", result))

    def free(self, address: int) -> None:
        """Give memory back; see :meth:`DeviceApi.free`."""
        with ExitStack() as freeing:  # also where waiting fails; last in, first out
            freeing.callback(lambda: self._destroy("memory", self._cuda.cudaFree, address))
            freeing.callback(self.synchronize)

    def copy_to_device(self, address: int, array: Array) -> None:
        """Write, by way of pinned memory; see :meth:`DeviceApi.copy_to_device`."""
        if self._staging is None:
            self._staging = PinnedStaging(self, self._allocate_pinned, self._copy_from_pinned)
        self._staging.upload(address, array)

    def copy_to_host(self, array: Array, address: int) -> None:
        """Read; see :meth:`DeviceApi.copy_to_host`."""
        # The driver stages this itself, and the caller waits in any case.
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)
        self.synchronize()

    def fill_zero(self, address: int, nbytes: int) -> None:
        """Write zeros; see :meth:`DeviceApi.fill_zero`."""
        result = self._cuda.cudaMemsetAsync(address, 0, nbytes, self._handle)
        self._checked("fill memory", result)

    def synchronize(self) -> None:
        """Wait; see :meth:`DeviceApi.synchronize`."""
        if self._stream is not None:
            result = self._cuda.cudaStreamSynchronize(self._stream)
            self._checked("finish its work", result)

    def record_event(self) -> Any:
        """Mark this point of the stream."""
        event = self._checked("make an event", self._cuda.cudaEventCreate())
        self._events.add(event)
        self._checked("record an event", self._cuda.cudaEventRecord(event, self._handle))
        return event

    def wait_for_event(self, event: Any) -> None:
        """Make the host wait; see :meth:`DeviceApi.wait_for_event`."""
        self._checked("finish its work", self._cuda.cudaEventSynchronize(event))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have passed."""
        return float(self._checked("tell the time", self._cuda.cudaEventElapsedTime(start, end)))

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""
        self._checked("free an event", self._cuda.cudaEventDestroy(event))
        self._events.discard(event)

    def begin_capture(self) -> None:
        """Note down; see :meth:`DeviceApi.begin_capture`."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        result = self._cuda.cudaStreamBeginCapture(self._handle, mode)
        self._checked("begin to capture", result)

    def end_capture(self) -> Any:
        """The graph; see :meth:`DeviceApi.end_capture`."""
        captured = self._checked("capture its work", self._cuda.cudaStreamEndCapture(self._handle))
        try:
            result = self._cuda.cudaGraphInstantiate(captured, 0)
            graph = self._checked("make a graph of captured work", result)
        finally:
            self._checked("free a graph", self._cuda.cudaGraphDestroy(captured))
        self._graphs.add(graph)
        return graph

    def launch(self, graph: Any) -> None:
        """Do a graph's work; see :meth:`DeviceApi.launch`."""
        self._checked("launch a graph", self._cuda.cudaGraphLaunch(graph, self._handle))

    def destroy_graph(self, graph: Any) -> None:
        """Give a graph back."""
        self._checked("free a graph", self._cuda.cudaGraphExecDestroy(graph))
        self._graphs.discard(graph)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        free, total = self._checked("tell its memory", self._cuda.cudaMemGetInfo())
        return int(free), int(total)

    def activate(self) -> None:
        """Make the device current in this thread; see :meth:`DeviceApi.activate`."""
        self._checked("be used", self._cuda.cudaSetDevice(self.device_index))

    def close_impl(self) -> None:
        """Destroy graphs, events, pinned memory and the stream, whatever one of them raises."""
        with ExitStack() as closing:  # last in, first out
            stream, self._stream = self._stream, None
            if stream is not None:
                closing.callback(self._destroy, "stream", self._cuda.cudaStreamDestroy, stream)
            staging, self._staging = self._staging, None
            if staging is not None:
                closing.callback(
                    self._destroy, "pinned memory", self._cuda.cudaFreeHost, staging.address
                )
            closing.callback(self._destroy_handles)
            if staging is not None:
                closing.callback(staging.wait)

    def _destroy_handles(self) -> None:
        with ExitStack() as closing:
            while self._events:
                event = self._events.pop()
                closing.callback(self._destroy, "event", self._cuda.cudaEventDestroy, event)
            while self._graphs:
                graph = self._graphs.pop()
                closing.callback(self._destroy, "graph", self._cuda.cudaGraphExecDestroy, graph)

    def _destroy(self, what: str, call: Any, handle: Any) -> None:
        self._checked(f"free its {what}", call(handle))

    @property
    def _handle(self) -> Any:
        if self._stream is None:
            result = self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking)
            self._stream = self._checked("make a stream", result)
        return self._stream

    def _copy(self, destination: int, source: int, nbytes: int, kind: Any) -> None:
        if nbytes:
            result = self._cuda.cudaMemcpyAsync(destination, source, nbytes, kind, self._handle)
            self._checked("copy", result)

    def _copy_from_pinned(self, address: int, pinned: int, nbytes: int) -> None:
        self._copy(address, pinned, nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def _allocate_pinned(self, nbytes: int) -> int:
        return int(self._checked("take pinned memory", self._cuda.cudaMallocHost(nbytes)))

    def _current_device(self) -> int:
        """The device that is current, made ready.

        Raises:
            BackendError: there is no driver, or no GPU.
        """
        count = self._cuda.cudaGetDeviceCount()
        if count[0] != self._cuda.cudaError_t.cudaSuccess or not count[1]:
            raise BackendError(
                "there is no GPU that CUDA can use",
                got=f"{count[1] or 0} devices: {self._text(count[0])}",
                expected="an NVIDIA GPU and its driver (nvidia-smi shows both)",
                fix="install or update the driver; with a driver for CUDA 12, pip install "
                "'cuda-bindings<13'; or use the onnxruntime backend on the CPU",
            )
        device = int(self._checked("be found", self._cuda.cudaGetDevice()))
        self._checked("be used", self._cuda.cudaSetDevice(device))
        return device

    def _name(self) -> str:
        result = self._cuda.cudaGetDeviceProperties(self.device_index)
        name: bytes = self._checked("be described", result).name
        return name.split(b"\0")[0].decode("utf-8", "replace")

    def _attribute(self, attribute: Any) -> int:
        result = self._cuda.cudaDeviceGetAttribute(attribute, self.device_index)
        return int(self._checked("be described", result))

    def _checked(self, what: str, result: tuple[Any, ...]) -> Any:
        """The values behind a call's status: none, one, or a tuple of them.

        Raises:
            BackendError: the call failed, or an earlier one that nobody waited for.
        """
        status, *values = result
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise BackendError(
                f"the GPU could not {what}",
                got=self._text(status),
                expected="cudaSuccess",
                fix="start a new process: CUDA may repeat an error until then; if it stays, try a "
                "smaller size, and see nvidia-smi",
            )
        return values[0] if len(values) == 1 else tuple(values)

    def _text(self, status: Any) -> str:
        name, text = (
            ask(status)[1] for ask in (self._cuda.cudaGetErrorName, self._cuda.cudaGetErrorString)
        )
        return f"{name.decode()}: {text.decode()}"
