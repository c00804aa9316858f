"""Noise levels after Karras et al."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fam_runtime.schedulers._elementwise import powers

_RHO = 7.0


def karras_sigmas(sigma_max: float, sigma_min: float, count: int) -> npt.NDArray[np.float64]:
    """Return `count` noise levels from `sigma_max` down to `sigma_min`, float64 [count].

    `(max^(1/rho) + i / (count - 1) (min^(1/rho) - max^(1/rho)))^rho`, rho = 7
    (Karras et al., arXiv 2206.00364, Eq. 5).
    """
    start, end = math.pow(sigma_max, 1 / _RHO), math.pow(sigma_min, 1 / _RHO)
    return powers(start + np.linspace(0, 1, count) * (end - start), _RHO)
