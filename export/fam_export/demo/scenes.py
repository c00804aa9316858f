"""The procedural world of the demo checkpoint: one object a picture, drawn exactly at any size.

A `Scene` says what is in the picture, in words (shape, colour, texture, background, position) and
in small continuous jitter (radius, offset, angle, texture phase).  `render` evaluates signed
distance functions, so the same scene at twice the size *is* the true high-resolution picture: the
ground truth against which upscaled pictures are judged.  Only NumPy; no torch.

Coordinates: the origin is the picture's centre, x grows to the right, y grows downwards, and the
unit is the picture's short side (so nothing is stretched when height and width differ).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Rgb = tuple[int, int, int]

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "ring", "star", "cross")
#: Object colours, sRGB 0..255.  Hues lie at least 36 degrees apart, so hue alone tells them apart.
COLOURS: dict[str, Rgb] = {
    "red": (220, 38, 42),
    "yellow": (248, 208, 46),
    "green": (42, 165, 72),
    "cyan": (34, 190, 208),
    "blue": (44, 84, 218),
    "purple": (152, 54, 196),
}
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted")
#: Background colours, sRGB 0..255, all of low chroma (<= 30) so that objects stand out.
BACKGROUNDS: dict[str, Rgb] = {
    "cream": (246, 238, 220),
    "grey": (168, 172, 178),
    "slate": (78, 86, 100),
    "black": (22, 22, 28),
}
#: Nominal centre (x, y) of the object, in units of the picture's width and height.
POSITIONS: dict[str, tuple[float, float]] = {
    "centre": (0.0, 0.0),
    "left": (-0.16, 0.0),
    "right": (0.16, 0.0),
    "top": (0.0, -0.16),
    "bottom": (0.0, 0.16),
}

RADIUS_RANGE = (0.21, 0.28)  # short sides; the object covers 42-56 % of the picture's width
OFFSET_JITTER = 0.025  # of width / height, either way
ANGLE_JITTER = math.radians(10.0)  # either way
TEXTURE_PERIOD = 0.25  # short sides: 16 native pixels of 64, 4 latent pixels of 16
DOT_RADIUS = 0.075  # short sides
TINT = 0.42  # how far stripes and dots go from the object's colour towards white


@dataclass(frozen=True)
class Scene:
    """One picture's content; every attribute is an independent choice.

    shape, colour, texture, background, position: keys of the tables above.
    radius: half the object's extent, in short sides of the picture.
    offset_x, offset_y: jitter added to the position, in widths and heights of the picture.
    angle: clockwise rotation of the object, in radians.
    phase: shift of the texture, as a fraction of its period, 0..1.
    """

    shape: str
    colour: str
    texture: str
    background: str
    position: str
    radius: float = 0.245
    offset_x: float = 0.0
    offset_y: float = 0.0
    angle: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Window:
    """A part of a picture, in pixels: rows [top, top + height), columns [left, left + width)."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Attributes:
    """What a prompt says about the scene; None where it says nothing."""

    shape: str | None = None
    colour: str | None = None
    texture: str | None = None
    background: str | None = None
    position: str | None = None


ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "background": tuple(BACKGROUNDS),
    "position": tuple(POSITIONS),
}


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: attributes uniformly and independently, jitter uniformly in its ranges."""
    chosen = {name: str(rng.choice(values)) for name, values in ATTRIBUTE_VALUES.items()}
    return Scene(
        **chosen,
        radius=float(rng.uniform(*RADIUS_RANGE)),
        offset_x=float(rng.uniform(-OFFSET_JITTER, OFFSET_JITTER)),
        offset_y=float(rng.uniform(-OFFSET_JITTER, OFFSET_JITTER)),
        angle=float(rng.uniform(-ANGLE_JITTER, ANGLE_JITTER)),
        phase=float(rng.uniform()),
    )


# --- captions -----------------------------------------------------------------------------------

_PLACE = {
    "centre": "in the centre",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
_OPENINGS = ("", "", "", "a picture of ", "an image of ", "a drawing of ")
#: How often a clause is left out of a random caption.
_DROPPED = {"shape": 0.03, "colour": 0.08, "texture": 0.35, "background": 0.4, "position": 0.4}


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """Say the scene in words: in full when `rng` is None, else in a random phrasing.

    Random phrasings leave clauses out, so that short prompts such as "a red triangle" are familiar
    to the model that is trained on them.
    """
    said = {field.name: getattr(scene, field.name) for field in fields(Attributes)}
    if rng is None:
        return _sentence(said, "")
    kept = {name: None if rng.uniform() < _DROPPED[name] else said[name] for name in said}
    if rng.uniform() < 0.25:
        return _keywords(kept)
    return _sentence(kept, str(rng.choice(_OPENINGS)))


def _sentence(said: dict[str, str | None], opening: str) -> str:
    """Such as: a striped red star on the left on a cream background."""
    words = [word for word in (said["texture"], said["colour"]) if word]
    words.append(said["shape"] or "shape")
    text = f"{opening}a {' '.join(words)}"
    if said["position"]:
        text += f" {_PLACE[said['position']]}"
    if said["background"]:
        text += f" on a {said['background']} background"
    return text


def _keywords(said: dict[str, str | None]) -> str:
    """Such as: red star, striped, left, cream background."""
    parts = [" ".join(filter(None, (said["colour"], said["shape"] or "shape"))), said["texture"]]
    parts.append(said["position"])
    parts.append(f"{said['background']} background" if said["background"] else None)
    return ", ".join(part for part in parts if part)


def parse_caption(text: str) -> Attributes:
    """Read the attributes back out of a prompt; the first word of each kind counts."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    found: dict[str, str] = {}
    for word in words:
        for name, values in ATTRIBUTE_VALUES.items():
            if word in values:
                found.setdefault(name, word)
    return Attributes(**found)


