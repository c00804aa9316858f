"""A finished picture, with what the pipeline said about it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fam_runtime.pipeline import GuidanceCost, NegativePromptUnused
from fam_runtime.prompt import PromptTruncated
from fam_runtime.request import PictureRequest

RgbPicture = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class MadePicture:
    """A picture.

    Attributes:
        rgb: uint8 ``[height, width, 3]``.
        warnings: sentences for the client who asked for it.
    """

    rgb: RgbPicture
    warnings: tuple[str, ...] = ()


def warnings_about(
    picture: PictureRequest, caught: Sequence[warnings.WarningMessage]
) -> tuple[str, ...]:
    """What was said about `picture`, in a call that may have made others' too.

    Of a prompt that was cut, only those hear whose prompt it is.
    """
    said = [warning.message for warning in caught if _concerns(warning.message, picture)]
    return tuple(dict.fromkeys(str(message) for message in said))


def is_about_a_request(message: Warning | str) -> bool:
    """Whether a client could do something about a warning; others are for who runs the server."""
    return isinstance(message, (PromptTruncated, GuidanceCost, NegativePromptUnused))


def _concerns(message: Warning | str, picture: PictureRequest) -> bool:
    if isinstance(message, PromptTruncated):
        return message.text in (picture.prompt, picture.negative_prompt)
    if isinstance(message, NegativePromptUnused):
        return bool(picture.negative_prompt)
    return isinstance(message, GuidanceCost)
