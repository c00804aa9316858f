"""Frequency modulation (FM), Eqs. 3-5 and 8-11, as a circular convolution with fixed kernels.

Eq. 4, ``f_t = IDFT(K ⊙ DFT(z_t) + (1-K) ⊙ DFT(z̃_t))``, equals ``z_t + κ_t ⊛ (z̃_t - z_t)`` with
``κ_t = IDFT(1-K)``. Because ``1-K = (1-ρ) · box_h · box_w`` is separable and real, the convolution
is two products with symmetric circulant matrices: no DFT operator is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

CUTOFF_CONSTANT = 0.5
"""``c`` of Eq. 9: the box reaches half of the band at the end of the trajectory."""

CutoffReference = Literal["target", "native"]

InsideBox = Literal["rho", "one_minus_rho"]
"""The value of `K` inside the box of Eq. 8; ``one_minus_rho`` is the inverted filter."""


@dataclass(frozen=True)
class FrequencyModulationTables:
    """Precomputed kernels, one row per training timestep.

    Attributes:
        rows: float32 ``[T, H]``, the one-dimensional kernel along the height.
        columns: float32 ``[T, W]``, the same along the width.
        weight: float32 ``[T]``, the value of ``1 - K`` inside the box: ``1 - ρ(t)``, or ``ρ(t)``
            for the inverted filter.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    weight: torch.Tensor


def box_kernels(length: int, cutoff_size: int, train_timesteps: int) -> torch.Tensor:
    """The kernel ``k = IDFT(box)`` of an axis for every training timestep.

    Args:
        length: samples of the axis that is filtered.
        cutoff_size: the `h` (or `w`) of Eqs. 9-10 that scales the box.
        train_timesteps: ``T``.

    Returns:
        float64 ``[T, length]``; symmetric, ``k[i] = k[(-i) mod length]``.
    """
    index = torch.arange(length)
    distance = torch.minimum(index, length - index)
    remaining = train_timesteps - torch.arange(train_timesteps)
    # |x - x_c| < τ/2 with τ = cutoff_size · c · (1-ρ), both sides times 2T, so that every number is
    # exact: where the two are equal, a rounding error would switch a frequency on or off.
    tau = cutoff_size * CUTOFF_CONSTANT * remaining.to(torch.float64)
    # Eq. 8's strict inequality around the centre makes the box symmetric, hence k real; with
    # c = 0.5 it reaches a quarter of the samples at most and never the unpaired Nyquist one.
    box = (2 * train_timesteps * distance)[None, :] < tau[:, None]
    return torch.fft.ifft(box.to(torch.complex128), dim=1).real


def frequency_modulation_tables(
    height: int,
    width: int,
    native_height: int,
    native_width: int,
    *,
    train_timesteps: int = 1000,
    cutoff_reference: CutoffReference = "target",
    inside_box: InsideBox = "rho",
) -> FrequencyModulationTables:
    """Kernel tables for one target size.

    Which `h, w` sets the cut-off of Eqs. 8-11? (1) The native size, as §3.1 names it. (2) The size
    that is filtered, as Appendix B.1 does. We do (2) because the equations stand there, and because
    at 4x (1) leaves objects built out of small copies; (1) stays as ``cutoff_reference="native"``.

    Is `K` inside the box (1) ρ or (2) ``1-ρ``? We do (1) because §3.1 wants the guidance to grow as
    ``t → 0``, and (2) doubles objects as the skip residual does; (2) is for ablation only.

    Args:
        height, width: target latent size.
        native_height, native_width: native latent size.
        train_timesteps: ``T``.
        cutoff_reference: the reading, see above.
        inside_box: the reading, see above.

    Returns:
        Tables of ``T`` rows; row `t` holds the kernels of timestep `t`, with ``ρ = t / T``.

    Raises:
        ValueError: unknown `cutoff_reference` or `inside_box`.
    """
    if cutoff_reference not in ("target", "native"):
        raise ValueError(f"cutoff_reference must be 'target' or 'native', got {cutoff_reference!r}")
    if inside_box not in ("rho", "one_minus_rho"):
        raise ValueError(f"inside_box must be 'rho' or 'one_minus_rho', got {inside_box!r}")
    native = cutoff_reference == "native"
    rows = box_kernels(height, native_height if native else height, train_timesteps)
    columns = box_kernels(width, native_width if native else width, train_timesteps)
    rho = torch.arange(train_timesteps, dtype=torch.float64) / train_timesteps
    weight = 1 - rho if inside_box == "rho" else rho
    return FrequencyModulationTables(
        rows.to(torch.float32), columns.to(torch.float32), weight.to(torch.float32)
    )


def circulant(kernel: torch.Tensor) -> torch.Tensor:
    """``C[i, j] = k[(i - j) mod N]`` for a kernel ``[N]``.

    A kernel repeated end to end and cut into rows of ``N - 1`` moves on by one in every row, which
    gives all columns of ``Cᵀ`` but the last; that one is the first, a row further on. An index
    table would do the same, and stay in every exported graph as a constant of ``8 N²`` bytes.
    """
    size = kernel.shape[0]
    if size == 1:
        return kernel.reshape(1, 1)
    repeated = kernel.expand(size, size).reshape(-1)
    columns = repeated[: size * (size - 1)].reshape(size, size - 1)
    first = columns[:, :1]
    return torch.cat([columns, torch.cat([first[1:], first[:1]])], dim=1).transpose(0, 1)


def modulate_frequencies(
    latent: torch.Tensor,
    reference: torch.Tensor,
    kernel_rows: torch.Tensor,
    kernel_columns: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """``f_t = z + w · C_h (z̃ - z) C_wᵀ`` (Eq. 4).

    Weight 0 is the identity; a delta kernel with weight `c1` is the skip residual.

    Args:
        latent: ``z_t``, float32 ``[B, C, H, W]``.
        reference: ``z̃_t``, the same shape.
        kernel_rows, kernel_columns: float32 ``[H]`` and ``[W]``.
        weight: float32 scalar, ``1 - ρ``.

    Returns:
        ``f_t``, the shape of `latent`.
    """
    difference = reference - latent
    rows, columns = circulant(kernel_rows), circulant(kernel_columns)
    low_frequencies = rows @ difference @ columns.transpose(0, 1)
    return latent + weight * low_frequencies
