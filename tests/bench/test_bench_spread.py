"""How well the median of a unit's rounds is known."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fam_bench.latency.results.spread import (
    interval_confidence,
    median_interval,
    percentiles,
    relative_spread,
)

TIMES = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("count", "rank", "promise"), [(6, 1, 0.9688), (10, 2, 0.9785), (20, 6, 0.9586)]
)
def test_the_interval_is_the_one_of_the_sign_test(count: int, rank: int, promise: float) -> None:
    values = [float(number) for number in range(1, count + 1)]
    assert median_interval(values[::-1]) == (rank, count + 1 - rank)
    assert interval_confidence(count, rank) == pytest.approx(promise, abs=5e-5)
    assert interval_confidence(count, rank + 1) < 0.95


@given(st.integers(1, 60), st.floats(0, 0.999))
def test_no_narrower_interval_promises_as_much(count: int, confidence: float) -> None:
    low, high = median_interval([float(number) for number in range(1, count + 1)], confidence)
    rank = int(low)
    assert high == count + 1 - rank >= rank
    assert interval_confidence(count, rank) >= confidence or rank == 1
    if 2 * (rank + 1) <= count + 1:
        assert interval_confidence(count, rank + 1) < confidence


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_rounds_give_their_least_and_largest(count: int) -> None:
    values = list(np.linspace(1, 2, count))
    assert median_interval(values) == (min(values), max(values))


@pytest.mark.parametrize("count", [3, 6, 11, 30])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_holds_the_median_as_often_as_promised(count: int, skewed: bool) -> None:
    trials = 4000
    normal = np.random.default_rng(count).standard_normal((trials, count))
    draws = np.exp(2 * normal) if skewed else 5 + normal
    true_median = 1.0 if skewed else 5.0
    intervals = [median_interval(draw) for draw in draws]
    held = np.mean([low <= true_median <= high for low, high in intervals])
    rank = int(np.searchsorted(np.sort(draws[0]), intervals[0][0])) + 1
    promise = interval_confidence(count, rank)
    assert promise >= 0.95 or rank == 1
    assert abs(held - promise) < 4 * np.sqrt(promise * (1 - promise) / trials)


@given(TIMES, st.floats(1e-3, 1e3))
def test_the_spread_does_not_depend_on_the_unit_of_time(times: list[float], unit: float) -> None:
    scaled = [unit * seconds for seconds in times]
    assert relative_spread(scaled) == pytest.approx(relative_spread(times), rel=1e-9, abs=1e-12)
    assert median_interval(scaled) == pytest.approx(
        tuple(unit * end for end in median_interval(times))
    )


@given(TIMES, st.randoms())
def test_the_interval_is_around_the_median_whatever_the_order(
    times: list[float], random: Random
) -> None:
    low, high = median_interval(times)
    assert low <= float(np.median(times)) <= high
    shuffled = random.sample(times, len(times))
    assert median_interval(shuffled) == (low, high)
    wide = median_interval(times, 0.999)
    assert wide[0] <= low and high <= wide[1]


def test_percentiles_are_of_all_samples() -> None:
    assert percentiles([float(number) for number in range(101)][::-1]) == (50, 95)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_times_have_no_spread(values: list[float]) -> None:
    for statistic in (median_interval, relative_spread, percentiles):
        with pytest.raises(ValueError, match="at least one, all of them finite"):
            statistic(values)


def test_a_spread_is_of_times_above_zero() -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        relative_spread([0.0, 0.0])
    with pytest.raises(ValueError, match="below 1"):
        median_interval([1.0], confidence=1.0)
