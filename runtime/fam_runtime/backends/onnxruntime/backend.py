"""The onnxruntime backend: makes runners, and moves values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from fam_runtime.backends.base import Backend, GraphMemory, Runner
from fam_runtime.backends.onnxruntime.device_graph import OnnxruntimeDeviceGraph
from fam_runtime.backends.onnxruntime.loader import (
    Provider,
    SessionFromOnnx,
    SessionSettings,
    SharedWeights,
    checked_provider,
    import_onnxruntime,
)
from fam_runtime.backends.onnxruntime.memory import session_memory
from fam_runtime.backends.onnxruntime.runner import OnnxruntimeRunner
from fam_runtime.device.cuda_api import open_cuda
from fam_runtime.device.place import DevicePlace
from fam_runtime.device.runner import DeviceRunner
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle


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
        self._gpu: DevicePlace | None = None
        if provider == "cuda":
            self._gpu = self.place = DevicePlace(open_cuda, every_output_bound=False)
        # The runners own the weights: with the last one of a bundle its file is unmapped.
        self._weights: WeakValueDictionary[tuple[str, str], SharedWeights] = WeakValueDictionary()

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse bfloat16, for which the CPU provider has no kernels, and the CUDA one too few.

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
        if self._gpu is not None:
            return self._load_on_gpu(self._gpu, bundle, graph)
        weights = self._shared_weights(bundle, graph) if self.settings.low_memory else None
        spec, dtype = bundle.manifest.graphs[graph], bundle.manifest.dtype_of(graph)
        session = SessionFromOnnx(bundle.path(graph), self.settings, weights, dtype)()
        return OnnxruntimeRunner(graph, spec, session, weights)

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
        described = {
            "backend": self.name,
            "onnxruntime": self._runtime.__version__,
            "provider": self.settings.provider,
            "weights": "mapped" if self.settings.low_memory and self._gpu is None else "packed",
        }
        return described if self._gpu is None else {**described, "tf32": "by dtype"}

    def close(self) -> None:
        """Forget shared weights; the last runner that uses them unmaps them."""
        self._weights.clear()
        super().close()

    def _load_on_gpu(self, place: DevicePlace, bundle: Bundle, graph: str) -> Runner:
        """A session on the device's stream, on memory that the stage loop owns.

        Low memory is the pool's business there, which holds one stage at a time: mapped weights
        would save the host's memory only.
        """
        settings = replace(self.settings, low_memory=False)
        checked_provider(settings)
        api, spec = place.api, bundle.manifest.graphs[graph]
        options = {
            "device_id": str(api.device_index),
            "user_compute_stream": str(api.stream),
            # A session's arena never shrinks; doubling, it would hold much that nobody asked for.
            "arena_extend_strategy": "kSameAsRequested",
            # As in engines: fp32 means float32, and the fp32 parts of other bundles may be faster.
            "use_tf32": str(int(bundle.manifest.model.dtype != "fp32")),
        }
        session = SessionFromOnnx(bundle.path(graph), settings, provider_options=options)()
        device_graph = OnnxruntimeDeviceGraph(graph, spec, session, "cuda", api.device_index)
        return DeviceRunner(graph, spec, api, device_graph)

    def _shared_weights(self, bundle: Bundle, graph: str) -> SharedWeights | None:
        _, *names = bundle.files_of_graph(graph)
        if len(names) != 2:  # weights inside the graph, or none
            return None
        key = (bundle.hash, names[0])
        weights = self._weights.get(key)
        if weights is None:
            weights = SharedWeights(*(bundle.path(name) for name in names))
            self._weights[key] = weights
        return weights
