"""Noise sources by name, as a request names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fam_runtime.errors import InvalidRequest
from fam_runtime.noise.base import NoiseSource
from fam_runtime.noise.torch_cpu import TorchCpuNoise
from fam_runtime.noise.torch_cuda import TorchCudaNoise

DEFAULT_NOISE_SOURCE = "torch-cpu"

NOISE_SOURCES: Mapping[str, Callable[[int], NoiseSource]] = MappingProxyType(
    {"torch-cpu": TorchCpuNoise, "torch-cuda": TorchCudaNoise}
)


def noise_source(name: str = DEFAULT_NOISE_SOURCE, seed: int = 0) -> NoiseSource:
    """Return a fresh stream of the source called `name`, seeded with `seed`.

    Raises:
        InvalidRequest: `name` is unknown, or `seed` is no integer or out of range.
    """
    source = NOISE_SOURCES.get(name)
    if source is None:
        raise InvalidRequest(
            "unknown noise source",
            got=name,
            expected=" or ".join(NOISE_SOURCES),
            fix=f"use {DEFAULT_NOISE_SOURCE}, the default",
        )
    return source(seed)
