"""Logarithms and powers of float64 arrays by the C library, one value at a time.

NumPy's own kernels for whole arrays give other last bits, and others on each kind of processor; the
C++ runtime (runtime/cpp) computes the same plans bit for bit with the C library's `log` and `pow`.
For the same reason this package writes squares as `x * x`: `pow(x, 2)` rounds otherwise now and
then, and compilers replace it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def logarithms(values: Float64Array) -> Float64Array:
    """Return the natural logarithms of `values`, float64 [n], all above 0."""
    return np.array([math.log(value) for value in values.tolist()], dtype=np.float64)


def powers(values: Float64Array, exponent: float) -> Float64Array:
    """Return `values`, float64 [n], all above 0, to the power of `exponent`."""
    return np.array([math.pow(value, exponent) for value in values.tolist()], dtype=np.float64)
