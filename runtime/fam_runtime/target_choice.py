"""From the size or scale that a call asks for to a target of the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fam_runtime.arguments import real_number, whole_number
from fam_runtime.bundle import PixelSize, export_command
from fam_runtime.errors import InvalidRequest, TargetNotBuilt

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, Manifest, Target

Scale = float | tuple[float, float]

MAX_SCALE = 8
"""The largest factor on each side: beyond it a typing error is likelier than a wish (paper: 4)."""

_MAX_FACTOR = 1_000
_PIXEL_TOLERANCE = 1e-6
"""Of the native size: a scale such as 4 / 3 means whole pixels although it is no exact float."""


def choose_target(
    bundle: Bundle, scale: Scale | None, height: int | None, width: int | None
) -> Target:
    """The target of a scale or of a size; without either the smallest that the bundle has.

    Raises:
        InvalidRequest: the arguments are no size, or the checkpoint cannot make it.
        TargetNotBuilt: it can, but the bundle has no such target.
    """
    manifest = bundle.manifest
    _check_one_of(scale, height, width)
    if scale is None and height is None and manifest.targets:
        return manifest.targets[0]
    if height is not None and width is not None:
        size = PixelSize(whole_number("height", height), whole_number("width", width))
        asked, option = f"{size} pixels", f"--size {size}"
        possible = True
    else:
        factors = _factors(2.0 if scale is None else scale)
        size, possible = _pixels(manifest, factors)
        asked, option = _asked_by_scale(factors, size)
    if not (possible and _is_possible(manifest, size)):
        raise _impossible(manifest, asked)
    try:
        return manifest.target_for(size.height, size.width)
    except TargetNotBuilt as error:
        raise TargetNotBuilt(
            f"the bundle has no target for {asked}",
            expected=error.expected,
            fix=f"add it with {export_command(manifest, option, bundle.root)}",
        ) from None


def _check_one_of(scale: Scale | None, height: int | None, width: int | None) -> None:
    if scale is not None and (height is not None or width is not None):
        raise InvalidRequest(
            "both a scale and a size were given",
            got=f"scale {scale}, {height}x{width}",
            expected="one of them",
            fix="leave one out",
        )
    if (height is None) != (width is None):
        raise InvalidRequest(
            "half of a size was given",
            got=f"height {height}, width {width}",
            expected="both height and width, in pixels",
            fix="give both",
        )


def _factors(scale: Scale) -> tuple[float, float]:
    pair = scale if isinstance(scale, tuple) else (scale, scale)
    try:
        height, width = (real_number("scale", factor, 0, _MAX_FACTOR) for factor in pair)
    except (InvalidRequest, ValueError):  # ValueError: a tuple of another length
        raise InvalidRequest(
            "scale is out of range",
            got=scale,
            expected="a positive factor, or a tuple of them (height, width)",
            fix="use 2, or (2, 4)",
        ) from None
    return height, width


def _pixels(manifest: Manifest, factors: tuple[float, float]) -> tuple[PixelSize, bool]:
    """The nearest size to a scale, and whether the scale means it."""
    native = (manifest.native.height, manifest.native.width)
    exact = [factor * side for factor, side in zip(factors, native, strict=True)]
    nearest = [round(side) for side in exact]
    distances = [abs(a - b) for a, b in zip(exact, nearest, strict=True)]
    whole = all(d <= _PIXEL_TOLERANCE * n for d, n in zip(distances, native, strict=True))
    return PixelSize(nearest[0], nearest[1]), whole


def _asked_by_scale(factors: tuple[float, float], size: PixelSize) -> tuple[str, str]:
    """A scale in words, and the option of fam-export that means the same."""
    short = [f"{factor:g}" for factor in factors]
    said = short[0] if factors[0] == factors[1] else "x".join(short)
    exact = all(float(s) == f for s, f in zip(short, factors, strict=True))
    option = f"--scale {said}" if exact else f"--size {size}"
    return f"scale {said} ({size} pixels)", option


def _is_possible(manifest: Manifest, size: PixelSize) -> bool:
    multiple, native = manifest.model.size_multiple, manifest.native
    return (
        size.height % multiple == size.width % multiple == 0
        and native.height <= size.height <= MAX_SCALE * native.height
        and native.width <= size.width <= MAX_SCALE * native.width
        and size != native
    )


def _impossible(manifest: Manifest, asked: str) -> InvalidRequest:
    native = manifest.native
    largest = PixelSize(MAX_SCALE * native.height, MAX_SCALE * native.width)
    have = ", ".join(str(target.size) for target in manifest.targets)
    return InvalidRequest(
        "the checkpoint cannot make this size",
        got=asked,
        expected=(
            f"height and width that are multiples of {manifest.model.size_multiple} pixels, above "
            f"the native {native} and up to {largest}"
        ),
        fix=f"the bundle has {have}" if have else "choose such a size",
    )
