"""`U` against torch's own interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fam_graph.interpolation import InterpolationMode, interpolation_matrix
from fam_graph.reference.components import ReferenceComponents
from fam_graph.upsample import LatentUpsample, PixelUpsample, clamp_image
from tests.graph.tolerances import INTERPOLATION, LATENT_OF_VAE, largest_difference

SIZES = [
    ((8, 8), (16, 16)),
    ((8, 6), (24, 12)),
    ((7, 5), (21, 20)),
    ((8, 16), (13, 24)),
    ((9, 7), (9, 14)),
    ((16, 16), (8, 12)),
]
MODES: list[InterpolationMode] = ["bicubic", "bilinear", "nearest"]


def torch_resize(values: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    align_corners = None if mode == "nearest" else False
    return F.interpolate(values, size=size, mode=mode, align_corners=align_corners)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("native", "target"), SIZES)
def test_latent_upsample_is_torch_interpolate(
    native: tuple[int, int], target: tuple[int, int], mode: InterpolationMode
) -> None:
    latent = torch.randn(2, 4, *native)
    got = LatentUpsample(native, target, mode)(latent)
    assert largest_difference(got, torch_resize(latent, target, mode)) < INTERPOLATION


@pytest.mark.parametrize("mode", MODES)
def test_interpolation_rows_sum_to_one(mode: InterpolationMode) -> None:
    rows = interpolation_matrix(5, 13, mode).sum(dim=1)
    assert torch.allclose(rows, torch.ones(13), atol=INTERPOLATION)


def test_interpolation_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="source=0"):
        interpolation_matrix(0, 4, "nearest")
    with pytest.raises(ValueError, match="unknown interpolation 'lanczos'"):
        interpolation_matrix(4, 8, "lanczos")  # type: ignore[arg-type]


def test_pixel_upsample_is_decode_resize_clamp_encode(components: ReferenceComponents) -> None:
    latent = 0.2 * torch.randn(2, 4, 4, 8)
    image = torch_resize(components.decode(latent), (64, 96), "bicubic")
    assert image.abs().max() > 1, "the clamp must have something to do"
    expected = components.encode(image.clamp(-1, 1))
    got = PixelUpsample(components.vae, (4, 8), (8, 12))(latent)
    assert got.shape == (2, 4, 8, 12)
    assert largest_difference(got, expected) < LATENT_OF_VAE


def test_clamp_keeps_nan_visible() -> None:
    values = torch.tensor([-3.0, -1.0, 0.25, 1.0, 2.0, float("nan")])
    clamped = clamp_image(values)
    assert torch.equal(clamped[:5], torch.tensor([-1.0, -1.0, 0.25, 1.0, 1.0]))
    assert clamped[5].isnan()
