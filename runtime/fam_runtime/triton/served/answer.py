"""The tensors that answer a request."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fam_runtime.triton.interface import IMAGE, PNG, SETTINGS
from fam_runtime.triton.served.client_request import text_tensor
from fam_runtime.triton.served.made_picture import MadePicture, RgbPicture

WARNINGS = "warnings"
"""Key of a picture's settings that holds what the pipeline said about it."""


def answer_from_pictures(
    pictures: Sequence[MadePicture],
    settings: Sequence[Mapping[str, Any]],
    wants: Callable[[str], bool],
) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, ``[B, …]``; a PNG is made only where it is wanted.

    Args:
        pictures: all of one size.
        settings: of each picture.
        wants: whether the client asked for an output.
    """
    pairs = list(zip(pictures, settings, strict=True))
    answer: dict[str, npt.NDArray[Any]] = {IMAGE: np.stack([made.rgb for made in pictures])}
    if wants(PNG):
        answer[PNG] = text_tensor([_png(made.rgb, own) for made, own in pairs])
    answer[SETTINGS] = text_tensor(
        [json.dumps(_with_warnings(own, made), ensure_ascii=False) for made, own in pairs]
    )
    return answer


def _with_warnings(settings: Mapping[str, Any], made: MadePicture) -> dict[str, Any]:
    return {**settings, WARNINGS: list(made.warnings)} if made.warnings else dict(settings)


def _png(picture: RgbPicture, settings: Mapping[str, Any]) -> bytes:
    from fam_runtime.picture import pil_from_rgb, png_from_image

    return png_from_image(pil_from_rgb(picture), settings)
