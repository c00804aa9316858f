"""Philox4x32-10, the counter-based generator of cuRAND and Random123."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_LOW, _SHIFT = np.uint64(_MASK), np.uint64(32)
_ROUNDS = 10

Words = npt.NDArray[np.uint32]


def philox4x32(
    counter: tuple[Words, Words, Words, Words], key: tuple[int, int]
) -> tuple[Words, Words, Words, Words]:
    """Return the four output words of Philox4x32 with 10 rounds (Salmon et al., SC 2011, sec. 3.4).

    One round, with M0, M1 the multipliers and hi, lo the halves of a 64-bit product:

        (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))

    and k0, k1 grow by the Weyl constants between rounds.

    `counter`: four uint32 arrays of one shape. `key`: two integers of 32 bits.
    """
    c0, c1, c2, c3 = (word.astype(np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0 = (product1 >> _SHIFT) ^ c1 ^ np.uint64(k0)
        c1 = product1 & _LOW
        c2 = (product0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c3 = product0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0.astype(np.uint32), c1.astype(np.uint32), c2.astype(np.uint32), c3.astype(np.uint32)
