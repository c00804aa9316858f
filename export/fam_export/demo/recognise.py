"""Says what a picture of the demo's world shows, by the renderer's own ground truth.

The object is what has colour (all backgrounds are nearly grey).  Its connected parts are counted;
its outline is compared with the renderer's outlines of every shape at every angle of the world; its
colour is the nearest hue.  A doubled object counts as two, and a merged one fits no outline: both
are refused.  Only NumPy and Pillow; no learnt part, so it can be believed about any model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fam_export.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    SHAPES,
    Attributes,
    Scene,
    shape_distance,
)

Picture = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

WORKING_SIDE = 128  # pictures are reduced to this short side, in pixels, before measuring
CHROMA_THRESHOLD = 48.0  # max - min over R, G, B; backgrounds have <= 26, tinted objects >= 72
MIN_PART_AREA = 0.004  # share of the picture; smaller coloured specks are not objects
MIN_SHAPE_IOU = 0.82  # of the best outline; see tests/export/test_demo_recognise.py for the margin
MIN_COLOUR_SHARE = 0.7  # share of the object's pixels that must have the winning hue
MAX_HUE_ERROR = 22.0  # degrees; the world's hues are at least 36 apart

_GRID = 40  # outlines are compared on a _GRID x _GRID raster
_GRID_REACH = 1.2  # half the raster's side, in units of the square root of the object's area
_ANGLES = np.radians(np.arange(-14.0, 14.1, 2.0))
_SCALES = (0.95, 1.0, 1.05)
_SHIFTS = (-0.06, 0.0, 0.06)


@dataclass(frozen=True)
class Recognition:
    """What was seen.

    count: coloured connected parts above a small area.
    shape: the best outline's name, None when none fits well enough; `shape_iou` says how well.
    colour: the nearest hue's name, None when mixed; `colour_share` is its share of the pixels.
    background, position: the nearest ones.
    extent: the object's larger bounding-box side, in short sides of the picture.
    """

    count: int
    shape: str | None
    colour: str | None
    background: str
    position: str | None
    shape_iou: float
    colour_share: float
    extent: float

    def matches(self, wanted: Scene | Attributes) -> bool:
        """Exactly one object, of the wanted shape and colour (where the prompt says them)."""
        right_shape = wanted.shape is None or self.shape == wanted.shape
        right_colour = wanted.colour is None or self.colour == wanted.colour
        return self.count == 1 and self.shape is not None and right_shape and right_colour


def _working_copy(picture: Picture) -> FloatArray:
    """The picture at the working size, as float64 [h, w, 3], 0..255."""
    height, width = picture.shape[:2]
    factor = WORKING_SIDE / min(height, width)
    if factor < 1.0:
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    return picture.astype(np.float64)


def object_mask(picture: Picture) -> BoolArray:
    """Where the picture is coloured: bool, at the picture's own size [H, W]."""
    values = picture.astype(np.int16)
    coloured: BoolArray = (values.max(axis=2) - values.min(axis=2)) > CHROMA_THRESHOLD
    return coloured


def connected_parts(mask: BoolArray) -> NDArray[np.int64]:
    """Label 8-connected parts: int64 [H, W], 0 = outside, 1..n = parts (union-find over runs)."""
    parent: list[int] = [0]

    def root(label: int) -> int:
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    labels = np.zeros(mask.shape, dtype=np.int64)
    previous: list[tuple[int, int, int]] = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], row.view(np.int8), [0]))))
        current: list[tuple[int, int, int]] = []
        for start, stop in edges.reshape(-1, 2).tolist():
            touching = [root(n) for a, b, n in previous if a <= stop and b >= start]
            label = min(touching) if touching else len(parent)
            if not touching:
                parent.append(label)
            for other in touching:
                parent[other] = label
            labels[y, start:stop] = label
            current.append((start, stop, label))
        previous = current
    roots = np.array([root(n) for n in range(len(parent))])
    return np.unique(roots, return_inverse=True)[1][labels].astype(np.int64)


# --- shape --------------------------------------------------------------------------------------


def _grid_axes(scale: float, shift_x: float, shift_y: float) -> tuple[FloatArray, FloatArray]:
    """Raster coordinates x [1, G], y [G, 1], in units of sqrt(area) about the centroid."""
    axis = (np.arange(_GRID) + 0.5) / _GRID * 2.0 - 1.0
    axis = axis * _GRID_REACH * scale
    return (axis + shift_x)[None, :], (axis + shift_y)[:, None]


