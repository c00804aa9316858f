"""A device of host memory: it refuses what a GPU would corrupt silently, and records every call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fam_runtime.backends.onnxruntime.device_graph import OnnxruntimeDeviceGraph
from fam_runtime.backends.onnxruntime.loader import SessionFromOnnx, SessionSettings
from fam_runtime.bundle import Bundle
from fam_runtime.device.api import DeviceApi
from fam_runtime.device.backend import DeviceBackend
from fam_runtime.device.runner import DeviceRunner
from fam_runtime.device.tensor import DeviceTensor
from fam_runtime.errors import BackendError

ALIGNMENT = 256
GIBIBYTE = 1 << 30


@dataclass
class Call:
    """One call of the device API, or one run of a graph.

    Attributes:
        name: the API's, or ``"run"``.
        graph: file of the graph that runs.
        values: what it is bound to.
        address: where the call writes.
        captured: it was noted down, or is done by a launch.
    """

    name: str
    graph: str = ""
    values: Mapping[str, DeviceTensor] = field(default_factory=dict)
    address: int = 0
    captured: bool = False


class FakeDeviceApi(DeviceApi):
    """Does everything at once, in the order of the calls; new memory is full of NaN.

    Args:
        total_bytes: of the device.
    """

    def __init__(self, total_bytes: int = GIBIBYTE) -> None:
        super().__init__()
        self.device_index, self.device_name = 0, "a device that is none"
        self.compute_capability = (9, 0)
        self.total_bytes = total_bytes
        self.calls: list[Call] = []
        self.allocations: dict[int, np.ndarray] = {}  # address to storage
        self.sizes: dict[int, int] = {}
        self.events: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.refuse_capture = False
        self.waited: list[int] = []
        self.closed = 0
        self.current_in = {threading.get_ident()}  # as CUDA has it when it is opened
        self._handles = iter(range(1, 1 << 40))

    # -- what a test asks -------------------------------------------------------------------------

    def named(self, *names: str) -> list[Call]:
        return [call for call in self.calls if call.name in names]

    def runs(self, graph: str = "") -> list[Call]:
        """Runs that were done, not those that were noted down."""
        return [c for c in self.named("run") if graph in c.graph]

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """The bytes at `address`, which must lie in one allocation."""
        for start, size in self.sizes.items():
            if start <= address and address + nbytes <= start + size:
                offset = address - self.allocations[start].ctypes.data
                return self.allocations[start][offset : offset + nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} belong to no allocation")

    def read(self, value: DeviceTensor) -> np.ndarray:
        return self.view(value.address, value.nbytes).view(value.dtype).reshape(value.shape)

    def assert_empty(self) -> None:
        assert not self.sizes, "memory is leaked"
        assert not self.events, "events are leaked"
        assert not self.graphs, "graphs are leaked"

    # -- DeviceApi --------------------------------------------------------------------------------

    @property
    def stream(self) -> int:
        return 7

    def activate(self) -> None:
        self.current_in.add(threading.get_ident())

    def allocate(self, nbytes: int) -> int:
        assert threading.get_ident() in self.current_in, "another device may be current"
        self._refuse_while_capturing("allocate")
        if nbytes <= 0 or nbytes > self.memory_bytes()[0]:
            raise BackendError("out of memory", got=nbytes)
        storage = np.full(nbytes + ALIGNMENT, 0xFF, np.uint8)
        address = -(-storage.ctypes.data // ALIGNMENT) * ALIGNMENT
        self.allocations[address], self.sizes[address] = storage, nbytes
        self.calls.append(Call("allocate", address=address))
        return address

    def free(self, address: int) -> None:
        self._refuse_while_capturing("free")
        self.allocations.pop(address)[:] = 0xFF
        del self.sizes[address]
        self.calls.append(Call("free", address=address))

    def copy_to_device(self, address: int, array: np.ndarray) -> None:
        self._refuse_while_capturing("copy_to_device")
        assert array.flags.c_contiguous
        self.view(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)
        self.calls.append(Call("copy_to_device", address=address))

    def copy_to_host(self, array: np.ndarray, address: int) -> None:
        self._refuse_while_capturing("copy_to_host")
        assert array.flags.c_contiguous
        array.reshape(-1).view(np.uint8)[:] = self.view(address, array.nbytes)
        self.calls.append(Call("copy_to_host"))

    def fill_zero(self, address: int, nbytes: int) -> None:
        def fill() -> None:
            self.view(address, nbytes)[:] = 0

        self.submit(Call("fill_zero", address=address), fill)

    def synchronize(self) -> None:
        self._refuse_while_capturing("synchronize")
        self.calls.append(Call("synchronize"))

    def record_event(self) -> int:
        event = next(self._handles)
        self.events.add(event)
        self.calls.append(Call("record_event", address=event))
        return event

    def wait_for_event(self, event: int) -> None:
        self._refuse_while_capturing("wait_for_event")
        assert event in self.events
        self.calls.append(Call("wait_for_event", address=event))

    def elapsed_ms(self, start: int, end: int) -> float:
        assert {start, end} <= self.events
        return float(end - start)

    def destroy_event(self, event: int) -> None:
        self.events.remove(event)

    def begin_capture(self) -> None:
        assert self.capturing is None
        self.capturing = []
        self.calls.append(Call("begin_capture"))

    def end_capture(self) -> int:
        captured, self.capturing = self.capturing, None
        assert captured is not None
        self.calls.append(Call("end_capture"))
        if self.refuse_capture:
            raise BackendError("the GPU could not capture its work")
        graph = next(self._handles)
        self.graphs[graph] = captured
        return graph

    def launch(self, graph: int) -> None:
        assert self.capturing is None
        self.calls.append(Call("launch", address=graph))
        for action in self.graphs[graph]:
            action()

    def destroy_graph(self, graph: int) -> None:
        del self.graphs[graph]
        self.calls.append(Call("destroy_graph", address=graph))

    def memory_bytes(self) -> tuple[int, int]:
        return self.total_bytes - sum(self.sizes.values()), self.total_bytes

    def close_impl(self) -> None:
        self.closed += 1
        for event in list(self.events):
            self.destroy_event(event)

    # -- work on the stream -----------------------------------------------------------------------

    def submit(self, call: Call, action: Callable[[], None]) -> None:
        """Do `action` now, or note it down; a launch does it with what is in memory then."""

        assert threading.get_ident() in self.current_in, "another device may be current"

        def done() -> None:
            self.calls.append(call)
            action()

        if self.capturing is None:
            done()
        else:
            call.captured = True
            self.capturing.append(done)

    def _refuse_while_capturing(self, name: str) -> None:
        if self.capturing is not None:
            raise BackendError(f"{name} cannot be captured")


class OnnxGraph(OnnxruntimeDeviceGraph):
    """A graph in ONNX Runtime on the CPU, on the fake device's memory.

    Args:
        api: the device.
        bundle, graph: which graph.
        every_output: behave as a library that writes all outputs.
        capturable: behave as one whose work can be captured.
    """

    def __init__(
        self,
        api: FakeDeviceApi,
        bundle: Bundle,
        graph: str,
        *,
        every_output: bool,
        capturable: bool,
    ) -> None:
        session = SessionFromOnnx(bundle.path(graph), SessionSettings())()
        super().__init__(graph, bundle.manifest.graphs[graph], session, "cpu")
        self._api, self._every_output, self._capturable = api, every_output, capturable
        self.closed = False

    @property
    def capturable(self) -> bool:
        return self._capturable

    def required_outputs(self, wanted: Sequence[str]) -> tuple[str, ...]:
        return tuple(o.name for o in self._spec.outputs) if self._every_output else tuple(wanted)

    def enqueue(self, values: Mapping[str, DeviceTensor]) -> None:
        inputs = {spec.name for spec in self._spec.inputs}
        outputs = {spec.name for spec in self._spec.outputs}
        required = self.required_outputs(tuple(outputs & set(values)))
        assert set(values) == inputs | set(required), "not exactly what is needed is bound"
        for value in values.values():
            assert value.address % ALIGNMENT == 0, "an address is not aligned"
        self._check_overlaps(values, outputs)
        # Without their owners: neither a record nor a captured graph keeps memory alive.
        bound = {n: DeviceTensor(v.address, v.shape, v.dtype) for n, v in values.items()}
        call = Call("run", self._graph, bound)
        self._api.submit(call, lambda: self._run(bound))

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        super().close()

    def _check_overlaps(self, values: Mapping[str, DeviceTensor], outputs: set[str]) -> None:
        spans = {name: range(v.address, v.address + v.nbytes) for name, v in values.items()}
        for name in outputs & set(values):
            for other, span in spans.items():
                apart = spans[name].stop <= span.start or span.stop <= spans[name].start
                assert other == name or apart, f"{name} is written over {other}"

    def _run(self, values: Mapping[str, DeviceTensor]) -> None:
        for value in values.values():
            self._api.view(value.address, value.nbytes)  # still allocated
        super().enqueue(values)


class FakeDeviceBackend(DeviceBackend):
    """A GPU backend without a GPU.

    Args:
        api: the device.
        every_output, capturable: see :class:`OnnxGraph`.
        capture_at_use: see :class:`DeviceBackend`; here at once.
    """

    name = "fake"

    def __init__(
        self,
        api: FakeDeviceApi | None = None,
        *,
        every_output: bool = True,
        capturable: bool = True,
        capture_at_use: int = 1,
    ) -> None:
        self.every_output_bound = every_output  # type: ignore[misc]
        super().__init__(FakeDeviceApi() if api is None else api, capture_at_use=capture_at_use)
        self._every_output, self._capturable = every_output, capturable

    def load(self, bundle: Bundle, graph: str) -> DeviceRunner:
        device_graph = OnnxGraph(
            self.api,
            bundle,
            graph,
            every_output=self._every_output,
            capturable=self._capturable,
        )
        return DeviceRunner(graph, bundle.manifest.graphs[graph], self.api, device_graph)

    def describe(self) -> dict[str, str]:
        return {"backend": self.name}
