"""AM without maps against AM with maps (Eqs. 6-7)."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from fam_graph.attention import attention, attention_map, merge_heads, split_heads
from fam_graph.attention_modulation import (
    Grid,
    NativeAttention,
    NativeMap,
    NativeQueryKey,
    TapForm,
    TokenGridResampler,
    interpolation_mode,
    modulated_attention,
)
from fam_graph.reference.am_dense import interpolate_map, modulate_map, token_interpolation
from tests.graph.tolerances import ATTENTION

HEADS, CHANNELS = 2, 16
GRIDS: list[tuple[Grid, Grid]] = [
    ((4, 4), (8, 8)),
    ((4, 4), (12, 12)),
    ((4, 3), (16, 12)),
    ((4, 4), (8, 16)),
    ((4, 6), (6, 6)),
    ((5, 8), (8, 13)),
]
FORMS: list[TapForm] = ["qk", "maps"]


def tokens(grid: Grid, batch: int = 2) -> torch.Tensor:
    return 2 * torch.randn(batch, grid[0] * grid[1], CHANNELS)


def tap(query: torch.Tensor, key: torch.Tensor, form: TapForm) -> NativeAttention:
    if form == "qk":
        return NativeQueryKey(query, key)
    return NativeMap(attention_map(query, key, HEADS))


@pytest.mark.parametrize("strength", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("grids", "form"), list(product(GRIDS, FORMS)))
def test_factorised_is_dense(grids: tuple[Grid, Grid], form: TapForm, strength: float) -> None:
    native, target = grids
    query, key, value = (tokens(target) for _ in range(3))
    native_query, native_key = tokens(native), tokens(native)
    got = modulated_attention(
        query,
        key,
        value,
        tap(native_query, native_key, form),
        TokenGridResampler(native, target),
        torch.tensor(strength),
        HEADS,
    )
    dense = modulate_map(
        attention_map(query, key, HEADS),
        attention_map(native_query, native_key, HEADS),
        strength,
        native,
        target,
    )
    expected = merge_heads(dense @ split_heads(value, HEADS))
    assert float((got - expected).abs().max()) < ATTENTION


@pytest.mark.parametrize("form", FORMS)
def test_strength_zero_is_plain_attention_to_the_bit(form: TapForm) -> None:
    native, target = (4, 4), (8, 8)
    query, key, value = (tokens(target) for _ in range(3))
    got = modulated_attention(
        query,
        key,
        value,
        tap(tokens(native), tokens(native), form),
        TokenGridResampler(native, target),
        torch.tensor(0.0),
        HEADS,
    )
    assert torch.equal(got, attention(query, key, value, HEADS))


@pytest.mark.parametrize(("native", "target"), GRIDS)
def test_rows_of_the_interpolated_map_sum_to_one(native: Grid, target: Grid) -> None:
    native_map = attention_map(tokens(native), tokens(native), HEADS)
    large = interpolate_map(native_map, native, target)
    tokens_target = target[0] * target[1]
    assert large.shape == (2, HEADS, tokens_target, tokens_target)
    assert large.min() >= 0
    assert torch.allclose(large.sum(-1), torch.ones(()), atol=ATTENTION)


def test_nearest_map_repeats_tokens_of_the_grid() -> None:
    # Token (1, 0) of a 2x2 grid covers rows 2-3, columns 0-1 of a 4x4 grid: tokens 8, 9, 12, 13.
    native_map = torch.eye(4)
    large = interpolate_map(native_map, (2, 2), (4, 4))
    row = large[9]
    assert row.nonzero().flatten().tolist() == [8, 9, 12, 13]
    assert row[8] == pytest.approx(0.25)


@pytest.mark.parametrize(("native", "target"), GRIDS)
def test_down_is_the_row_normalised_transpose_of_up(native: Grid, target: Grid) -> None:
    resampler = TokenGridResampler(native, target)
    up = token_interpolation(native, target, interpolation_mode(native, target)).float()
    down = up.T / up.T.sum(dim=1, keepdim=True)
    small, large = tokens(native), tokens(target)
    assert float((resampler.up(small) - up @ small).abs().max()) < ATTENTION
    assert float((resampler.down(large) - down @ large).abs().max()) < ATTENTION


def test_half_precision_stays_half() -> None:
    native, target = (4, 6), (6, 6)
    query, key, value = (tokens(target).to(torch.bfloat16) for _ in range(3))
    taps = tap(tokens(native).to(torch.bfloat16), tokens(native).to(torch.bfloat16), "qk")
    resampler = TokenGridResampler(native, target)
    got = modulated_attention(query, key, value, taps, resampler, torch.tensor(0.7), HEADS)
    assert got.dtype == torch.bfloat16
