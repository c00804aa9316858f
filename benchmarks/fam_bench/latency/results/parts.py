"""What FM, AM and the taps cost, by difference: the same step with and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fam_bench.latency.contestants import Kind
from fam_bench.latency.results.figures import Key, key_of, times_of_both
from fam_bench.latency.results.spread import median_interval
from fam_bench.latency.rounds import Line

PARTS: tuple[tuple[str, Kind, Kind, Kind], ...] = (
    ("taps", "native", "native_plain", "native_plain"),
    ("FM", "without_am", "plain", "plain"),
    ("AM", "target", "without_am", "plain"),
    ("FM + AM", "target", "plain", "plain"),
)
"""Name; the step with it and the one without; the step that its cost is a share of."""


def parts_of(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Of every contestant and scale, as JSON types; `seconds` may be below zero, within the spread.

    `seconds` is the median of the differences within a round, `ratio_to_plain` that of their ratios
    to the plain step of the same round, `low` and `high` the interval of that median.
    """
    measured = {key_of(line): line for line in lines if line.measured}
    found = []
    for contestant, kind, scale in measured:
        for part, larger, smaller, plain in PARTS:
            if kind != larger:
                continue
            names: tuple[Kind, ...] = (larger, smaller, plain)
            own = _same_rounds(measured, [(contestant, name, scale) for name in names])
            if own is not None:
                found.append({"contestant": contestant, "scale": scale, "part": part, **own})
    return found


def _same_rounds(measured: Mapping[Key, Line], keys: Sequence[Key]) -> dict[str, float] | None:
    if any(key not in measured for key in keys):
        return None
    larger, smaller, plain = (measured[key] for key in keys)
    if len({(line.group, len(line.turns)) for line in (larger, smaller, plain)}) > 1:
        return None
    with_it, without = times_of_both(larger, smaller)
    base = times_of_both(plain, smaller)[0]
    differences = [a - b for a, b in zip(with_it, without, strict=True)]
    ratios = [own / of for own, of in zip(differences, base, strict=True)]
    low, high = median_interval(ratios)
    return {
        "seconds": median(differences),
        "ratio_to_plain": median(ratios),
        "low": low,
        "high": high,
    }
