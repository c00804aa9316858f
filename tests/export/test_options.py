"""Sizes and scales: what a checkpoint can do, and what the refusals say."""

from __future__ import annotations

import pytest

from fam_export.options import SizeLimits, targets_from
from fam_runtime.bundle import PixelSize
from fam_runtime.errors import InvalidRequest

SD15 = SizeLimits(PixelSize(512, 512), multiple=64)
SDXL = SizeLimits(PixelSize(1024, 1024), multiple=32)


@pytest.mark.parametrize(
    ("limits", "scale", "expected"),
    [
        (SD15, "2", PixelSize(1024, 1024)),
        (SD15, "1.5", PixelSize(768, 768)),
        (SD15, "2x4", PixelSize(1024, 2048)),
        (SDXL, "1.5x1", PixelSize(1536, 1024)),
        (SDXL, "1.625", PixelSize(1664, 1664)),
    ],
)
def test_scale_gives_height_and_width(limits: SizeLimits, scale: str, expected: PixelSize) -> None:
    assert limits.target_from_scale(scale) == expected


def test_targets_are_sorted_and_unique() -> None:
    targets = targets_from(["4", "2"], ["1024x1024", "1536x1024"], SD15)
    assert [str(size) for size in targets] == ["1024x1024", "1536x1024", "2048x2048"]


@pytest.mark.parametrize("scale", ["1.1", "1", "0.5", "9", "1.00001"])
def test_impossible_scale_says_which_sizes_are_possible(scale: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        SD15.target_from_scale(scale)
    text = str(refusal.value)
    assert "multiples of 64 pixels" in text or "at most 8" in text


@pytest.mark.parametrize("scale", ["two", "", "2x", "2x2x2", "1/0", "nan", "-2", "0", "1e400"])
def test_what_is_no_scale_is_refused(scale: str) -> None:
    with pytest.raises(InvalidRequest, match="--scale is"):
        SD15.target_from_scale(scale)


@pytest.mark.parametrize("size", ["1024", "1024x", "x1024", "1024x1000", "512x512", "256x1024"])
def test_impossible_size_is_refused(size: str) -> None:
    with pytest.raises(InvalidRequest, match=r"HEIGHTxWIDTH|multiples of 64 pixels"):
        SD15.target_from_size(size)
