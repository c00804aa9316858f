"""The backend of a contestant: one of the runtime's, or another library behind its interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fam_bench.latency.contestants import BY_NAME, COMPILED
from fam_bench.latency.libraries.slowed import SlowedBackend
from fam_bench.latency.units import WorkerJob

if TYPE_CHECKING:
    from fam_bench.engine_build import BuildClock
    from fam_runtime.backends.base import Backend
    from fam_runtime.bundle import Manifest


def open_contestant(job: WorkerJob, clock: BuildClock) -> Backend:
    """The backend of a contestant, whose builds `clock` measures.

    Raises:
        FamError: its library is missing, or there is no device for it.
        ImportError: a package is missing.
    """
    backend = _opened(job, clock)
    return backend if job.slowed == 1 else SlowedBackend(backend, job.slowed)


def _opened(job: WorkerJob, clock: BuildClock) -> Backend:
    contestant = BY_NAME[job.contestant]
    if contestant.way == "torch":
        from fam_bench.latency.libraries.torch_modules import TorchModules

        return TorchModules.open(job, compiled=job.contestant == COMPILED)
    if contestant.way == "openvino":
        from fam_bench.latency.libraries.openvino import OpenvinoBackend

        return OpenvinoBackend(num_threads=job.threads)
    from fam_runtime.backends import open_backend

    if contestant.backend != "onnxruntime":
        return open_backend(contestant.backend, cache_dir=job.cache, build_progress=clock)
    return open_backend(contestant.backend, provider=contestant.provider, num_threads=job.threads)


def uses_tf32(manifest: Manifest) -> bool:
    """Whether float32 products round their factors on a GPU: as the runtime's backends decide."""
    return manifest.model.dtype != "fp32"
