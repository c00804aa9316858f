"""The noise of torch's CPU generator, without torch."""

from __future__ import annotations

import math

import numpy as np

from fam_runtime.noise._box_muller_avx2 import normal_from_uniform_blocks
from fam_runtime.noise._mersenne import MersenneTwister
from fam_runtime.noise.base import Float32Array, element_count_from_shape, seed_bits_from_seed

_BLOCK = 16


class TorchCpuNoise:
    """`torch.randn(shape, generator=torch.Generator().manual_seed(seed))` in float32.

    Bit for bit what torch gives on an x86 CPU with AVX2, call after call (checked against torch
    2.13.0; with AVX-512 torch runs the same AVX2 kernel, checked too). On other CPUs torch itself
    takes another path (the C library's log, sin, cos) and differs from this, and from itself on
    x86, by a few 1e-6; this class gives the AVX2 values everywhere.

    - 16 values and more: uniforms of 24 bits, transformed in blocks of 16. If the size is no
      multiple of 16, 16 fresh uniforms are drawn and the last 16 values computed anew from them.
    - Fewer than 16 values: Box-Muller in float64, one value at a time; a pair gives two values,
      and the second one waits, also across calls, for the next request of fewer than 16 values.
      This path uses the C library's log1p, sin and cos, whose last bit may differ between
      systems: after rounding to float32 that shows about once in 10^8 values.
    """

    def __init__(self, seed: int) -> None:
        """Start the stream of `seed`, an int in [-2^63, 2^64 - 1]; torch uses its low 32 bits.

        Raises:
            InvalidRequest: `seed` is no integer or out of range.
        """
        self._engine = MersenneTwister(seed_bits_from_seed(seed))
        self._waiting: float | None = None

    def normal(self, shape: tuple[int, ...]) -> Float32Array:
        """Return the next N(0, 1) values, float32 of `shape`.

        Raises:
            InvalidRequest: `shape` has a negative dimension.
        """
        size = element_count_from_shape(shape)
        if size < _BLOCK:
            values = np.array([self._next_scalar() for _ in range(size)], dtype=np.float32)
        else:
            values = self._next_blocks(size)
        return values.reshape(shape)

    def _next_blocks(self, size: int) -> Float32Array:
        """Return `size` >= 16 values, float32 [size]."""
        uniform = self._engine.uniform32(size)
        whole = size - size % _BLOCK
        if whole == size:
            return normal_from_uniform_blocks(uniform)
        values = np.empty(size, dtype=np.float32)
        values[:whole] = normal_from_uniform_blocks(uniform[:whole])
        values[-_BLOCK:] = normal_from_uniform_blocks(self._engine.uniform32(_BLOCK))
        return values

    def _next_scalar(self) -> float:
        """Return one value: sqrt(-2 log(1 - u2)) times cos, then sin, of 2 pi u1."""
        if self._waiting is not None:
            value, self._waiting = self._waiting, None
            return value
        u1 = self._engine.uniform64()
        u2 = self._engine.uniform64()
        radius = math.sqrt(-2.0 * math.log1p(-u2))
        theta = 2.0 * math.pi * u1
        self._waiting = radius * math.sin(theta)
        return radius * math.cos(theta)
