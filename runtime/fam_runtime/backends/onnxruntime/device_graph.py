"""A session as a device graph: inputs and outputs are bound to memory that others own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.onnxruntime.loader import error_from_onnxruntime, new_run_options
from fam_runtime.device.graph import DeviceGraph

if TYPE_CHECKING:
    import onnxruntime

    from fam_runtime.bundle import GraphSpec
    from fam_runtime.device.tensor import DeviceTensor

ONNX_ELEMENT_TYPES: Mapping[str, int] = {
    "float32": 1,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "bfloat16": 16,
}
"""TensorProto.DataType by the manifest's names; NumPy has no name for the last."""


class OnnxruntimeDeviceGraph(DeviceGraph):
    """Runs a session on addresses.

    Its work is not captured. A session captures itself (``enable_cuda_graph``) for one set of
    addresses, and here they change with every step; and capturing from outside needs a session that
    neither allocates nor waits while it runs, which ONNX Runtime does not promise.

    Args:
        graph: name of the graph's file, for messages.
        spec: its inputs and outputs.
        session: the loaded session, which computes on the stream that the memory is ordered by.
        device: where the addresses are, as ONNX Runtime calls it.
        device_index: which of these devices.
    """

    def __init__(
        self,
        graph: str,
        spec: GraphSpec,
        session: onnxruntime.InferenceSession,
        device: str = "cuda",
        device_index: int = 0,
    ) -> None:
        self._graph, self._spec, self._session = graph, spec, session
        self._device, self._device_index = device, device_index
        self._run_options: Any = new_run_options()
        # The stream orders what follows; without this, every run ends with a wait for the GPU.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    @property
    def capturable(self) -> bool:
        """Never; see the class."""
        return False

    def enqueue(self, values: Mapping[str, DeviceTensor]) -> None:
        """Put one run on the session's stream; see :meth:`DeviceGraph.enqueue`."""
        session: Any = self._session
        binding = session.io_binding()
        try:
            for spec in self._spec.inputs:
                binding.bind_input(spec.name, *self._bound(values[spec.name]))
            for spec in self._spec.outputs:
                if spec.name in values:
                    binding.bind_output(spec.name, *self._bound(values[spec.name]))
            session.run_with_iobinding(binding, self._run_options)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            del session, binding  # a kept traceback must not outlive the stream with them
            raise error_from_onnxruntime(f"onnxruntime failed in {self._graph}", error) from error

    def required_outputs(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The wanted ones: what only others need is skipped."""
        return tuple(wanted)

    def close(self) -> None:
        """Drop the session, which frees its memory."""
        self._session = None

    def _bound(self, value: DeviceTensor) -> tuple[str, int, int, tuple[int, ...], int]:
        element_type = ONNX_ELEMENT_TYPES[value.dtype]
        return self._device, self._device_index, element_type, value.shape, value.address
