"""Seeded noise that reproduces torch's generators without torch."""

from fam_runtime.noise.base import NoiseSource
from fam_runtime.noise.factory import DEFAULT_NOISE_SOURCE, NOISE_SOURCES, noise_source
from fam_runtime.noise.torch_cpu import TorchCpuNoise
from fam_runtime.noise.torch_cuda import TorchCudaNoise

__all__ = [
    "DEFAULT_NOISE_SOURCE",
    "NOISE_SOURCES",
    "NoiseSource",
    "TorchCpuNoise",
    "TorchCudaNoise",
    "noise_source",
]