@cache
def _outlines() -> tuple[list[str], FloatArray]:
    """Names [n] and rasters [n, G*G] of every shape at every angle, of area 1, centroid 0."""
    names: list[str] = []
    rasters: list[FloatArray] = []
    fine = (np.arange(400) + 0.5) / 400 * 3.0 - 1.5
    x, y = np.meshgrid(fine, fine)
    for shape in SHAPES:
        for angle in _ANGLES:
            cos, sin = math.cos(angle), math.sin(angle)
            inside = shape_distance(shape, cos * x + sin * y, cos * y - sin * x) < 0.0
            names.append(shape)
            rasters.append(_normalised(inside, 1.0, 0.0, 0.0).ravel())
    return names, np.stack(rasters)


def _normalised(mask: BoolArray, scale: float, shift_x: float, shift_y: float) -> FloatArray:
    """Resample a mask to the raster [G, G], centred on its centroid, scaled to unit area."""
    rows, columns = np.nonzero(mask)
    unit = math.sqrt(len(rows))
    x, y = _grid_axes(scale, shift_x, shift_y)
    at_x = np.rint(x * unit + columns.mean()).astype(int)
    at_y = np.rint(y * unit + rows.mean()).astype(int)
    height, width = mask.shape
    seen = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    inside: BoolArray = mask[at_y.clip(0, height - 1), at_x.clip(0, width - 1)] & seen
    return inside.astype(np.float64)


def best_outline(mask: BoolArray) -> tuple[str, float]:
    """The best-fitting shape and its intersection over union, over angle, scale and shift."""
    names, outlines = _outlines()
    variants = np.stack(
        [_normalised(mask, s, dx, dy).ravel() for s in _SCALES for dx in _SHIFTS for dy in _SHIFTS]
    )
    common = variants @ outlines.T
    union = variants.sum(axis=1)[:, None] + outlines.sum(axis=1)[None, :] - common
    overlap = (common / np.maximum(union, 1.0)).max(axis=0)
    best = int(overlap.argmax())
    return names[best], float(overlap[best])


# --- colour, background, position ---------------------------------------------------------------


def _hue(pixels: FloatArray) -> FloatArray:
    """Hue in degrees 0..360 of RGB pixels [n, 3]."""
    red, green, blue = pixels.T
    angle: FloatArray = np.arctan2(math.sqrt(3.0) * (green - blue), 2.0 * red - green - blue)
    return np.degrees(angle) % 360.0


def dominant_colour(pixels: FloatArray) -> tuple[str | None, float]:
    """The colour that most pixels [n, 3] are nearest to, and its share; None when mixed."""
    hues = _hue(np.array(list(COLOURS.values()), dtype=np.float64))
    error = np.abs((_hue(pixels)[:, None] - hues[None, :] + 180.0) % 360.0 - 180.0)
    shares = (error < MAX_HUE_ERROR).mean(axis=0)
    best = int(shares.argmax())
    share = float(shares[best])
    return (list(COLOURS)[best] if share >= MIN_COLOUR_SHARE else None), share


def _nearest_background(pixels: FloatArray) -> str:
    """The background colour nearest to the median of pixels [n, 3]."""
    middle = np.median(pixels, axis=0)
    return min(BACKGROUNDS, key=lambda name: float(np.abs(middle - BACKGROUNDS[name]).sum()))


def _nearest_position(mask: BoolArray) -> str:
    """The nominal position nearest to the middle of the mask's bounding box."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    y = (rows.min() + rows.max() + 1) / 2 / height - 0.5
    x = (columns.min() + columns.max() + 1) / 2 / width - 0.5
    return min(POSITIONS, key=lambda name: math.dist((x, y), POSITIONS[name]))


def recognise(picture: Picture) -> Recognition:
    """Look at an RGB picture, uint8 [H, W, 3], of any size."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        got = f"{picture.dtype} {list(picture.shape)}"
        raise ValueError(f"picture to recognise | got {got} | expected uint8 [H, W, 3]")
    small = _working_copy(picture)
    coloured = object_mask(np.rint(small).astype(np.uint8))
    labels = connected_parts(coloured)
    areas = np.bincount(labels.ravel())[1:]
    large = np.flatnonzero(areas >= MIN_PART_AREA * labels.size) + 1
    outside = small[~coloured]
    background = _nearest_background(outside if len(outside) else small.reshape(-1, 3))
    if len(large) == 0:
        return Recognition(0, None, None, background, None, 0.0, 0.0, 0.0)
    mask = np.isin(labels, large)
    shape, overlap = best_outline(mask)
    colour, share = dominant_colour(small[mask])
    rows, columns = np.nonzero(mask)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    return Recognition(
        count=len(large),
        shape=shape if overlap >= MIN_SHAPE_IOU else None,
        colour=colour,
        background=background,
        position=_nearest_position(mask),
        shape_iou=overlap,
        colour_share=share,
        extent=float(extent) / min(small.shape[:2]),
    )
