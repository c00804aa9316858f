"""What a stage feeds at every step: text, guidance, and SDXL's size conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fam_runtime import contract
from fam_runtime.backends.base import Array
from fam_runtime.prompt import TextEmbedding

if TYPE_CHECKING:
    from fam_runtime.bundle import Manifest, PixelSize, Target
    from fam_runtime.request import PictureRequest


def texts_to_encode(manifest: Manifest, pictures: Sequence[PictureRequest]) -> list[str]:
    """Every text whose embedding the pictures need."""
    texts = [picture.prompt for picture in pictures]
    if manifest.model.guidance:
        texts += [
            picture.negative_prompt or ""
            for picture in pictures
            if picture.negative_prompt is not None or not zeros_for_no_negative_prompt(manifest)
        ]
    return texts


def zeros_for_no_negative_prompt(manifest: Manifest) -> bool:
    """Whether "no negative prompt" means zeros and not the embedding of an empty text."""
    return manifest.model.force_zeros_for_empty_prompt


def stage_conditions(
    manifest: Manifest,
    pictures: Sequence[PictureRequest],
    embeddings: Mapping[str, TextEmbedding],
    guidance_scale: float,
    size: PixelSize | Target,
) -> dict[str, Array]:
    """The feeds of a stage that makes pictures of `size`.

    Returns:
        `prompt_embeds` float32 ``[2B, 77, D]`` with the unconditional half first, ``[B, 77, D]`` in
        a bundle without guidance; `guidance_scale` float32 ``[]`` where the graphs take it; for
        SDXL also `pooled_prompt_embeds` ``[2B, P]`` and `time_ids` ``[2B, 6]``.
    """
    rows = [embeddings[picture.prompt] for picture in pictures]
    if manifest.model.guidance:
        rows = [_unconditional(manifest, picture, embeddings) for picture in pictures] + rows
    feeds: dict[str, Array] = {
        contract.PROMPT_EMBEDS: np.concatenate([row.tokens for row in rows]),
    }
    if manifest.model.takes_guidance_scale:
        feeds[contract.GUIDANCE_SCALE] = np.asarray(guidance_scale, np.float32)
    if manifest.model.family == "sdxl":
        pooled = [row.pooled for row in rows if row.pooled is not None]
        feeds[contract.POOLED_PROMPT_EMBEDS] = np.concatenate(pooled)
        feeds[contract.TIME_IDS] = time_ids(manifest, size, len(rows))
    return feeds


def time_ids(manifest: Manifest, size: PixelSize | Target, rows: int) -> Array:
    """SDXL's ``(original height, width, crop top, left, target height, width)``.

    The paper does not state them. (1) Each stage is told its own size, uncropped. (2) Both are told
    the native size. We do what the manifest says; its default is (1), as in a direct run.

    Returns:
        float32 ``[rows, 6]``, every row the same.
    """
    told = manifest.native if manifest.size_conditions == "native" else size
    ids = [told.height, told.width, 0, 0, told.height, told.width]
    return np.tile(np.asarray([ids], np.float32), (rows, 1))


def _unconditional(
    manifest: Manifest, picture: PictureRequest, embeddings: Mapping[str, TextEmbedding]
) -> TextEmbedding:
    if picture.negative_prompt is None and zeros_for_no_negative_prompt(manifest):
        return embeddings[picture.prompt].zeros_like()
    return embeddings[picture.negative_prompt or ""]
