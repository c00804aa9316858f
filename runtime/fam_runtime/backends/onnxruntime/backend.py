"""The onnxruntime backend: makes runners, and moves values."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from fam_runtime.backends.base import Array, Backend, GraphMemory, Runner, Value
from fam_runtime.backends.onnxruntime.loader import (
    Provider,
    SessionFromOnnx,
    SessionSettings,
    SharedWeights,
    import_onnxruntime,
)
from fam_runtime.backends.onnxruntime.memory import session_memory
from fam_runtime.backends.onnxruntime.runner import DeviceValue, OnnxruntimeRunner
from fam_runtime.errors import BackendError

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
        # The runners own the weights: with the last one of a bundle its file is unmapped.
        self._weights: WeakValueDictionary[tuple[str, str], SharedWeights] = WeakValueDictionary()

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse bfloat16: the CPU provider has no kernels for it, and NumPy has no such type.

        Raises:
            BackendError: the bundle is in bf16.
        """
        if bundle.manifest.model.dtype == "bf16":
            raise BackendError(
                "the onnxruntime backend cannot run a bundle in bf16",
                got=bundle.manifest.model.dtype,
                expected="fp16 or fp32",
                fix="export the checkpoint with --dtype fp16 or fp32, or use a TensorRT backend",
            )

    def load(self, bundle: Bundle, graph: str) -> Runner:
        """Load a graph; see :meth:`fam_runtime.backends.base.Backend.load`."""
        self.check_bundle(bundle)
        weights = self._shared_weights(bundle, graph) if self.settings.low_memory else None
        spec, dtype = bundle.manifest.graphs[graph], bundle.manifest.dtype_of(graph)
        session = SessionFromOnnx(bundle.path(graph), self.settings, weights, dtype)()
        return OnnxruntimeRunner(graph, spec, session, self.settings.provider, weights)

    def memory_of(self, bundle: Bundle, graph: str, *, low_memory: bool) -> GraphMemory:
        """What a session of `graph` takes; see :meth:`fam_runtime.backends.base.Backend.memory_of`.

        Raises:
            InvalidRequest: the graphs run on a GPU.
        """
        if self.settings.provider != "cpu":
            return super().memory_of(bundle, graph, low_memory=low_memory)
        return session_memory(bundle, graph, low_memory=low_memory)

    def use_low_memory(self, low_memory: bool) -> None:
        """Load graphs from now on with mapped weights, or with packed ones."""
        self.settings = replace(self.settings, low_memory=low_memory)

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
        """Forget shared weights; the last runner that uses them unmaps them."""
        self._weights.clear()

    def _shared_weights(self, bundle: Bundle, graph: str) -> SharedWeights | None:
        folder = posixpath.dirname(graph)
        names = [posixpath.join(folder, name) for name in (_WEIGHTS, _WEIGHTS_INDEX)]
        if any(name not in bundle.manifest.files for name in names):
            return None
        key = (bundle.hash, folder)
        weights = self._weights.get(key)
        if weights is None:
            weights = SharedWeights(*(bundle.path(name) for name in names))
            self._weights[key] = weights
        return weights
