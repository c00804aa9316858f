"""Fused multiply-add on float32 arrays, which NumPy does not have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fam_runtime.noise.base import Float32Array

# A float64 carries 29 bits more than a float32; these patterns of them mark a tie between two
# float32 neighbours.
_EXTRA_BITS = 0x1FFFFFFF
_TIE = 0x10000000


def fused_multiply_add(
    a: Float32Array, b: Float32Array | np.float32, c: Float32Array | np.float32
) -> Float32Array:
    """Return `a * b + c` rounded once to float32, as the FMA instruction does.

    `a`, `b`, `c`: float32, of one shape or scalar. Finite, and the result is zero or of a
    magnitude of at least 2^-126 (float32 normal range); the callers stay inside.

    The product of two float32 has at most 48 bits, so it is exact in float64. The float64 sum is
    rounded to 53 bits, and rounding that again to 24 bits is wrong only if the first rounding
    produced a tie of the second. Those sums (one in 2^29) are moved off the tie by one bit in the
    direction of the rounding error of the sum, which Knuth's TwoSum gives exactly.
    """
    product: npt.NDArray[np.float64] = np.multiply(a, b, dtype=np.float64)
    total: npt.NDArray[np.float64] = np.add(product, c, dtype=np.float64)
    bits: npt.NDArray[np.int64] = total.view(np.int64)
    tie = (bits & _EXTRA_BITS) == _TIE
    if tie.any():
        _leave_tie(total, bits, tie, product, np.broadcast_to(c, total.shape).astype(np.float64))
    return total.astype(np.float32)


def _leave_tie(
    total: npt.NDArray[np.float64],
    bits: npt.NDArray[np.int64],
    tie: npt.NDArray[np.bool_],
    product: npt.NDArray[np.float64],
    addend: npt.NDArray[np.float64],
) -> None:
    """Move, in place, the sums under `tie` towards the exact value of product + addend."""
    s, p, q = total[tie], product[tie], addend[tie]
    q_virtual = s - p
    error = (p - (s - q_virtual)) + (q - q_virtual)
    away_from_zero = (error > 0) == (s > 0)
    step = np.where(error == 0, 0, np.where(away_from_zero, 1, -1))
    bits[tie] += step
