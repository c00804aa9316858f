"""From measured lines to figures: ratios round by round, and how equal the results are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fam_bench.gpu_rounds import Line
from fam_bench.gpu_units import EAGER, Kind

MAX_PSNR_DB = 200.0
"""Stands for equal, which JSON has no number for."""


def figures_of(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Figures of every measured line, as JSON types."""
    measured = {_key(line): line for line in lines if line.measured}
    rows = []
    for line in measured.values():
        unit = line.unit
        plain = measured.get((unit.contestant, "plain", unit.scale))
        plain = plain if unit.kind == "target" else None
        eager = measured.get((EAGER, unit.kind, unit.scale))
        reference = next(other for other in measured.values() if _key(other)[1:] == _key(line)[1:])
        rows.append(
            {
                "contestant": unit.contestant,
                "kind": unit.kind,
                "scale": unit.scale,
                "load_seconds": line.load_seconds,
                "build_seconds": line.build_seconds,
                "first_seconds": line.first_seconds,
                "seconds": line.seconds,
                "median_seconds": median(line.seconds),
                "min_seconds": min(line.seconds),
                "device_seconds": line.device_seconds,
                "median_device_seconds": median(line.device_seconds)
                if line.device_seconds
                else None,
                "stage_seconds": stage_medians(line.stages),
                "group": line.group,
                "time_ratio_to_plain": time_ratio(line, plain),
                "time_ratio_to_eager": time_ratio(line, eager),
                "peak_device_bytes": line.peak_device_bytes,
                "peak_host_bytes": line.peak_host_bytes,
                "device_memory_ratio_to_plain": memory_ratio(line, plain),
                "psnr_db": psnr_of(line, reference),
                "psnr_against": reference.unit.contestant,
            }
        )
    return rows


def time_ratio(line: Line, other: Line | None) -> float | None:
    """Median of the ratios within a round; of medians where the rounds were not the same.

    It is one of times on the GPU where they are known of both.
    """
    if other is None or not line.seconds or not other.seconds:
        return None
    own, others = line.seconds, other.seconds
    if line.device_seconds and other.device_seconds:
        own, others = line.device_seconds, other.device_seconds
    if line.group == other.group and len(own) == len(others):
        return median(a / b for a, b in zip(own, others, strict=True))
    return median(own) / median(others)


def memory_ratio(line: Line, other: Line | None) -> float | None:
    """Of the peaks on the GPU; None where one is not known."""
    if other is None or not line.peak_device_bytes or not other.peak_device_bytes:
        return None
    return line.peak_device_bytes / other.peak_device_bytes


def stage_medians(stages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds per stage."""
    names = list(dict.fromkeys(name for own in stages for name in own))
    return {name: median(own.get(name, 0.0) for own in stages) for name in names}


def psnr_of(line: Line, reference: Line) -> float | None:
    """The worst over all results; None for the reference itself."""
    if line is reference or line.results is None or reference.results is None:
        return None
    with np.load(line.results) as own, np.load(reference.results) as right:
        return min(psnr(own[name], right[name]) for name in right.files)


def psnr(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB, at most :data:`MAX_PSNR_DB`.

    The peak is the largest absolute value expected. NaN, or another shape, gives minus that.
    """
    if got.shape != expected.shape:
        return -MAX_PSNR_DB
    wanted = expected.astype(np.float64)
    error = float(np.mean(np.square(got.astype(np.float64) - wanted)))
    peak = float(np.abs(wanted).max())
    if not math.isfinite(error) or peak == 0:
        return -MAX_PSNR_DB
    if error == 0:
        return MAX_PSNR_DB
    return float(min(10 * math.log10(peak**2 / error), MAX_PSNR_DB))


def _key(line: Line) -> tuple[str, Kind, float]:
    return line.unit.contestant, line.unit.kind, line.unit.scale
