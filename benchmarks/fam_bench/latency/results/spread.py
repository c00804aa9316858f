"""Statistics of one unit's timings: how well the median of its rounds is known, and percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval between two order statistics that holds the true median, whatever the
    distribution.

    It is ``[x(k), x(n + 1 - k)]`` of the sorted values, with the largest rank ``k`` that promises
    `confidence`; see :func:`interval_confidence`. Where even ``k = 1`` does not (below 6 values for
    0.95) it is the least and the largest.

    Args:
        values: medians of the rounds of a unit, which are independent where samples within a round
            are not.
        confidence: below 1.

    Raises:
        ValueError: there are no values, or they are not finite; `confidence` is not below 1.
    """
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected at least 0 and below 1")
    ordered = np.sort(_finite(values))
    rank = _interval_rank(len(ordered), confidence)
    return float(ordered[rank - 1]), float(ordered[-rank])


def relative_spread(values: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """Half of the width of :func:`median_interval` over the median.

    A single value gives 0, and two or three give little: see :func:`interval_confidence`.

    Raises:
        ValueError: as :func:`median_interval`, or the median is not above 0.
    """
    low, high = median_interval(values, confidence)
    centre = float(np.median(values))
    if centre <= 0:
        raise ValueError(f"the median is {centre}; expected more than 0")
    return (high - low) / (2 * centre)


def interval_confidence(count: int, rank: int) -> float:
    """How likely ``[x(rank), x(count + 1 - rank)]`` holds the median.

    Each value is below the median like a coin's head: ``1 - 2 P(Binomial(count, 1/2) < rank)``.
    """
    return 1 - 2 * sum(math.comb(count, below) for below in range(rank)) / 2**count


def percentiles(samples: Sequence[float]) -> tuple[float, float]:
    """p50 and p95 of all samples, between two neighbours in proportion.

    Raises:
        ValueError: there are none, or they are not finite.
    """
    p50, p95 = np.percentile(_finite(samples), (50, 95))
    return float(p50), float(p95)


def _interval_rank(count: int, confidence: float) -> int:
    """The largest rank whose interval promises `confidence`; 1 if none does."""
    rank, below = 1, 1  # of 2 ** count equally likely cases, those with fewer than `rank` heads
    while 2 * rank < count:
        below += math.comb(count, rank)
        if 1 - 2 * below / 2**count < confidence:
            break
        rank += 1
    return rank


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(f"got {numbers.size} values; expected at least one, all of them finite")
    return numbers
