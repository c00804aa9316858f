"""The onnxruntime backend: makes runners, and moves values."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

import numpy as np

from fam_runtime.backends.base import Array, Backend, Runner, Value
from fam_runtime.backends.onnxruntime.loader import (
    Provider,
    SessionFromOnnx,
    SessionSettings,
    SharedWeights,
    import_onnxruntime,
)
from fam_runtime.backends.onnxruntime.runner import DeviceValue, OnnxruntimeRunner

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle

_WEIGHTS, _WEIGHTS_INDEX = "weights.bin", "weights.json"


class OnnxruntimeBackend(Backend):
    """ONNX Runtime on the CPU, or on a GPU by its CUDA provider.

    Args:
        provider: ``"cpu"`` or ``"cuda"``.
        num_threads: threads of an operator; None is one per core.
        low_memory: see :class:`SessionSettings`.

    Raises:
        BackendError: onnxruntime is not installed.
        InvalidRequest: an option cannot be.
    """

    name = "onnxruntime"

    def __init__(
        self,
        *,
        provider: Provider = "cpu",
        num_threads: int | None = None,
        low_memory: bool = False,
    ) -> None:
        self.settings = SessionSettings(provider, num_threads, low_memory)
        self._runtime = import_onnxruntime()
        self._weights: dict[tuple[str, str], SharedWeights] = {}

    def load(self, bundle: Bundle, graph: str) -> Runner:
        """Load a graph; see :meth:`fam_runtime.backends.base.Backend.load`."""
        weights = self._shared_weights(bundle, graph) if self.settings.low_memory else None
        session = SessionFromOnnx(bundle.path(graph), self.settings, weights)()
        spec = bundle.manifest.graphs[graph]
        return OnnxruntimeRunner(graph, spec, session, self.settings.provider)

    def describe(self) -> dict[str, str]:
        """Name, version, provider, and whether weights are packed, which decides the last bits."""
        return {
            "backend": self.name,
            "onnxruntime": self._runtime.__version__,
            "provider": self.settings.provider,
            "weights": "mapped" if self.settings.low_memory else "packed",
        }

    def upload(self, array: Array) -> Value:
        """The array itself on the CPU, a copy on a GPU."""
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        if self.settings.provider == "cpu":
            return contiguous
        memory: Any = self._runtime.OrtValue.ortvalue_from_numpy(contiguous, "cuda", 0)
        return DeviceValue(memory, contiguous.dtype)

    def download(self, value: Value) -> Array:
        """The array itself on the CPU, a copy from a GPU."""
        if isinstance(value, DeviceValue):
            array: Array = value.memory.numpy()
            return array
        return np.asarray(value)

    def close(self) -> None:
        """Unmap shared weights."""
        self._weights.clear()

    def _shared_weights(self, bundle: Bundle, graph: str) -> SharedWeights | None:
        folder = posixpath.dirname(graph)
        names = [posixpath.join(folder, name) for name in (_WEIGHTS, _WEIGHTS_INDEX)]
        if any(name not in bundle.manifest.files for name in names):
            return None
        key = (bundle.hash, folder)
        if key not in self._weights:
            self._weights[key] = SharedWeights(*(bundle.path(name) for name in names))
        return self._weights[key]
