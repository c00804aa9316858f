"""The tensorrt and tensorrt-rtx backends: engines from the cache, built where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fam_runtime.backends.tensorrt.architecture import choose_gpu
from fam_runtime.backends.tensorrt.cache import EngineCache
from fam_runtime.backends.tensorrt.engine import Engine
from fam_runtime.backends.tensorrt.engines import (
    Engines,
    WantedEngine,
    ranges_of,
)
from fam_runtime.backends.tensorrt.graph import TensorrtGraph
from fam_runtime.backends.tensorrt.library import LibraryName, import_library
from fam_runtime.backends.tensorrt.progress import EngineBars, EngineProgress, NoEngineProgress
from fam_runtime.backends.tensorrt.scratch import Scratch
from fam_runtime.backends.tensorrt.settings import BuildSettings
from fam_runtime.device.api import DeviceApi
from fam_runtime.device.backend import DeviceBackend
from fam_runtime.device.captured import CAPTURE_AT_USE
from fam_runtime.device.runner import DeviceRunner

if TYPE_CHECKING:
    from fam_runtime.backends.base import Runner
    from fam_runtime.bundle import Bundle


class TensorrtBackend(DeviceBackend):
    """NVIDIA TensorRT 10.2 or newer.

    Args:
        settings: how engines are built that are not in the cache; None: as by default.
        cache_dir: where engines are kept; None: the user's cache folder.
        build_progress: True shows a bar per build on the standard error stream; or your own.
        cuda_graphs: capture the steps of a stage that comes again, and replay them without work for
            the host.
        check_resources: refuse builds that memory or disk seem too small for.
        api: the GPU; None: the CUDA device that is current.

    Raises:
        BackendError: the library is missing, or there is no GPU that it knows.
    """

    name = "tensorrt"
    library_name: ClassVar[LibraryName] = "tensorrt"

    def __init__(
        self,
        *,
        settings: BuildSettings | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        build_progress: bool | EngineProgress = True,
        cuda_graphs: bool = True,
        check_resources: bool = True,
        api: DeviceApi | None = None,
    ) -> None:
        library = import_library(self.library_name)
        if api is None:
            from fam_runtime.device.cuda_api import open_cuda

            api = open_cuda()
        super().__init__(api, capture_at_use=CAPTURE_AT_USE if cuda_graphs else 0)
        self._scratch = Scratch(api, self._forget_cuda_graphs)
        shown = EngineBars() if build_progress is True else build_progress or NoEngineProgress()
        self._engines = Engines(
            library,
            choose_gpu(library, None, (api.compute_capability, api.device_name)),
            BuildSettings() if settings is None else settings,
            EngineCache(None if cache_dir is None else Path(cache_dir)),
            shown,
            check_resources,
        )

    def load(self, bundle: Bundle, graph: str) -> Runner:
        """Load a graph; see :meth:`fam_runtime.backends.base.Backend.load`.

        It gets its engine when it is prepared for some sizes, or run at them.
        """
        spec = bundle.manifest.graphs[graph]

        def engine_for(sizes: Mapping[str, int]) -> Engine:
            return self._engine(bundle, graph, sizes)

        return DeviceRunner(graph, spec, self.api, TensorrtGraph(spec, self.api, engine_for))

    def describe(self) -> dict[str, str]:
        """Name, version, GPU, and what decides a picture's last bits."""
        engines = self._engines
        tf32 = {None: "by dtype", True: "on", False: "off"}[engines.settings.tf32]
        return {
            "backend": self.name,
            self.name: engines.library.version,
            "gpu": f"{self.api.device_name} ({engines.gpu.architecture})",
            "tf32": tf32,
        }

    def _forget_cuda_graphs(self) -> None:
        self.place.stage_loop().forget_graphs()

    def _engine(self, bundle: Bundle, graph: str, sizes: Mapping[str, int]) -> Engine:
        engines = self._engines
        ranges = ranges_of(graph, sizes, engines.settings)
        plan = engines.plan(bundle, WantedEngine(graph, ranges))
        onnx = bundle.path(graph) if engines.settings.strip_weights else None
        spec = bundle.manifest.graphs[graph]
        return Engine(
            engines.library, plan, graph, spec, ranges, onnx, engines.cache, self._scratch
        )


class TensorrtRtxBackend(TensorrtBackend):
    """NVIDIA TensorRT for RTX."""

    name = "tensorrt-rtx"
    library_name: ClassVar[LibraryName] = "tensorrt-rtx"
