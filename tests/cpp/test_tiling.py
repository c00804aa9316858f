"""Tiled decoding in C++: the same tiles, weights and pictures as Python's, byte for byte."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fam_runtime.tiling import Tiling, axis_tiles, decode_tiled, tile_count, tile_size
from tests.cpp.probe import Probe

Float32Array = npt.NDArray[np.float32]


def random_tiling(rng: random.Random) -> Tiling:
    tile = rng.choice([16, 17, 32, 48, 63, 64, 96, 128])
    return Tiling(tile, rng.choice([1, tile // 4, tile // 2, rng.randint(1, tile // 2)]))


def test_axes(probe: Probe, tmp_path: Path) -> None:
    """Places and weights of the tiles of an axis: any size, tile, overlap and factor."""
    rng = random.Random(0)
    path = tmp_path / "weights"
    for _ in range(400):
        size, tiling, factor = rng.randint(1, 600), random_tiling(rng), rng.choice([1, 2, 8, 11])
        places = probe.ask(
            "tiling.axis",
            size=size,
            tile=tiling.tile,
            overlap=tiling.overlap,
            factor=factor,
            path=str(path),
        )
        expected = axis_tiles(size, tiling, factor)
        assert places == [[tile.start, tile.length] for tile in expected]
        weights = b"".join(tile.weights.tobytes() for tile in expected)
        assert path.read_bytes() == weights, (size, tiling, factor)


def decode_nearest(piece: Float32Array, factor: int) -> Float32Array:
    """A decoder that looks at its whole tile, as the probe has it."""
    grown: Any = piece[:, :3].repeat(factor, axis=2).repeat(factor, axis=3)
    return np.asarray(grown + piece[0, 0, 0, 0], np.float32)


@pytest.mark.parametrize("case", range(30))
def test_pictures(probe: Probe, tmp_path: Path, case: int) -> None:
    rng = random.Random(case)
    height, width, factor = rng.randint(1, 150), rng.randint(1, 150), rng.choice([1, 2, 4])
    tiling = random_tiling(rng)
    latent = np.random.default_rng(case).standard_normal((1, 4, height, width)).astype(np.float32)
    latent.tofile(tmp_path / "latent")
    done, counted, *tile = probe.ask(
        "tiling.decode",
        latent=str(tmp_path / "latent"),
        shape=latent.shape,
        tile=tiling.tile,
        overlap=tiling.overlap,
        factor=factor,
        path=str(tmp_path / "picture"),
    )
    calls = []

    def decode(piece: Float32Array) -> Float32Array:
        calls.append(piece.shape)
        return decode_nearest(piece, factor)

    expected = decode_tiled(decode, latent, tiling, factor)
    assert (tmp_path / "picture").read_bytes() == expected.tobytes()
    assert done == counted == tile_count(height, width, tiling) == len(calls)
    assert tuple(tile) == tile_size(height, width, tiling)
