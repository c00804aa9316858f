"""Attention modulation (AM), Eqs. 6-7, without ever forming a target-sized map.

``M̄ = λ·U(Mⁿ, s) + (1-λ)·M`` is applied to values `V`. `U` interpolates the query and the key axes
of the native map over the token grid: ``U(Mⁿ) = A Mⁿ D`` with an interpolation `A` and its
row-normalised transpose `D`. Hence ``U(Mⁿ) V = A (Mⁿ (D V))``: pool the values to the native grid,
attend there, spread the result over the target grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fam_graph.attention import attention, merge_heads, split_heads
from fam_graph.interpolation import InterpolationMode, interpolation_matrix

TapForm = Literal["qk", "maps"]
"""What the native stage hands over: queries and keys (`qk`), or the attention maps (`maps`)."""

Grid = tuple[int, int]
"""Tokens along the height and along the width."""


@dataclass(frozen=True)
class NativeQueryKey:
    """Native queries and keys of one layer, each ``[2B, n, heads·d]``."""

    query: torch.Tensor
    key: torch.Tensor


@dataclass(frozen=True)
class NativeMap:
    """The native attention map of one layer, ``[2B, heads, n, n]``."""

    map: torch.Tensor


NativeAttention = NativeQueryKey | NativeMap


def interpolation_mode(native: Grid, target: Grid) -> InterpolationMode:
    """Nearest for integer factors, bilinear otherwise.

    §3.2 says "interpolation" only. We do nearest for integer factors because its transpose is
    average pooling, exact and free of transposes; other factors would repeat tokens unevenly.
    """
    divides = target[0] % native[0] == 0 and target[1] % native[1] == 0
    return "nearest" if divides else "bilinear"


class TokenGridResampler(nn.Module):
    """`A` and `D` of one layer: values down to the native token grid, results back up.

    Args:
        native: native token grid (height, width).
        target: target token grid (height, width), not smaller than the native one.
    """

    def __init__(self, native: Grid, target: Grid) -> None:
        super().__init__()
        self.native, self.target = native, target
        self.mode = interpolation_mode(native, target)
        if self.mode != "nearest":
            for name, small, large in zip(("rows", "columns"), native, target, strict=True):
                up = interpolation_matrix(small, large, self.mode)
                # U(M) = A·M·D is the definition for these factors: D is the row-normalised Aᵀ,
                # so that the rows of U(M) sum to one without a target-sized map to normalise.
                self.register_buffer(f"up_{name}", up, persistent=False)
                down = up.T / up.T.sum(dim=1, keepdim=True)
                self.register_buffer(f"down_{name}", down, persistent=False)

    def down(self, values: torch.Tensor) -> torch.Tensor:
        """``D V``: ``[B, N, C]`` → ``[B, n, C]``."""
        if self.mode == "nearest":
            (h, w), (height, width) = self.native, self.target
            batch, _, channels = values.shape
            cells = values.reshape(batch, h, height // h, w, width // w, channels)
            return cells.mean(dim=(2, 4)).reshape(batch, h * w, channels)
        return self._resample(values, self.target, "down")

    def up(self, values: torch.Tensor) -> torch.Tensor:
        """``A X``: ``[B, n, C]`` → ``[B, N, C]``."""
        if self.mode == "nearest":
            (h, w), (height, width) = self.native, self.target
            batch, _, channels = values.shape
            cells = values.reshape(batch, h, 1, w, 1, channels)
            spread = cells.expand(batch, h, height // h, w, width // w, channels)
            return spread.reshape(batch, height * width, channels)
        return self._resample(values, self.native, "up")

    def _resample(self, values: torch.Tensor, grid: Grid, direction: str) -> torch.Tensor:
        rows = self.get_buffer(f"{direction}_rows").to(values.dtype)
        columns = self.get_buffer(f"{direction}_columns").to(values.dtype)
        batch, _, channels = values.shape
        over_rows = rows @ values.reshape(batch, grid[0], grid[1] * channels)
        over_columns = columns @ over_rows.reshape(batch, rows.shape[0], grid[1], channels)
        return over_columns.reshape(batch, rows.shape[0] * columns.shape[0], channels)


def modulated_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    native: NativeAttention,
    resampler: TokenGridResampler,
    strength: torch.Tensor,
    heads: int,
    scale: float | None = None,
) -> torch.Tensor:
    """``(1-λ)·SDPA(Q,K,V) + λ·Up(Mⁿ · Down(V))``, Eqs. 6-7 in the factorised form.

    Args:
        query, key, value: target ``[2B, N, heads·d]``.
        native: the same layer of the native step, in either form.
        resampler: the layer's token grids.
        strength: λ, a scalar tensor; 0 is plain attention, 1 is "swapping" (Fig. 8).
        heads: number of heads.
        scale: of both attentions, see :func:`fam_graph.attention.attention`.

    Returns:
        ``[2B, N, heads·d]``.
    """
    pooled = resampler.down(value)
    if isinstance(native, NativeQueryKey):
        attended = attention(native.query, native.key, pooled, heads, scale)
    else:
        attended = merge_heads(native.map @ split_heads(pooled, heads))
    weight = strength.to(value.dtype)
    own = attention(query, key, value, heads, scale)
    return own + weight * (resampler.up(attended) - own)
