"""Building an engine: a network, a configuration, a plan."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.backends.tensorrt.messages import Messages
from fam_runtime.backends.tensorrt.monitor import (
    BuildProgress,
    OnProgress,
    progress_monitor,
    stop_on_interrupt,
)
from fam_runtime.backends.tensorrt.network import Network, network_from_onnx
from fam_runtime.backends.tensorrt.shapes import SymbolRanges
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build.

    Attributes:
        library: who builds.
        architecture: ``"sm89"``, for which GPU.
        graph: name of the graph's file in the bundle, for messages.
        path: where that file lies, verified.
        spec: what the manifest says about it.
        ranges: sizes of its symbols.
        flags: names of the builder's flags that are set; no others are.
        workspace_bytes, optimization_level: None: the library's own.
    """

    library: TensorrtLibrary
    architecture: str
    graph: str
    path: Path
    spec: GraphSpec
    ranges: SymbolRanges
    flags: tuple[str, ...]
    workspace_bytes: int | None = None
    optimization_level: int | None = None


@dataclass(frozen=True)
class BuiltPlan:
    """A serialized engine in memory.

    Attributes:
        data: the library's host memory; a buffer.
        seconds: that parsing and building took.
        timing_cache: to keep for the next build; empty where the library has none.
    """

    data: Any
    seconds: float
    timing_cache: bytes = b""


def build_plan(
    request: BuildRequest, *, timing_cache: bytes = b"", on_progress: OnProgress | None = None
) -> BuiltPlan:
    """Build one engine.

    Args:
        request: which.
        timing_cache: of earlier builds, if there is one.
        on_progress: told how far it is.

    Raises:
        BackendError: the library refuses the graph, or fails.
        Cancelled: Ctrl-C was pressed. It is heard at the builder's next step, which may take long.
    """
    begun = time.perf_counter()
    messages = Messages(request.library)
    what = f"building the engine of {request.graph}"
    with stop_on_interrupt() as stop:
        network = network_from_onnx(
            request.library, request.path, request.spec, request.ranges, messages
        )
        stop.raise_if_any(what)
        config = _configuration(request, network)
        cache = _set_timing_cache(request.library, config, timing_cache)
        monitor = progress_monitor(request.library, BuildProgress(on_progress), stop)
        config.progress_monitor = monitor
        plan = network.builder.build_serialized_network(network.definition, config)
    stop.raise_if_any(what)
    if plan is None:
        raise _build_error(request, messages)
    times = b"" if cache is None else bytes(cache.serialize())
    return BuiltPlan(plan, time.perf_counter() - begun, times)


def _configuration(request: BuildRequest, network: Network) -> Any:
    trt = request.library.module
    config = network.builder.create_builder_config()
    for flag in trt.BuilderFlag.__members__.values():
        config.clear_flag(flag)  # TF32 is set by default
    for name in request.flags:
        config.set_flag(_flag(request, name))
    if request.library.builds_ahead_of_time:
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, request.architecture.upper())
        if not config.set_compute_capability(capability, 0):
            raise BackendError(
                f"{request.library.title} refuses to build for this architecture",
                got=request.architecture,
                expected=" or ".join(request.library.architectures),
                fix="name another one by --gpu-arch",
            )
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    if network.dynamic:
        profile = network.builder.create_optimization_profile()
        for name, shapes in network.shapes.items():
            if not shapes.static:
                profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    return config


def _flag(request: BuildRequest, name: str) -> Any:
    flag = getattr(request.library.module.BuilderFlag, name, None)
    if flag is None:
        raise BackendError(
            f"{request.library.title} {request.library.version} has no builder flag {name}",
            expected=", ".join(request.library.module.BuilderFlag.__members__),
            fix="use another version of the library, or leave the option out",
        )
    return flag


def _set_timing_cache(library: TensorrtLibrary, config: Any, data: bytes) -> Any:
    """The timing cache that the build fills; None where the library has none."""
    if not library.has_timing_cache:
        return None
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")  # the other is of another version or GPU
        config.set_timing_cache(cache, False)
    return cache


def _build_error(request: BuildRequest, messages: Messages) -> BackendError:
    reason = messages.last()
    fix = "try another version of the library; the onnxruntime backend runs every bundle"
    if "STRIP_PLAN" in request.flags and "CUDA_SUCCESS" in reason:
        fix = (
            "leave --strip-weights out, or build where there is a GPU: without one, "
            f"{request.library.title} fails at every weight-stripped plan that we tried"
        )
    elif "memory" in reason.lower():
        fix = "set --workspace lower, free memory, or choose a smaller target"
    return BackendError(
        f"{request.library.title} could not build the engine of {request.graph}",
        got=reason,
        expected="a plan",
        fix=fix,
    )
