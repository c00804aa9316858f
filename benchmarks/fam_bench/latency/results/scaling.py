"""How the time of a step grows with the pixels: seconds = factor · pixels ** exponent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TARGET, PLAIN, FM_AND_AM = "target", "plain", "FM + AM"

_KINDS = {TARGET: ("target",), PLAIN: ("plain",)}
"""Rows of a curve, of the same sizes: small ones have an exponent of their own."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Slope:
    """A line through the logarithms, by least squares.

    Attributes:
        exponent: 1: in proportion to the pixels; 2: as attention over all of them.
        factor: seconds at one pixel.
        residual: RMS of the logarithms' distances to the line; 0.05 is about 5 % of the time.
    """

    exponent: float
    factor: float
    residual: float


def fitted_slope(pixels: Sequence[float], seconds: Sequence[float]) -> Slope:
    """The slope of `seconds` over `pixels`, which are all above 0.

    Raises:
        ValueError: there are fewer than two sizes, or a value is not above 0.
    """
    sizes, times = np.asarray(pixels, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    if sizes.shape != times.shape or len(set(pixels)) < 2:
        raise ValueError(f"got pixels {pixels} for {len(times)} times; expected two sizes or more")
    if not (np.all(sizes > 0) and np.all(times > 0)):
        raise ValueError(f"got pixels {pixels} and seconds {seconds}; expected numbers above 0")
    x, y = np.log(sizes), np.log(times)
    centred = x - x.mean()
    exponent = float(centred @ y / (centred @ centred))
    offset = float(y.mean() - exponent * x.mean())
    residual = float(np.sqrt(np.mean((y - offset - exponent * x) ** 2)))
    return Slope(exponent, float(np.exp(offset)), residual)


def slopes_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per contestant and curve, as JSON types.

    `kind` is one of ``"target"``, ``"plain"`` and ``"FM + AM"``, `points` the number of sizes. With
    fewer than two of them `exponent`, `factor` and `residual` are None and `reason` says why.
    """
    rows = []
    for contestant in contestants_of(document):
        for kind in (TARGET, PLAIN, FM_AND_AM):
            points = points_of(document, contestant, kind)
            if points:
                own = {"contestant": contestant, "kind": kind, "points": len(points)}
                rows.append(own | _slope_fields(points))
    return rows


def contestants_of(document: Mapping[str, Any]) -> list[str]:
    """Names of those that did a step, in the order of the document."""
    kinds = {kind for own in _KINDS.values() for kind in own}
    return list(
        dict.fromkeys(row["contestant"] for row in document["figures"] if row["kind"] in kinds)
    )


def points_of(document: Mapping[str, Any], contestant: str, kind: str) -> Points:
    """Pixels and seconds of a curve, from the smallest size on.

    The cost of FM and AM is a difference of two times, and left out where noise made it negative.
    """
    if kind == FM_AND_AM:
        return sorted(_part_points(document, contestant))
    return sorted(row_points(document, contestant, _KINDS[kind]))


def row_points(document: Mapping[str, Any], contestant: str, kinds: Sequence[str]) -> Points:
    """Pixels and median seconds of a contestant's rows of these kinds."""
    return [
        (float(row["pixels"]), float(row["median_seconds"]))
        for row in document["figures"]
        if row["contestant"] == contestant and row["kind"] in kinds and row.get("pixels")
    ]


def _part_points(document: Mapping[str, Any], contestant: str) -> Iterator[tuple[float, float]]:
    pixels = {
        row["scale"]: row["pixels"] for row in document["figures"] if row["kind"] in _KINDS[TARGET]
    }
    for part in document["parts"]:
        if part["contestant"] == contestant and part["part"] == FM_AND_AM and part["seconds"] > 0:
            size = pixels.get(part["scale"])
            if size:
                yield float(size), float(part["seconds"])


def _slope_fields(points: Points) -> dict[str, Any]:
    sizes = {pixels for pixels, _ in points}
    if len(sizes) < 2:
        reason = "one size has no slope; measure another scale"
        return {"exponent": None, "factor": None, "residual": None, "reason": reason}
    return asdict(fitted_slope(*zip(*points, strict=True))) | {"reason": ""}
