"""VAE decoding in overlapping tiles, so that memory is bounded by the tile and not by the picture.

Operation by operation (C++ does the same):

1. **Tiles of an axis** of `n` latent samples, with tiles of `t` that overlap by at least `o`: one
   tile at 0 of length `n` if ``n <= t``; else tile `k` begins at ``min(k·(t-o), n-t)`` for
   ``k = 0 … ceil((n-t)/(t-o))``. All tiles of a decode have one size.
2. **Weights of an axis**, in pixels (`f` a latent sample): within a tile of ``T = t·f`` pixels,
   pixel `i` has the ramp ``min(1, (i+½)/(o·f), (T-i-½)/(o·f))`` in float64; at a tile's side that
   is the picture's side there is no ramp. At each pixel of the picture the ramps of the tiles are
   divided by their sum, added in the order of the tiles, and rounded to float32.
3. Each tile is decoded alone, tile rows outermost. The picture, float32 zeros at first, gets
   ``picture += (row_weight · column_weight) · tile``, each operation rounded to float32.

Where one tile covers a pixel the weight is exactly 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fam_runtime.errors import InvalidRequest

Float32Array = npt.NDArray[np.float32]
Decode = Callable[[Float32Array], Float32Array]

MIN_TILE_LATENT = 16
UNTILED_AREA_LATENT = 128 * 128
"""Latents up to this area are decoded in one piece by default: the 2× of SD 1.5, about 3 GB."""


@dataclass(frozen=True)
class Tiling:
    """Tile and overlap, in latent samples.

    Raises:
        InvalidRequest: the tile is too small, or the overlap is no part of a tile.
    """

    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if self.tile < MIN_TILE_LATENT:
            raise InvalidRequest(
                "the VAE tile is too small",
                got=self.tile,
                expected=f"at least {MIN_TILE_LATENT} latent samples",
                fix="64 is usual",
            )
        if not 0 < self.overlap <= self.tile // 2:
            raise InvalidRequest(
                "the overlap of VAE tiles is out of range",
                got=self.overlap,
                expected=f"1 to {self.tile // 2}, half of a tile",
                fix="a quarter of the tile is usual",
            )


DEFAULT_TILING = Tiling(tile=96, overlap=24)
LOW_MEMORY_TILING = Tiling(tile=64, overlap=16)
BUDGET_TILINGS = (DEFAULT_TILING, LOW_MEMORY_TILING, Tiling(tile=48, overlap=12), Tiling(32, 8))
"""Below 32 samples, 256 pixels, a tile's normalisation sees too little of the picture."""


def default_tiling(height: int, width: int, *, low_memory: bool) -> Tiling | None:
    """Tiling of a latent of ``height × width`` samples; None decodes it in one piece."""
    tiling = LOW_MEMORY_TILING if low_memory else DEFAULT_TILING
    return None if height * width <= UNTILED_AREA_LATENT else tiling


def smaller_tilings(height: int, width: int) -> tuple[Tiling, ...]:
    """Tilings of a latent for a memory budget, largest first; each is smaller than the latent."""
    return tuple(tiling for tiling in BUDGET_TILINGS if tiling.tile < max(height, width))


@dataclass(frozen=True, eq=False)
class AxisTile:
    """One tile along one axis.

    Attributes:
        start, length: in latent samples.
        weights: float32 ``[length · f]``, of its pixels.
    """

    start: int
    length: int
    weights: Float32Array


def axis_tiles(size: int, tiling: Tiling, factor: int) -> tuple[AxisTile, ...]:
    """Tiles of an axis of `size` latent samples, each `factor` pixels."""
    length, stride = min(tiling.tile, size), tiling.tile - tiling.overlap
    count = 1 + max(0, -(-(size - length) // stride))
    starts = [min(k * stride, size - length) for k in range(count)]
    ramps = [
        _ramp(length * factor, tiling.overlap * factor, first=k == 0, last=k == count - 1)
        for k in range(count)
    ]
    total = np.zeros(size * factor, np.float64)
    for start, ramp in zip(starts, ramps, strict=True):
        total[start * factor : (start + length) * factor] += ramp
    return tuple(
        AxisTile(
            start,
            length,
            (ramp / total[start * factor : (start + length) * factor]).astype(np.float32),
        )
        for start, ramp in zip(starts, ramps, strict=True)
    )


def _ramp(length: int, overlap: int, *, first: bool, last: bool) -> npt.NDArray[np.float64]:
    position = np.arange(length, dtype=np.float64) + 0.5
    ramp = np.ones(length, np.float64)
    if not first:
        ramp = np.minimum(ramp, position / overlap)
    if not last:
        ramp = np.minimum(ramp, (length - position) / overlap)
    return ramp


def decode_tiled(
    decode: Decode,
    latent: Float32Array,
    tiling: Tiling,
    factor: int,
    after_tile: Callable[[], None] = lambda: None,
) -> Float32Array:
    """Decode `latent` tile by tile.

    Args:
        decode: float32 ``[B, C, t, t]`` to a picture, float32 ``[B, 3, f·t, f·t]``.
        latent: float32 ``[B, C, height, width]``.
        tiling: tile and overlap.
        factor: pixels per latent sample, `f`.
        after_tile: called after each tile.

    Returns:
        float32 ``[B, 3, f·height, f·width]``.
    """
    batch, _, height, width = latent.shape
    picture = np.zeros((batch, 3, height * factor, width * factor), np.float32)
    for row in axis_tiles(height, tiling, factor):
        for column in axis_tiles(width, tiling, factor):
            piece = latent[
                :,
                :,
                row.start : row.start + row.length,
                column.start : column.start + column.length,
            ]
            weight = row.weights[:, None] * column.weights[None, :]
            top, left = row.start * factor, column.start * factor
            picture[
                :, :, top : top + row.length * factor, left : left + column.length * factor
            ] += weight * decode(np.ascontiguousarray(piece))
            after_tile()
    return picture


def tile_size(height: int, width: int, tiling: Tiling) -> tuple[int, int]:
    """Latent samples of every tile of a latent of ``height × width`` samples."""
    return min(tiling.tile, height), min(tiling.tile, width)


def tiles_of_latents(
    sizes: Iterable[tuple[int, int]], *, low_memory: bool
) -> tuple[tuple[int, int], ...]:
    """Height and width of what is decoded at once, for latents of `sizes`, each once."""
    tiles = []
    for height, width in sizes:
        tiling = default_tiling(height, width, low_memory=low_memory)
        tiles.append((height, width) if tiling is None else tile_size(height, width, tiling))
    return tuple(dict.fromkeys(tiles))


def tile_count(height: int, width: int, tiling: Tiling) -> int:
    """How many tiles a latent of ``height × width`` samples takes."""
    return len(axis_tiles(height, tiling, 1)) * len(axis_tiles(width, tiling, 1))
