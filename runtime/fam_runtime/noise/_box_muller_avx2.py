"""torch's vectorised Box-Muller transform for CPUs, bit for bit.

torch fills a float32 tensor in blocks of 16: from 16 uniforms `u` in [0, 1), with i in 0..7,

    radius = sqrt(-2 log(1 - u[i])),  theta = 2 pi u[i + 8],
    n[i] = radius cos(theta),  n[i + 8] = radius sin(theta)

with the Cephes approximations of log, sin and cos in float32 on AVX2 (ATen's `avx_mathfun.h`).
GCC contracts a product and the sum that follows into one FMA instruction. Where a sum has two
products as operands there are two ways to contract it; the two places below were settled by
comparing 2^19 values with torch 2.13: the other choice differs in about one value in 5000.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fam_runtime.noise._fused import fused_multiply_add
from fam_runtime.noise.base import Float32Array

_ZERO, _HALF, _ONE, _MINUS_TWO = (np.float32(v) for v in (0.0, 0.5, 1.0, -2.0))

# Cephes logf: polynomial for |x| < sqrt(2) - 1, log(2) in two parts.
_SQRT_HALF = np.float32(0.707106781186547524)
_LOG_POLYNOMIAL = tuple(
    np.float32(v)
    for v in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
_LOG2_LOW, _LOG2_HIGH = np.float32(-2.12194440e-4), np.float32(0.693359375)

# Cephes sinf, cosf: pi / 4 in three parts, polynomials on [-pi / 4, pi / 4].
_TWO_PI, _FOUR_OVER_PI = np.float32(2 * np.pi), np.float32(1.27323954473516)
_MINUS_QUARTER_PI_PARTS = tuple(
    np.float32(v) for v in (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)
)
_SIN_POLYNOMIAL = tuple(
    np.float32(v) for v in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
)
_COS_POLYNOMIAL = tuple(
    np.float32(v) for v in (2.443315711809948e-005, -1.388731625493765e-003, 4.166664568298827e-002)
)

# Blocks worked on at once; 1024 * 8 float64 temporaries stay in a 1 MB second-level cache.
_CHUNK_BLOCKS = 1024


def normal_from_uniform_blocks(uniform: Float32Array) -> Float32Array:
    """Return N(0, 1) values from uniforms in [0, 1): float32 [16 n] to a new float32 [16 n]."""
    blocks = uniform.reshape(-1, 16)
    normal = np.empty_like(blocks)
    for start in range(0, len(blocks), _CHUNK_BLOCKS):
        chunk = slice(start, start + _CHUNK_BLOCKS)
        radius = np.sqrt(_MINUS_TWO * _log(_ONE - blocks[chunk, :8]))
        sine, cosine = _sine_and_cosine(_TWO_PI * blocks[chunk, 8:])
        # `+ 0` is torch's "times 1 plus mean 0": it turns -0 into 0.
        normal[chunk, :8] = radius * cosine + _ZERO
        normal[chunk, 8:] = radius * sine + _ZERO
    return normal.reshape(-1)


def _horner(polynomial: tuple[np.float32, ...], x: Float32Array) -> Float32Array:
    """Evaluate `polynomial` (highest power first) at `x`, one FMA per coefficient."""
    value = fused_multiply_add(x, polynomial[0], polynomial[1])
    for coefficient in polynomial[2:]:
        value = fused_multiply_add(value, x, coefficient)
    return value


def _log(x: Float32Array) -> Float32Array:
    """Return the natural logarithm of `x` in (0, 1], normal float32."""
    bits: npt.NDArray[np.int32] = np.ascontiguousarray(x).view(np.int32)
    exponent = ((bits >> 23) - 0x7E).astype(np.float32)
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).view(np.float32)  # in [0.5, 1)
    small = mantissa < _SQRT_HALF
    exponent -= small.astype(np.float32)
    x = (mantissa - _ONE) + np.where(small, mantissa, _ZERO)
    square = x * x
    y = _horner(_LOG_POLYNOMIAL, x) * x
    # (1) fma(y, square, exponent * low) or (2) fma(exponent, low, y * square). We do (1).
    y = fused_multiply_add(y, square, exponent * _LOG2_LOW)
    y = fused_multiply_add(square, -_HALF, y)
    return fused_multiply_add(exponent, _LOG2_HIGH, x + y)


def _sine_and_cosine(theta: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return sin and cos of `theta` in [0, 2 pi]."""
    octant = (theta * _FOUR_OVER_PI).astype(np.int32)
    octant = (octant + 1) & ~1  # even: 0, 2, 4, 6, 8
    quarters = octant.astype(np.float32)
    x = theta
    for part in _MINUS_QUARTER_PI_PARTS:
        x = fused_multiply_add(quarters, part, x)
    square = x * x

    cosine = _horner(_COS_POLYNOMIAL, square) * square
    # (1) fma(cosine, square, -square / 2) or (2) fma(square, -1/2, cosine * square). We do (1).
    cosine = fused_multiply_add(cosine, square, square * -_HALF) + _ONE
    sine = _horner(_SIN_POLYNOMIAL, square) * square
    sine = fused_multiply_add(sine, x, x)

    swap = (octant & 2) != 0
    sine_sign = np.where((octant & 4) != 0, -_ONE, _ONE)
    cosine_sign = np.where(((octant - 2) & 4) == 0, -_ONE, _ONE)
    return (
        np.where(swap, cosine, sine) * sine_sign,
        np.where(swap, sine, cosine) * cosine_sign,
    )
