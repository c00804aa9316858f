"""How far what a contestant computes is from what PyTorch computes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fam_runtime.errors import NumericError

Figure = Literal["relative_rms", "relative_max", "max_absolute", "psnr_db", "max_levels"]
"""`relative_rms`: root mean square of the error over that of the scale; `relative_max`: largest
error over the largest value of the scale; `max_absolute`: largest error; of pictures in [0, 1]
`psnr_db`: their signal-to-noise ratio, and `max_levels`: largest difference of 8-bit colours."""

Array = npt.NDArray[Any]

LEVELS = 255
SAME_PICTURE_DB = 150.0
"""Stands for infinity, which JSON does not have: rounding in float32 alone leaves less."""

SMALLEST_SCALE = 1e-12
"""A scale of zeros makes an error large, not infinite."""


def tensor_figures(got: Array, wanted: Array, scale: Array | None = None) -> dict[Figure, float]:
    """`relative_rms`, `relative_max` and `max_absolute` of two arrays of one shape.

    Args:
        got, wanted: finite arrays.
        scale: what errors are relative to; None is `wanted`.
    """
    error = got.astype(np.float64) - wanted
    scale = wanted if scale is None else scale
    largest = float(np.abs(error).max())
    return {
        "relative_rms": _rms(error) / max(_rms(scale), SMALLEST_SCALE),
        "relative_max": largest / max(float(np.abs(scale).max()), SMALLEST_SCALE),
        "max_absolute": largest,
    }


def picture_figures(got: Array, wanted: Array) -> dict[Figure, float]:
    """`psnr_db` and `max_levels` of two pictures in [0, 1]."""
    noise = max(_rms(got.astype(np.float64) - wanted), SMALLEST_SCALE)
    levels = np.abs(np.rint(got * LEVELS) - np.rint(wanted * LEVELS))
    return {
        "psnr_db": min(-20 * float(np.log10(noise)), SAME_PICTURE_DB),
        "max_levels": float(levels.max()),
    }


def check_numbers(who: str, what: str, values: Array) -> None:
    """Check that a contestant's `values` are numbers.

    Raises:
        NumericError: one is NaN or infinite; the text names `who` and `what`.
    """
    good = int(np.isfinite(values).sum())
    if good != values.size:
        raise NumericError(
            f"{who}: {what} is not a number any more",
            got=f"{values.size - good} of {values.size} values are NaN or infinite",
            expected="finite values",
            fix="float16 overflows above 65504: export with --dtype bf16 or fp32; if the bundle is "
            "in one of these, please report it",
        )


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
