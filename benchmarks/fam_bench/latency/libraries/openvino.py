"""OpenVINO behind the runtime's interface: its ONNX reader takes a bundle's graphs as they are.

It is a contestant only. On the CPUs it was measured on it is as fast as ONNX Runtime
(docs/performance.md), which is not enough for one more backend in the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fam_runtime.backends.base import Backend, Runner, Value, Values
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, GraphSpec

PRECISION = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""By the bundle's dtype: without it OpenVINO rounds to bfloat16 where a CPU multiplies that."""


class OpenvinoRunner(Runner):
    """A compiled model.

    Args:
        graph: name of its file.
        spec: its interface.
        compiled: by OpenVINO.
    """

    def __init__(self, graph: str, spec: GraphSpec, compiled: Any) -> None:
        super().__init__(graph, spec)
        self._request: Any = compiled.create_infer_request()

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Run the model; it computes all outputs, wanted or not."""
        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        try:
            computed = self._request.infer(arrays, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO failed in {self.graph}",
                got=str(error).splitlines()[0],
                expected="a successful run",
            ) from error
        return {name: computed[name] for name in outputs}

    def close_impl(self) -> None:
        """Free the model."""
        self._request = None


class OpenvinoBackend(Backend):
    """OpenVINO on the CPU.

    Args:
        num_threads: None: one per core.

    Raises:
        ImportError: it is not installed.
    """

    name = "openvino"

    def __init__(self, num_threads: int | None = None) -> None:
        import openvino

        self._openvino: Any = openvino
        self._core: Any = openvino.Core()
        self._num_threads = num_threads

    def load(self, bundle: Bundle, graph: str) -> Runner:
        """Read and compile a graph for the least latency.

        Raises:
            BackendError: OpenVINO refuses the graph.
        """
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": PRECISION[bundle.manifest.model.dtype],
        }
        if self._num_threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(self._num_threads)
        try:
            model = self._core.read_model(bundle.path(graph))
            compiled = self._core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO refuses {graph}",
                got=" ".join(str(error).split())[:300],
                expected="a graph that it can read",
            ) from error
        return OpenvinoRunner(graph, bundle.manifest.graphs[graph], compiled)

    def describe(self) -> dict[str, str]:
        """Name, version and device."""
        return {"backend": self.name, "openvino": self._openvino.__version__, "device": "cpu"}
