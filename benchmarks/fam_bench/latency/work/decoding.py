"""A latent decoded as the pipeline decodes it: in one piece, or in tiles where it is large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fam_runtime import contract
from fam_runtime.tiling import decode_tiled, tile_size

if TYPE_CHECKING:
    from fam_runtime.backends.pool import RunnerPool
    from fam_runtime.request import Request

Float32Array = NDArray[np.float32]


def decode_latent(pool: RunnerPool, request: Request, latent: Float32Array) -> Float32Array:
    """Float32 ``[1, 3, height, width]`` in about [-1, 1].

    Args:
        pool: with the decoder.
        request: with the tiling.
        latent: float32 ``[1, C, h, w]``.
    """
    manifest, backend, tiling = pool.bundle.manifest, pool.backend, request.tiling
    height, width = latent.shape[2:]
    tile = (height, width) if tiling is None else tile_size(height, width, tiling)
    with pool.borrow(manifest.vae.decoder, B=1, h=tile[0], w=tile[1]) as runner:

        def decode(piece: Float32Array) -> Float32Array:
            values = runner.run({contract.LATENT: backend.upload(piece)})
            return backend.download(values[contract.IMAGE])

        if tiling is None:
            return decode(latent)
        return decode_tiled(decode, latent, tiling, manifest.model.vae_scale_factor, lambda: None)
