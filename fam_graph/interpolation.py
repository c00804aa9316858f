"""Separable interpolation as small constant matrices.

Every interpolation of the method (the latent upsampler `U`, the token grids of attention
modulation) is separable, so it is written as one matrix per axis. Matrix products run the same in
every inference library, whereas `Resize` operators differ in their conventions.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

InterpolationMode = Literal["nearest", "bilinear", "bicubic"]


def interpolation_matrix(source: int, target: int, mode: InterpolationMode) -> torch.Tensor:
    """The matrix `A` with `A @ x = interpolate(x)` along one axis.

    Pixel centres are at half-integers (``align_corners=False``) and nothing is antialiased.

    Args:
        source: number of samples of the axis that is interpolated.
        target: number of samples wanted.
        mode: ``nearest``, ``bilinear`` (linear along this axis) or ``bicubic`` (a = -0.75).

    Returns:
        float32 ``[target, source]``; its rows sum to one.

    Raises:
        ValueError: a size is not positive, or the mode is unknown.
    """
    if source < 1 or target < 1:
        raise ValueError(f"sizes must be positive, got source={source}, target={target}")
    identity = torch.eye(source, dtype=torch.float64)
    if mode == "nearest":
        rows = F.interpolate(identity[None], size=target, mode="nearest")[0]
    elif mode == "bilinear":
        rows = F.interpolate(identity[None], size=target, mode="linear", align_corners=False)[0]
    elif mode == "bicubic":
        # A picture one sample wide keeps the other axis out of the two-dimensional operator.
        column = identity[None, :, :, None]
        large = F.interpolate(column, size=(target, 1), mode="bicubic", align_corners=False)
        rows = large[0, ..., 0]
    else:
        raise ValueError(f"unknown interpolation {mode!r}; known: nearest, bilinear, bicubic")
    return rows.T.contiguous().to(torch.float32)


def interpolate_separable(
    values: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """`rows @ values @ columnsᵀ`, over the last two axes.

    Args:
        values: ``[..., h, w]``.
        rows: ``[H, h]`` from :func:`interpolation_matrix`.
        columns: ``[W, w]``.

    Returns:
        ``[..., H, W]`` of the dtype of `values`.
    """
    return rows @ values @ columns.transpose(0, 1)
