"""Options of the runtime as parameters of a configuration (read by served/parameters.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fam_runtime.backends.registry import ENGINE_BACKENDS

if TYPE_CHECKING:
    from fam_runtime.triton.options import RepositoryOptions


def runtime_parameters(options: RepositoryOptions) -> dict[str, str]:
    """Which of the runtime's backends computes, and how; each backend gets options of its own."""
    parameters = {
        "backend": options.backend,
        "low_memory": str(options.low_memory).lower(),
        "pictures_per_batch": str(options.pictures_per_batch),
    }
    if options.backend in ENGINE_BACKENDS:
        return parameters
    parameters["provider"] = options.provider
    if options.threads is not None:
        parameters["threads"] = str(options.threads)
    return parameters


def engines_described(options: RepositoryOptions) -> str:
    """What runs the graphs where they are models of their own, for the settings of pictures."""
    if options.engine_platform == "onnxruntime":
        return f"onnxruntime {'cuda' if options.on_gpu else 'cpu'}"
    if options.backend in ENGINE_BACKENDS:
        return f"{options.engine_platform} {options.backend}"
    return f"{options.engine_platform} {options.backend} {options.provider}"
