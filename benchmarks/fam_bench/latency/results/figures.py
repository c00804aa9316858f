"""From measured lines to figures: percentiles, ratios round by round, and how equal results are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fam_bench.latency.contestants import BY_NAME, EAGER, Kind
from fam_bench.latency.results.spread import percentiles, relative_spread
from fam_bench.latency.rounds import Line

MAX_PSNR_DB = 200.0
"""Stands for equal, which JSON has no number for."""

PICTURE_LATENT = "latent"
"""Of a picture's results: where both sides have it, the 8-bit pixels say less."""

Key = tuple[str, Kind, float]


def figures_of(lines: Sequence[Line], pixels: Mapping[float, int]) -> list[dict[str, Any]]:
    """Figures of every measured line, as JSON types.

    Args:
        lines: of all units.
        pixels: of a picture, by scale; 1 is the native size.
    """
    measured = {key_of(line): line for line in lines if line.measured}
    return [_figures(line, measured, pixels) for line in measured.values()]


def _figures(
    line: Line, measured: Mapping[Key, Line], pixels: Mapping[float, int]
) -> dict[str, Any]:
    unit = line.unit
    plain = _plain_of(line, measured)
    eager = measured.get((EAGER, unit.kind, unit.scale))
    samples = line.samples
    return {
        "contestant": unit.contestant,
        "title": BY_NAME[unit.contestant].title,
        "kind": unit.kind,
        "scale": unit.scale,
        "pixels": pixels[unit.scale],
        "group": line.group,
        "build_seconds": line.build_seconds,
        "load_seconds": line.load_seconds,
        "first_seconds": line.first_seconds,
        "n": len(samples),
        "seconds": samples,
        "round_seconds": line.seconds,
        "median_seconds": median(samples),
        "p95_seconds": percentiles(samples)[1],
        "min_seconds": min(samples),
        "device_seconds": line.device_seconds,
        "median_device_seconds": _median(line.device_seconds),
        "spread": relative_spread(line.seconds),
        "stage_seconds": stage_medians(line.stages),
        "ratio_to_eager": time_ratio(line, eager),
        "ratio_to_plain": time_ratio(line, plain),
        "peak_host_bytes": line.peak_host_bytes,
        "peak_device_bytes": line.peak_device_bytes,
        "memory_ratio_to_plain": memory_ratio(line, plain),
        "fidelity": fidelity_of(line, measured),
    }


def time_ratio(line: Line, other: Line | None) -> float | None:
    """Median of the ratios within a round; of medians where the rounds were not the same.

    It is one of times on the GPU where they are known of both.
    """
    if other is None or not line.turns or not other.turns:
        return None
    own, others = times_of_both(line, other)
    if line.group == other.group and len(own) == len(others):
        return median(a / b for a, b in zip(own, others, strict=True))
    return median(own) / median(others)


def times_of_both(line: Line, other: Line) -> tuple[list[float], list[float]]:
    """Seconds by round, on the GPU where they are known of both."""
    if line.device_seconds and other.device_seconds:
        return line.device_seconds, other.device_seconds
    return line.seconds, other.seconds


def memory_ratio(line: Line, other: Line | None) -> float | None:
    """Of the peaks where the graphs are; None where one is not known."""
    if other is None:
        return None
    if line.peak_device_bytes and other.peak_device_bytes:
        return line.peak_device_bytes / other.peak_device_bytes
    if line.peak_device_bytes is None and line.peak_host_bytes and other.peak_host_bytes:
        return line.peak_host_bytes / other.peak_host_bytes
    return None


def stage_medians(stages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds per stage."""
    names = list(dict.fromkeys(name for own in stages for name in own))
    return {name: median(own.get(name, 0.0) for own in stages) for name in names}


def fidelity_of(line: Line, measured: Mapping[Key, Line]) -> dict[str, Any] | None:
    """How far its results are from those of the first contestant that has the same; None for it."""
    unit = line.unit
    same = [
        measured[name, unit.kind, unit.scale]
        for name in BY_NAME
        if (name, unit.kind, unit.scale) in measured
    ]
    reference = same[0]
    if line is reference or line.results is None or reference.results is None:
        return None
    with np.load(line.results) as own, np.load(reference.results) as right:
        names = [name for name in right.files if name in own.files]
        names = [PICTURE_LATENT] if PICTURE_LATENT in names else names
        return {
            "against": reference.unit.contestant,
            "of": names,
            "psnr_db": min(psnr(own[name], right[name]) for name in names),
            "max_error": _largest([max_error(own[name], right[name]) for name in names]),
        }


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


def max_error(got: NDArray[Any], expected: NDArray[Any]) -> float | None:
    """The largest absolute difference; None for NaN or another shape."""
    if got.shape != expected.shape:
        return None
    error = float(np.abs(got.astype(np.float64) - expected.astype(np.float64)).max())
    return error if math.isfinite(error) else None


def key_of(line: Line) -> Key:
    """What a line is of."""
    return line.unit.contestant, line.unit.kind, line.unit.scale


def _plain_of(line: Line, measured: Mapping[Key, Line]) -> Line | None:
    """What FM, AM and taps are added to."""
    unit = line.unit
    if unit.kind == "native":
        return measured.get((unit.contestant, "native_plain", unit.scale))
    if unit.kind in ("target", "target_at_zero", "without_am"):
        return measured.get((unit.contestant, "plain", unit.scale))
    return None


def _largest(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) else None


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
