"""Figures of one generated picture of the demo's world, against its prompt and the renderer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fam_export.demo.recognise import recognise
from fam_export.demo.scenes import Scene, parse_caption, render

Picture = NDArray[np.uint8]

LAYOUT_CELLS = 16
"""Pictures are compared in layout as means over a grid of this many cells a side."""

EDGE_SHARE = 0.01
"""The steepest hundredth of the pixels are the object's edges."""


@dataclass(frozen=True)
class PictureScore:
    """Figures of one picture.

    Attributes:
        count: objects seen.
        right: exactly one object, of the prompt's shape and colour.
        right_shape: exactly one object, of the prompt's shape.
        layout_distance: RMS difference to the native picture over 16 x 16 cells, values in [0, 1].
        sharpness: steepness of the edges over that of the renderer's picture of the prompt at the
            same size; 1 is as sharp as the truth, 1/s what enlarging the native picture gives.
    """

    count: int
    right: bool
    right_shape: bool
    layout_distance: float
    sharpness: float


def score_picture(picture: Picture, native: Picture, prompt: str) -> PictureScore:
    """Score a target picture ``[H, W, 3]`` made with `native` ``[h, w, 3]`` from `prompt`.

    The prompt must say shape, colour, texture, background and position.
    """
    wanted = parse_caption(prompt)
    seen = recognise(picture)
    truth = render(true_scene(prompt), picture.shape[0], picture.shape[1])
    return PictureScore(
        count=seen.count,
        right=seen.matches(wanted),
        right_shape=seen.count == 1 and seen.shape == wanted.shape,
        layout_distance=layout_distance(picture, native),
        sharpness=edge_steepness(picture) / edge_steepness(truth),
    )


def true_scene(prompt: str) -> Scene:
    """The scene that a full prompt describes, without jitter.

    Raises:
        ValueError: the prompt leaves an attribute open.
    """
    said = parse_caption(prompt)
    if not (said.shape and said.colour and said.texture and said.background and said.position):
        raise ValueError(f"the prompt must say everything about the scene: {prompt!r}")
    return Scene(said.shape, said.colour, said.texture, said.background, said.position)


def layout_distance(first: Picture, second: Picture) -> float:
    """RMS difference of the cell means of two pictures, which may differ in size."""
    return float(np.sqrt(np.mean((cell_means(first) - cell_means(second)) ** 2)))


def cell_means(picture: Picture) -> NDArray[np.float64]:
    """``[16, 16, 3]`` means in [0, 1]; sides must be multiples of 16."""
    height, width, channels = picture.shape
    cells = picture.reshape(
        LAYOUT_CELLS, height // LAYOUT_CELLS, LAYOUT_CELLS, width // LAYOUT_CELLS, channels
    )
    means: NDArray[np.float64] = cells.mean(axis=(1, 3)) / 255
    return means


def edge_steepness(picture: Picture) -> float:
    """Mean gradient magnitude of the steepest pixels, per pixel, of values in [0, 1]."""
    values = picture.astype(np.float64) / 255
    rows = np.diff(values, axis=0)[:, :-1]
    columns = np.diff(values, axis=1)[:-1]
    magnitude = np.sqrt((rows**2 + columns**2).sum(axis=-1)).ravel()
    steepest = max(int(EDGE_SHARE * magnitude.size), 1)
    return float(np.partition(magnitude, -steepest)[-steepest:].mean())
