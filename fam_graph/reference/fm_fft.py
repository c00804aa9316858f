"""Frequency modulation (FM) with a Fourier transform: Eqs. 3-5 and 8-11 as the paper has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch

from fam_graph.frequency_modulation import CutoffReference, InsideBox

CUTOFF = Fraction(1, 2)
"""``c`` of Eqs. 9-10."""


def box_axis(size: int, cutoff_size: int, timestep: int, train_timesteps: int) -> list[bool]:
    """Where an axis of `size` centred frequencies lies strictly inside the box of Eq. 8.

    ``|x - x_c| < τ/2``, ``τ = cutoff_size · c · (1 - ρ)``, ``ρ = t / T``, in exact fractions: a
    rounding error at the edge of the box would switch a whole frequency on or off. The centre
    ``x_c`` is where ``fftshift`` puts frequency zero.
    """
    rho = Fraction(timestep, train_timesteps)
    tau = cutoff_size * CUTOFF * (1 - rho)
    centre = size // 2
    return [abs(x - centre) < tau / 2 for x in range(size)]


def frequency_filter(
    size: tuple[int, int],
    cutoff_size: tuple[int, int],
    timestep: int,
    train_timesteps: int = 1000,
    inside: InsideBox = "rho",
) -> torch.Tensor:
    """``K(t)`` in centred frequency, Eqs. 8-11.

    Args:
        size: height and width of the latent that is filtered.
        cutoff_size: the `h` and `w` of Eqs. 9-10: `size` itself, or the native size.
        timestep: `t`.
        train_timesteps: ``T``.
        inside: the value inside the box: ``rho`` is our reading, ``one_minus_rho`` the inverted
            filter of a third-party port, kept for ablation.

    Returns:
        float64 ``[H, W]``: ρ (or 1 - ρ) inside the box, 1 outside.
    """
    rho = timestep / train_timesteps
    rows, columns = (
        torch.tensor(box_axis(n, cutoff, timestep, train_timesteps))
        for n, cutoff in zip(size, cutoff_size, strict=True)
    )
    box = rows[:, None] & columns[None, :]
    value = rho if inside == "rho" else 1 - rho
    return torch.where(box, value, 1.0).to(torch.float64)


def modulate_frequencies_fft(
    latent: torch.Tensor, reference: torch.Tensor, frequency_filter: torch.Tensor
) -> torch.Tensor:
    """``f_t = IDFT(K ⊙ DFT(z_t) + (1-K) ⊙ DFT(z̃_t))``, Eq. 4.

    Args:
        latent: ``z_t``, ``[B, C, H, W]``.
        reference: ``z̃_t``, the same shape.
        frequency_filter: ``K``, ``[H, W]`` in centred frequency.

    Returns:
        ``f_t``, the shape and dtype of `latent`; computed in float64.
    """
    axes = (-2, -1)

    def centred_spectrum(values: torch.Tensor) -> torch.Tensor:
        return torch.fft.fftshift(torch.fft.fft2(values.to(torch.float64), dim=axes), dim=axes)

    k = frequency_filter.to(latent.device)
    mixed = k * centred_spectrum(latent) + (1 - k) * centred_spectrum(reference)
    result = torch.fft.ifft2(torch.fft.ifftshift(mixed, dim=axes), dim=axes)
    return result.real.to(latent.dtype)


def skip_residual_weight(timestep: float, train_timesteps: int = 1000) -> float:
    """DemoFusion's ``c1 = ((1 + cos(π (T-t)/T)) / 2)³``: 1 at ``t = T``, 0 at ``t = 0``."""
    remaining = (train_timesteps - timestep) / train_timesteps
    return float(((1 + math.cos(math.pi * remaining)) / 2) ** 3)


def skip_residual(
    latent: torch.Tensor, reference: torch.Tensor, timestep: float, train_timesteps: int = 1000
) -> torch.Tensor:
    """``c1 · z̃_t + (1-c1) · z_t``: what FM replaces (the paper's Fig. 3, after DemoFusion)."""
    weight = skip_residual_weight(timestep, train_timesteps)
    return weight * reference + (1 - weight) * latent


def cutoff_size(
    native: Sequence[int], target: Sequence[int], reading: CutoffReference
) -> tuple[int, int]:
    """The `h, w` of Eqs. 9-10 under a reading; the two are argued in ``docs/equations.md``."""
    height, width = native if reading == "native" else target
    return height, width
