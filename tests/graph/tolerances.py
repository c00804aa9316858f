"""How close is close, and why."""

from __future__ import annotations

import torch

INTERPOLATION = 2e-6
"""Largest error of a float32 interpolation of unit-variance samples: a few roundings."""

FREQUENCY = 1e-5
"""FM against the FFT form: two float32 products of some dozen terms of unit size."""

ATTENTION = 1e-5
"""AM against dense maps: the sums run in another order."""

LATENT_OF_VAE = 2e-5
"""Relative error of the VAE's halves: float32 through some dozen convolutions."""

TEXT = 2e-6
"""Relative error of the text encoders against diffusers' use of the same modules."""

ONE_STEP = 2e-5
"""Relative error of one denoising step: float32 through the UNet, attention in another order."""

TWO_STAGES = 2e-4
"""Relative error after two stages: ONE_STEP, carried and amplified by five steps each."""

VISIBLE = 25 * TWO_STAGES
"""Two methods must differ by this much for a comparison within TWO_STAGES to tell them apart."""


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference in units of the largest expected value."""
    assert got.shape == expected.shape, f"{tuple(got.shape)} is not {tuple(expected.shape)}"
    return float((got - expected).abs().max() / expected.abs().max())
