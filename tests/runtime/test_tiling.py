"""Tiled decoding: bounded memory, no seam, exact where one tile covers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fam_runtime.errors import InvalidRequest
from fam_runtime.tiling import (
    LOW_MEMORY_TILING,
    MIN_TILE_LATENT,
    Tiling,
    axis_tiles,
    decode_tiled,
    default_tiling,
    tile_count,
)

FACTOR = 8
sizes = st.integers(1, 300)
tilings = st.integers(MIN_TILE_LATENT, 128).flatmap(
    lambda tile: st.builds(Tiling, st.just(tile), st.integers(1, tile // 2))
)


@given(sizes, tilings)
def test_tiles_cover_the_axis_and_weights_sum_to_one(size, tiling):
    tiles = axis_tiles(size, tiling, FACTOR)
    total = np.zeros(size * FACTOR, np.float64)
    for tile in tiles:
        assert tile.length == min(tiling.tile, size)
        assert 0 <= tile.start <= size - tile.length
        assert (tile.weights >= 0).all()
        total[tile.start * FACTOR : (tile.start + tile.length) * FACTOR] += tile.weights
    assert np.abs(total - 1).max() < 1e-6
    for before, after in itertools.pairwise(tiles):
        assert before.start + before.length - after.start >= min(tiling.overlap, size)


@given(st.integers(16, 80), st.integers(16, 80), tilings)
def test_a_pointwise_decoder_is_decoded_exactly(height, width, tiling):
    latent = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    decode = lambda z: z.repeat(2, axis=2).repeat(2, axis=3)  # noqa: E731
    assert np.abs(decode_tiled(decode, latent, tiling, 2) - decode(latent)).max() < 1e-6


def test_a_local_decoder_differs_only_near_tile_borders_and_there_little():
    latent = np.random.default_rng(1).standard_normal((1, 3, 100, 90)).astype(np.float32)

    def decode(z):
        padded = np.pad(z, ((0, 0), (0, 0), (1, 1), (1, 1)))  # what a convolution sees outside
        h, w = z.shape[2:]
        mean = sum(padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9
        return mean.astype(np.float32)

    whole = decode(latent)
    tiled = decode_tiled(decode, latent, Tiling(32, 8), 1)
    difference = np.abs(tiled - whole)
    assert difference.max() < 0.1 * np.abs(whole).max()
    # A border row or column weighs ½ of a latent sample of the 8 of a ramp.
    assert (difference > 1e-6).mean() < 0.25


def test_no_seam_even_where_a_decoder_looks_at_its_whole_tile():
    """Normalisation over the tile shifts its tone; the blend must not jump where a tile ends."""
    rows, columns = np.mgrid[0:96, 0:96] / 96
    latent = np.stack([np.sin(5 * rows), np.cos(7 * columns), rows * columns])[None].astype(
        np.float32
    )

    def decode(z):
        centred = z - z.mean(axis=(2, 3), keepdims=True)
        return (centred / z.std(axis=(2, 3), keepdims=True)).astype(np.float32)

    tiling = Tiling(48, 12)
    picture = decode_tiled(decode, latent, tiling, 1)
    steps = np.abs(np.diff(picture, axis=3)).max(axis=(0, 1, 2))
    edges = [
        edge - 1
        for tile in axis_tiles(96, tiling, 1)
        for edge in (tile.start, tile.start + tile.length)
        if 0 < edge < 96
    ]
    # Tone drifts along a ramp of 12 samples instead of jumping: a step is the untiled one, scaled
    # by the tile's own deviation, and a twelfth of the difference between the neighbours.
    untiled = np.abs(np.diff(decode(latent), axis=3)).max(axis=(0, 1, 2))
    unblended = np.abs(decode(latent[..., :48])[..., -1] - decode(latent[..., 48:])[..., 0]).max()
    excess = (steps - untiled)[edges].max()
    assert excess < unblended / 8
    hard = decode_hard(decode, latent, tiling)
    jumps = np.abs(np.diff(hard, axis=3)).max(axis=(0, 1, 2)) - untiled
    assert jumps.max() > unblended / 4  # what the test would see without blending


def decode_hard(decode, latent, tiling):
    """Tiles side by side: the later one covers the one before."""
    picture = np.zeros_like(latent)
    for row in axis_tiles(latent.shape[2], tiling, 1):
        for column in axis_tiles(latent.shape[3], tiling, 1):
            rows = slice(row.start, row.start + row.length)
            columns = slice(column.start, column.start + column.length)
            picture[:, :, rows, columns] = decode(latent[:, :, rows, columns])
    return picture


def test_memory_is_bounded_by_the_tile():
    shapes = []

    def decode(z):
        shapes.append(z.shape)
        return np.zeros((1, 3, z.shape[2] * FACTOR, z.shape[3] * FACTOR), np.float32)

    tiling = Tiling(32, 8)
    decode_tiled(decode, np.zeros((1, 4, 70, 200), np.float32), tiling, FACTOR)
    assert set(shapes) == {(1, 4, 32, 32)}
    assert len(shapes) == tile_count(70, 200, tiling) == 3 * 8


@pytest.mark.parametrize(("tile", "overlap"), [(15, 4), (32, 0), (32, 17)])
def test_bad_tilings_are_refused(tile, overlap):
    with pytest.raises(InvalidRequest):
        Tiling(tile, overlap)


def test_small_latents_are_decoded_in_one_piece():
    assert default_tiling(128, 128, low_memory=False) is None
    assert default_tiling(192, 192, low_memory=False) is not None
    assert default_tiling(128, 128, low_memory=True) is None
    assert default_tiling(192, 192, low_memory=True) == LOW_MEMORY_TILING
