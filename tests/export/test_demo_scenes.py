"""The demo's world: exact at any size, and said in words that can be read back."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from fam_export.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    TEXTURES,
    Attributes,
    Scene,
    Window,
    caption,
    mask,
    parse_caption,
    render,
    sample_scene,
    shape_distance,
)


def _scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def _reduced(picture: np.ndarray, factor: int) -> np.ndarray:
    """Average factor x factor squares: [H, W, 3] -> float64 [H/f, W/f, 3]."""
    height, width, _ = picture.shape
    squares = picture.reshape(height // factor, factor, width // factor, factor, 3)
    return squares.astype(np.float64).mean(axis=(1, 3))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_larger_picture_reduces_to_the_smaller_one(factor: int) -> None:
    for scene in _scenes(20, seed=factor):
        small = render(scene, 64, 64).astype(np.float64)
        large = _reduced(render(scene, 64 * factor, 64 * factor), factor)
        error = np.abs(large - small)
        # Edge pixels: coverage from one distance is exact for straight edges only, hence corners.
        assert error.mean() < 0.25, scene
        assert (error.max(axis=2) > 24.0).mean() < 0.005, scene


def test_a_window_is_a_part_of_the_picture() -> None:
    for scene in _scenes(10, seed=0):
        whole = render(scene, 96, 128)
        part = render(scene, 96, 128, Window(top=20, left=31, height=40, width=50))
        np.testing.assert_array_equal(part, whole[20:60, 31:81])


@pytest.mark.parametrize(("height", "width"), [(64, 128), (128, 64), (144, 96)])
def test_the_object_is_not_stretched_in_other_aspect_ratios(height: int, width: int) -> None:
    scene = Scene("circle", "red", "plain", "grey", "right")
    rows, columns = np.nonzero(mask(scene, height, width))
    assert abs(int(np.ptp(rows)) - int(np.ptp(columns))) <= 1
    assert np.ptp(rows) + 1 == pytest.approx(2 * scene.radius * min(height, width), abs=2)
    assert (columns.mean() + 0.5) / width == pytest.approx(0.66, abs=0.01)


def test_objects_stay_inside_and_fill_about_half_of_the_width() -> None:
    for scene in _scenes(200, seed=1):
        inside = mask(scene, 64, 64)
        edge = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        assert not edge.any(), scene
        rows, columns = np.nonzero(inside)
        extent = (max(np.ptp(rows), np.ptp(columns)) + 1) / 64
        assert 0.35 < extent < 0.65, scene


def test_the_mask_is_what_differs_from_the_background() -> None:
    for scene in _scenes(20, seed=2):
        background = np.array(BACKGROUNDS[scene.background])
        differs = np.abs(render(scene, 128, 128) - background).max(axis=2) > 0
        inside = mask(scene, 128, 128)
        assert not (inside & ~differs).any()
        assert (differs & ~inside).mean() < 0.02  # the antialiased rim


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_distance_is_a_distance(shape: str) -> None:
    """Its slope is at most one, and its shape reaches about one radius."""
    axis = np.linspace(-1.4, 1.4, 281)
    x, y = np.meshgrid(axis, axis)
    distance = shape_distance(shape, x, y)
    spacing = axis[1] - axis[0]
    assert np.abs(np.diff(distance, axis=0)).max() <= spacing * 1.001
    assert np.abs(np.diff(distance, axis=1)).max() <= spacing * 1.001
    reach = np.abs(np.stack([x, y])[:, distance < 0]).max()
    assert 0.8 < reach < 1.12


def test_textures_change_the_picture_and_keep_the_hue() -> None:
    scene = Scene("square", "blue", "plain", "grey", "centre")
    pictures = [render(replace(scene, texture=name), 64, 64) for name in TEXTURES]
    for i, first in enumerate(pictures):
        for second in pictures[i + 1 :]:
            assert (first != second).any(axis=2).mean() > 0.03
    inside = mask(scene, 64, 64)
    for picture in pictures:
        assert (picture[inside].argmax(axis=1) == 2).all()


def test_a_full_caption_is_read_back() -> None:
    for scene in _scenes(100, seed=3):
        said = parse_caption(caption(scene))
        for field in fields(Attributes):
            assert getattr(said, field.name) == getattr(scene, field.name)


def test_random_captions_say_only_what_is_true() -> None:
    rng = np.random.default_rng(4)
    texts = set()
    for scene in _scenes(400, seed=4):
        text = caption(scene, rng)
        texts.add(text)
        said = parse_caption(text)
        for field in fields(Attributes):
            assert getattr(said, field.name) in (None, getattr(scene, field.name)), text
    assert len(texts) > 300


def test_short_prompts_are_among_the_random_captions() -> None:
    rng = np.random.default_rng(5)
    scene = Scene("triangle", "red", "plain", "cream", "left")
    texts = {caption(scene, rng) for _ in range(500)}
    assert {"a red triangle", "a red triangle on the left", "red triangle"} <= texts


def test_parse_caption_takes_the_first_word_of_a_kind() -> None:
    said = parse_caption("A RED star, next to a blue circle!")
    assert said == Attributes(shape="star", colour="red")
    assert parse_caption("") == Attributes()


def test_the_same_generator_gives_the_same_scenes() -> None:
    assert _scenes(5, seed=6) == _scenes(5, seed=6)


def test_every_attribute_occurs() -> None:
    scenes = _scenes(400, seed=7)
    assert {s.shape for s in scenes} == set(SHAPES)
    assert {s.colour for s in scenes} == set(COLOURS)


def test_a_picture_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="4x64"):
        render(Scene("circle", "red", "plain", "grey", "centre"), 4, 64)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="hexagon"):
        shape_distance("hexagon", np.zeros((2, 2)), np.zeros((2, 2)))