# --- geometry -----------------------------------------------------------------------------------


def _polygon(radii: list[float], centre_y: float) -> FloatArray:
    """Vertices [n, 2] (x, y) at equal angles from the top, shifted down by `centre_y`."""
    angles = np.arange(len(radii)) * (2.0 * math.pi / len(radii))
    distances = np.array(radii, dtype=np.float64)
    return np.stack([distances * np.sin(angles), centre_y - distances * np.cos(angles)], axis=1)


# Both are shifted so that their bounding box is centred on the origin.
_TRIANGLE = _polygon([1.1] * 3, 0.275)
_STAR = _polygon([1.08, 0.47] * 5, 0.1)
_SQUARE_HALF = 0.86
_CROSS_ARM_HALF = 0.3
_RING_RADIUS, _RING_HALF = 0.7, 0.27


def _distance_to_polygon(x: FloatArray, y: FloatArray, vertices: FloatArray) -> FloatArray:
    """Signed distance to a closed polygon (negative inside), by even-odd crossing."""
    squared = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        squared = np.minimum(squared, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        crosses = (ay > y) != (by > y)
        if ay != by:
            inside ^= crosses & (x < ax + (y - ay) / (by - ay) * ex)
    distance: FloatArray = np.where(inside, -1.0, 1.0) * np.sqrt(squared)
    return distance


def _distance_to_box(x: FloatArray, y: FloatArray, half_x: float, half_y: float) -> FloatArray:
    """Signed distance to an axis-aligned box around the origin."""
    dx, dy = np.abs(x) - half_x, np.abs(y) - half_y
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def shape_distance(shape: str, x: FloatArray, y: FloatArray) -> FloatArray:
    """Signed distance to a shape of radius 1 at the origin, in radii; negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 1.0
    if shape == "ring":
        return np.abs(np.hypot(x, y) - _RING_RADIUS) - _RING_HALF
    if shape == "square":
        return _distance_to_box(x, y, _SQUARE_HALF, _SQUARE_HALF)
    if shape == "cross":
        upright = _distance_to_box(x, y, _CROSS_ARM_HALF, 1.0)
        return np.minimum(upright, _distance_to_box(x, y, 1.0, _CROSS_ARM_HALF))
    if shape == "triangle":
        return _distance_to_polygon(x, y, _TRIANGLE)
    if shape == "star":
        return _distance_to_polygon(x, y, _STAR)
    raise ValueError(f"unknown shape | got {shape!r} | expected one of {', '.join(SHAPES)}")


def _object_coordinates(
    scene: Scene, height: int, width: int, window: Window
) -> tuple[FloatArray, FloatArray]:
    """Pixel centres of `window` in the object's frame: x, y [h, w], in short sides."""
    short = min(height, width)
    centre_x, centre_y = POSITIONS[scene.position]
    rows = np.arange(window.top, window.top + window.height) + 0.5
    columns = np.arange(window.left, window.left + window.width) + 0.5
    x = (columns / width - 0.5 - centre_x - scene.offset_x) * (width / short)
    y = (rows / height - 0.5 - centre_y - scene.offset_y) * (height / short)
    x, y = np.meshgrid(x, y)
    cos, sin = math.cos(scene.angle), math.sin(scene.angle)
    return cos * x + sin * y, cos * y - sin * x


def _coverage(distance_pixels: FloatArray) -> FloatArray:
    """Share of each pixel that lies inside, from the signed distance of its centre in pixels."""
    return np.clip(0.5 - distance_pixels, 0.0, 1.0)


def _texture_distance(scene: Scene, x: FloatArray, y: FloatArray) -> FloatArray | None:
    """Signed distance to the tinted part of the texture, in short sides; None when plain."""
    if scene.texture == "plain":
        return None
    u, v = (x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)  # both textures run diagonally
    period = TEXTURE_PERIOD
    u = u + scene.phase * period
    fold_u = np.abs((u / period) % 1.0 - 0.5) * period
    if scene.texture == "striped":
        return fold_u - period / 4
    fold_v = np.abs((v / period) % 1.0 - 0.5) * period
    return np.hypot(fold_u, fold_v) - DOT_RADIUS


def _check_size(height: int, width: int) -> None:
    if height < 8 or width < 8:
        raise ValueError(f"picture size | got {height}x{width} | expected at least 8x8 pixels")


def render(
    scene: Scene, height: int, width: int, window: Window | None = None
) -> NDArray[np.uint8]:
    """Draw the scene at height x width pixels: uint8 [H, W, 3] sRGB, antialiased.

    `window` draws only that part of the picture, e.g. a training crop: uint8 [h, w, 3].
    """
    _check_size(height, width)
    window = window or Window(0, 0, height, width)
    pixels = min(height, width)
    x, y = _object_coordinates(scene, height, width, window)
    colour = np.array(COLOURS[scene.colour], dtype=np.float64)
    picture = np.broadcast_to(colour, (*x.shape, 3))
    tinted = _texture_distance(scene, x, y)
    if tinted is not None:
        tint = colour + TINT * (255.0 - colour)
        picture = colour + _coverage(tinted * pixels)[..., None] * (tint - colour)
    distance = shape_distance(scene.shape, x / scene.radius, y / scene.radius) * scene.radius
    inside = _coverage(distance * pixels)[..., None]
    background = np.array(BACKGROUNDS[scene.background], dtype=np.float64)
    return np.rint(background + inside * (picture - background)).astype(np.uint8)


def mask(scene: Scene, height: int, width: int) -> NDArray[np.bool_]:
    """Where the object is: bool [H, W], true for pixels whose centre lies inside."""
    _check_size(height, width)
    x, y = _object_coordinates(scene, height, width, Window(0, 0, height, width))
    return shape_distance(scene.shape, x / scene.radius, y / scene.radius) < 0.0
