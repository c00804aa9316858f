"""What every noise source offers: one stream of standard normal values."""

from __future__ import annotations

import operator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fam_runtime.errors import InvalidRequest

Float32Array = npt.NDArray[np.float32]

_SEED_MIN = -(2**63)
_SEED_MAX = 2**64 - 1


class NoiseSource(Protocol):
    """A seeded stream of N(0, 1) values; a source is named after what it reproduces.

    The stream has state: two calls give two different pieces of it, and the pieces depend on how
    the calls cut the stream, exactly as with a generator of torch.
    """

    def normal(self, shape: tuple[int, ...]) -> Float32Array:
        """Return the next piece of the stream as a new C-contiguous float32 array of `shape`."""
        ...


def seed_bits_from_seed(seed: int) -> int:
    """Return `seed` as the 64 unsigned bits that torch would use.

    torch accepts seeds in [-2^63, 2^64 - 1] and maps a negative one to 2^64 + seed.

    Raises:
        InvalidRequest: `seed` is no integer or lies outside that range.
    """
    try:
        value = operator.index(seed)
    except TypeError as error:
        raise InvalidRequest(
            "seed is not an integer",
            got=seed,
            expected="an integer in [-2^63, 2^64 - 1]",
            fix="pass seed as an int",
        ) from error
    if not _SEED_MIN <= value <= _SEED_MAX:
        raise InvalidRequest(
            "seed is out of range",
            got=value,
            expected="an integer in [-2^63, 2^64 - 1]",
            fix="choose a smaller seed",
        )
    return value % 2**64


def element_count_from_shape(shape: tuple[int, ...]) -> int:
    """Return the number of elements of `shape`.

    Raises:
        InvalidRequest: a dimension is negative.
    """
    count = 1
    for dimension in shape:
        if dimension < 0:
            raise InvalidRequest(
                "noise shape has a negative dimension",
                got=tuple(shape),
                expected="dimensions of at least 0",
                fix="pass the shape of the latent",
            )
        count *= operator.index(dimension)
    return count
