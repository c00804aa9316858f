"""The 32-bit Mersenne Twister, seeded as torch's CPU generator seeds it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_DOUBLE_SCALE = 2.0**-53
_FLOAT_SCALE = np.float32(2.0**-24)
_FLOAT_MASK = np.uint32(2**24 - 1)


class MersenneTwister:
    """mt19937 with Knuth's seeding (`init_genrand`), as used by torch and by NumPy's RandomState.

    torch takes a seed of 64 bits and keeps its low 32 (`at::mt19937_engine::init_with_uint32`).
    NumPy guarantees that RandomState's stream never changes.
    """

    def __init__(self, seed_bits: int) -> None:
        self._random = np.random.RandomState(seed_bits & 0xFFFFFFFF)

    def words(self, count: int) -> npt.NDArray[np.uint32]:
        """Return the next `count` words, uint32 [count]."""
        return self._random.randint(0, 2**32, size=count, dtype=np.uint32)

    def uniform32(self, count: int) -> npt.NDArray[np.float32]:
        """Return `count` values in [0, 1), float32 [count]: the low 24 bits of a word, / 2^24."""
        return (self.words(count) & _FLOAT_MASK).astype(np.float32) * _FLOAT_SCALE

    def uniform64(self) -> float:
        """Return one value in [0, 1): the low 53 bits of two words, the first one high, / 2^53."""
        high, low = (int(word) for word in self.words(2))
        return float(((high << 32 | low) & (2**53 - 1)) * _DOUBLE_SCALE)
