"""Engines built right after an export, for a GPU that may be elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fam_runtime.backends.tensorrt.architecture import choose_gpu
from fam_runtime.backends.tensorrt.cache import EngineCache
from fam_runtime.backends.tensorrt.engines import Engines, engines_of_targets
from fam_runtime.backends.tensorrt.library import LibraryName, import_library
from fam_runtime.backends.tensorrt.progress import EngineProgress
from fam_runtime.backends.tensorrt.settings import BuildSettings
from fam_runtime.bundle import Bundle, PixelSize
from fam_runtime.errors import BackendError


@dataclass(frozen=True)
class EngineOptions:
    """Which engines to build.

    Attributes:
        backend: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        architecture: ``"sm89"``; None: the GPU that is there.
        settings: how.
        cache_dir: where they are kept; None: the user's cache folder.
        check_resources: refuse builds that memory or disk seem too small for.
    """

    backend: LibraryName
    architecture: str | None = None
    settings: BuildSettings = field(default_factory=BuildSettings)
    cache_dir: Path | None = None
    check_resources: bool = True


@dataclass(frozen=True)
class BuiltEngine:
    """One engine.

    Attributes:
        graph: the file of its graph.
        file: the plan.
        bytes: its size.
        seconds: that building it took, now or in an earlier run.
    """

    graph: str
    file: Path
    bytes: int
    seconds: float


def prepare_engines(options: EngineOptions, progress: EngineProgress) -> Engines:
    """The builder of engines; called before an export, so that nothing is missing after it.

    Raises:
        InvalidRequest: there is no such architecture.
        BackendError: the library is missing, or cannot build for the GPU; or the cache is not safe.
        StorageError: the cache cannot be written.
    """
    library = import_library(options.backend)
    gpu = choose_gpu(library, options.architecture, present_gpu())
    cache = EngineCache(options.cache_dir)
    cache.store.check()
    return Engines(library, gpu, options.settings, cache, progress, options.check_resources)


def build_engines(
    engines: Engines, bundle: Path, sizes: Sequence[PixelSize]
) -> tuple[BuiltEngine, ...]:
    """Every engine that pictures of `sizes` need, built or found in the cache.

    Raises:
        BackendError: one cannot be built.
        StorageError: one cannot be kept.
        Cancelled: the user stopped it; the engines before are kept.
    """
    opened = Bundle.open(bundle, verify="size")  # it was written or verified a moment ago
    targets = [target for target in opened.manifest.targets if target.size in sizes]
    built = []
    for wanted in engines_of_targets(opened, targets, engines.settings):
        plan = engines.plan(opened, wanted)
        file = engines.cache.store.root / plan.name
        built.append(BuiltEngine(wanted.graph, file, len(plan.data), plan.seconds))
    return tuple(built)


def present_gpu() -> tuple[tuple[int, int], str] | None:
    """Compute capability and name of the GPU that is current, if there is one."""
    from fam_runtime.device.cuda_api import open_cuda

    try:
        device = open_cuda()
    except BackendError:
        return None
    with device:
        return device.compute_capability, device.device_name
