"""Sizes as people type them: pixels, factors, bytes."""

from __future__ import annotations

import argparse

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_from_text(text: str) -> tuple[int, int]:
    """``HxW`` in pixels."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, got {text!r}")
    return int(height), int(width)


def scale_from_text(text: str) -> float | tuple[float, float]:
    """``2``, or ``2x4`` for height × width."""
    try:
        factors = [float(part) for part in text.lower().split("x")]
    except ValueError:
        factors = []
    if len(factors) not in (1, 2):
        raise argparse.ArgumentTypeError(f"expected a factor such as 2 or 2x4, got {text!r}")
    return factors[0] if len(factors) == 1 else (factors[0], factors[1])


def bytes_from_text(text: str) -> int:
    """A size such as ``800M`` or ``4G``, in bytes."""
    number, unit = text.upper().removesuffix("B"), ""
    if number[-1:] in ("K", "M", "G"):
        number, unit = number[:-1], number[-1]
    try:
        value = float(number) * _UNITS[unit]
    except ValueError:
        value = -1.0
    if not 0 <= value < 1 << 60:
        raise argparse.ArgumentTypeError(f"expected a size such as 800M or 4G, got {text!r}")
    return int(value)
