"""The recogniser: right about what the renderer draws, and not to be fooled by doubled objects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fam_export.demo.recognise import MIN_SHAPE_IOU, connected_parts, recognise
from fam_export.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    SHAPES,
    Attributes,
    Scene,
    mask,
    render,
    sample_scene,
)


def _scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def _two_objects(scene: Scene, size: int, distance: float, direction: float) -> np.ndarray:
    """Two half-size copies of the scene's object, `distance` of their diameters apart."""
    small = replace(scene, position="centre", radius=scene.radius / 2)
    step = distance * scene.radius / 2
    dx, dy = step * math.cos(direction), step * math.sin(direction)
    first = replace(small, offset_x=-dx, offset_y=-dy)
    second = replace(small, offset_x=dx, offset_y=dy)
    covered = mask(second, size, size)[..., None]
    return np.where(covered, render(second, size, size), render(first, size, size))


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_at_least_98_percent_of_rendered_pictures_are_recognised(size: int) -> None:
    scenes = _scenes(125, seed=size)
    seen = [recognise(render(scene, size, size)) for scene in scenes]
    right = [r.matches(s) for r, s in zip(seen, scenes, strict=True)]
    assert sum(right) >= 0.98 * len(scenes)
    assert all(r.background == s.background for r, s in zip(seen, scenes, strict=True))
    assert sum(r.position == s.position for r, s in zip(seen, scenes, strict=True)) >= 122


def test_blurred_and_noisy_pictures_are_recognised() -> None:
    """As an autoencoder's round trip leaves them (about 25 dB)."""
    rng = np.random.default_rng(0)
    right = 0
    scenes = _scenes(60, seed=1)
    for scene in scenes:
        blurred = Image.fromarray(render(scene, 128, 128)).filter(ImageFilter.GaussianBlur(1.2))
        noisy = np.asarray(blurred) + rng.normal(0.0, 8.0, (128, 128, 3))
        right += recognise(np.clip(noisy, 0, 255).astype(np.uint8)).matches(scene)
    assert right >= 0.98 * len(scenes)


def test_other_aspect_ratios_are_recognised() -> None:
    for scene in _scenes(20, seed=2):
        assert recognise(render(scene, 128, 256)).matches(scene)
        assert recognise(render(scene, 192, 128)).matches(scene)


def test_doubled_objects_count_as_two() -> None:
    for scene in _scenes(40, seed=3):
        seen = recognise(_two_objects(scene, 128, distance=2.6, direction=scene.phase * 6.28))
        assert seen.count == 2, scene
        assert not seen.matches(scene)


@pytest.mark.parametrize("distance", [0.5, 0.75, 1.0])
def test_merged_objects_are_refused(distance: float) -> None:
    """Two overlapping copies are one part, but no outline of the world fits them."""
    refused = [
        not recognise(_two_objects(s, 128, distance, direction=s.phase * 6.28)).matches(s)
        for s in _scenes(60, seed=int(distance * 100))
    ]
    assert sum(refused) >= 0.97 * len(refused)


def test_the_outline_threshold_has_a_margin() -> None:
    """Rendered outlines fit much better than the threshold asks for."""
    fits = [recognise(render(scene, 64, 64)).shape_iou for scene in _scenes(120, seed=4)]
    assert min(fits) > MIN_SHAPE_IOU + 0.03


def test_an_empty_picture_shows_nothing() -> None:
    seen = recognise(np.full((64, 64, 3), BACKGROUNDS["grey"], dtype=np.uint8))
    assert (seen.count, seen.shape, seen.colour, seen.background) == (0, None, None, "grey")
    assert not seen.matches(Attributes())


def test_an_object_of_two_colours_has_none() -> None:
    scene = Scene("square", "red", "plain", "grey", "centre")
    picture = render(scene, 128, 128)
    other = render(replace(scene, colour="blue"), 128, 128)
    picture[:, 64:] = other[:, 64:]
    seen = recognise(picture)
    assert (seen.count, seen.shape, seen.colour) == (1, "square", None)


def test_wrong_shape_or_colour_does_not_match() -> None:
    scene = Scene("ring", "green", "plain", "black", "left")
    seen = recognise(render(scene, 128, 128))
    assert seen.matches(scene)
    assert seen.matches(Attributes(colour="green"))
    for shape in set(SHAPES) - {"ring"}:
        assert not seen.matches(Attributes(shape=shape))
    for colour in set(COLOURS) - {"green"}:
        assert not seen.matches(Attributes(shape="ring", colour=colour))


def test_extent_and_position_are_measured() -> None:
    for position in POSITIONS:
        scene = Scene("circle", "purple", "plain", "cream", position, radius=0.25)
        seen = recognise(render(scene, 128, 128))
        assert seen.position == position
        assert seen.extent == pytest.approx(0.5, abs=0.02)


def test_connected_parts_agree_with_flood_filling() -> None:
    rng = np.random.default_rng(5)
    for share in (0.2, 0.4, 0.5, 0.6):
        filled = rng.uniform(size=(24, 31)) < share
        labels = connected_parts(filled)
        assert ((labels > 0) == filled).all()
        assert _same_partition(labels, _flood_filled(filled))


def _flood_filled(filled: np.ndarray) -> np.ndarray:
    """The plain way: grow each part from its first pixel."""
    labels = np.zeros(filled.shape, dtype=int)
    for seed in zip(*np.nonzero(filled), strict=True):
        if labels[seed]:
            continue
        number, stack = labels.max() + 1, [seed]
        while stack:
            y, x = stack.pop()
            inside = 0 <= y < filled.shape[0] and 0 <= x < filled.shape[1]
            if inside and filled[y, x] and not labels[y, x]:
                labels[y, x] = number
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


def _same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    pairs = {(int(a), int(b)) for a, b in zip(first.ravel(), second.ravel(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("picture", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_anything_but_an_rgb_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\]"):
        recognise(picture)
