"""FM as a convolution against FM with an FFT (Eqs. 3-5, 8-11)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fam_graph.frequency_modulation import (
    CutoffReference,
    InsideBox,
    frequency_modulation_tables,
    modulate_frequencies,
)
from fam_graph.reference.fm_fft import (
    cutoff_size,
    frequency_filter,
    modulate_frequencies_fft,
    skip_residual,
    skip_residual_weight,
)
from tests.graph.tolerances import FREQUENCY

SIZES = [((8, 8), (16, 16)), ((8, 8), (17, 21)), ((5, 7), (15, 28)), ((10, 12), (40, 20))]
EVERY = 1000


@pytest.mark.parametrize("reading", ["target", "native"])
@pytest.mark.parametrize(("native", "target"), SIZES)
def test_convolution_is_the_filter_at_every_step(
    native: tuple[int, int], target: tuple[int, int], reading: CutoffReference
) -> None:
    latent, reference = torch.randn(2, 1, 2, *target)
    tables = frequency_modulation_tables(*target, *native, cutoff_reference=reading)
    box = cutoff_size(native, target, reading)
    worst = 0.0
    for t in range(EVERY):
        rows, columns, weight = tables.rows[t], tables.columns[t], tables.weight[t]
        got = modulate_frequencies(latent, reference, rows, columns, weight)
        expected = modulate_frequencies_fft(latent, reference, frequency_filter(target, box, t))
        worst = max(worst, float((got - expected).abs().max()))
    assert worst < FREQUENCY


@settings(max_examples=40, deadline=None)
@given(
    native=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    factor=st.tuples(st.floats(1, 4), st.floats(1, 4)),
    timestep=st.integers(0, 999),
    reading=st.sampled_from(["target", "native"]),
    inside=st.sampled_from(["rho", "one_minus_rho"]),
)
def test_convolution_is_the_filter_at_any_size(
    native: tuple[int, int],
    factor: tuple[float, float],
    timestep: int,
    reading: CutoffReference,
    inside: InsideBox,
) -> None:
    target = (int(native[0] * factor[0]), int(native[1] * factor[1]))
    latent, reference = torch.randn(2, 2, 1, *target)
    tables = frequency_modulation_tables(
        *target, *native, cutoff_reference=reading, inside_box=inside
    )
    box = cutoff_size(native, target, reading)
    k = frequency_filter(target, box, timestep, inside=inside)
    got = modulate_frequencies(
        latent, reference, tables.rows[timestep], tables.columns[timestep], tables.weight[timestep]
    )
    expected = modulate_frequencies_fft(latent, reference, k)
    assert float((got - expected).abs().max()) < FREQUENCY


def test_weight_zero_is_the_identity_to_the_bit() -> None:
    latent, reference = torch.randn(2, 2, 4, 16, 12)
    tables = frequency_modulation_tables(16, 12, 8, 6)
    rows, columns = tables.rows[500], tables.columns[500]
    assert torch.equal(
        modulate_frequencies(latent, reference, rows, columns, torch.tensor(0.0)), latent
    )


@pytest.mark.parametrize("timestep", [0, 1, 250, 999])
def test_delta_kernel_is_the_skip_residual(timestep: int) -> None:
    latent, reference = torch.randn(2, 2, 4, 10, 13)
    got = modulate_frequencies(
        latent,
        reference,
        torch.eye(10)[0],
        torch.eye(13)[0],
        torch.tensor(skip_residual_weight(timestep)),
    )
    expected = skip_residual(latent, reference, timestep)
    assert float((got - expected).abs().max()) < FREQUENCY


def test_skip_residual_weight_falls_from_one_to_zero() -> None:
    weights = [skip_residual_weight(t) for t in (1000, 750, 500, 0)]
    assert weights == pytest.approx([1, 0.6219, 0.125, 0], abs=1e-4)


def test_edge_of_the_box_is_exact() -> None:
    # 80 · c · (1 - 950/1000) / 2 is 1 exactly; in floating point 1 - 0.95 exceeds 0.05 and the
    # frequency 1 would slip into the box, against the strict inequality of Eq. 8.
    k = frequency_filter((80, 80), (80, 80), 950)
    assert int((k < 1).sum()) == 1
    tables = frequency_modulation_tables(80, 80, 40, 40)
    assert tables.rows[950] == pytest.approx(torch.full((80,), 1 / 80))


def test_filter_grows_and_deepens_towards_the_end() -> None:
    filters = [frequency_filter((64, 64), (64, 64), t) for t in (900, 500, 100)]
    assert [int((k < 1).sum()) for k in filters] == [3 * 3, 15 * 15, 29 * 29]
    assert [float(k.min()) for k in filters] == pytest.approx([0.9, 0.5, 0.1])


def test_native_reading_halves_the_box_at_2x() -> None:
    target = frequency_filter((64, 64), cutoff_size((32, 32), (64, 64), "target"), 100)
    native = frequency_filter((64, 64), cutoff_size((32, 32), (64, 64), "native"), 100)
    assert [int((k < 1).sum()) for k in (target, native)] == [29 * 29, 15 * 15]


@pytest.mark.parametrize("option", ["cutoff_reference", "inside_box"])
def test_unknown_reading_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be .*, got 'both'"):
        frequency_modulation_tables(8, 8, 4, 4, **{option: "both"})  # type: ignore[arg-type]
