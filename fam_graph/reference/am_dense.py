"""Attention modulation (AM), Eqs. 6-7, with every attention map in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from fam_graph.attention_modulation import Grid, interpolation_mode


def token_interpolation(native: Grid, target: Grid, mode: str) -> torch.Tensor:
    """``A``: interpolation of the token grid as one dense matrix ``[N, n]``, float64.

    Column `j` is what a native picture that is 1 at token `j` and 0 elsewhere becomes.
    """
    tokens = native[0] * native[1]
    pictures = torch.eye(tokens, dtype=torch.float64).reshape(tokens, 1, *native)
    align_corners = None if mode == "nearest" else False
    large = F.interpolate(pictures, size=target, mode=mode, align_corners=align_corners)
    return large.reshape(tokens, -1).T


def interpolate_map(attention_map: torch.Tensor, native: Grid, target: Grid) -> torch.Tensor:
    """``U(Mⁿ, s)``: the native map on the target's token grids, its rows summing to one.

    The map is interpolated along its query grid and its key grid, never as an N×N picture. Literal
    Eq. 7 lets a row sum to ``λ s² + 1 - λ``; we renormalise, so that M̄ stays an attention map.
    For integer factors: ``A M Aᵀ`` with nearest `A`, rows divided by their sums. For other factors
    ``A M D`` with bilinear `A` and ``D`` the row-normalised ``Aᵀ`` is the definition: it can be
    applied without forming the map, and its rows sum to one by construction.

    Args:
        attention_map: ``[..., n, n]``.
        native: native token grid.
        target: target token grid.

    Returns:
        ``[..., N, N]``.
    """
    mode = interpolation_mode(native, target)
    up = token_interpolation(native, target, mode).to(attention_map.device, attention_map.dtype)
    if mode == "nearest":
        large = up @ attention_map @ up.T
        return large / large.sum(dim=-1, keepdim=True)
    down = up.T / up.T.sum(dim=1, keepdim=True)
    return up @ attention_map @ down


def modulate_map(
    target_map: torch.Tensor, native_map: torch.Tensor, strength: float, native: Grid, target: Grid
) -> torch.Tensor:
    """``M̄ = λ·U(Mⁿ, s) + (1-λ)·M``, Eqs. 6-7."""
    return strength * interpolate_map(native_map, native, target) + (1 - strength) * target_map


@dataclass
class AttentionMaps:
    """Native maps ``Mⁿ`` of one step, ``[2B, heads, n, n]`` per layer."""

    maps: dict[str, torch.Tensor] = field(default_factory=dict)


class DenseAttentionProcessor:
    """Self-attention of a transformer block with its map written out; subclasses see the map."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """What diffusers calls: projections, map, values, output projection."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError(f"{self.layer} is no plain self-attention")

        def heads_of(values: torch.Tensor) -> torch.Tensor:
            batch, tokens, channels = values.shape
            return values.view(batch, tokens, attn.heads, channels // attn.heads).transpose(1, 2)

        query, key, value = (
            heads_of(project(hidden_states)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        attention_map = self.visit(torch.softmax(scores, dim=-1))
        result = (attention_map @ value).transpose(1, 2).flatten(2)
        output: torch.Tensor = attn.to_out[1](attn.to_out[0](result))
        return output

    def visit(self, attention_map: torch.Tensor) -> torch.Tensor:
        """The map to use instead of ``softmax(QKᵀ/√d)``, ``[2B, heads, N, N]``."""
        return attention_map


class RecordingProcessor(DenseAttentionProcessor):
    """Keeps ``Mⁿ`` of its layer (native stage)."""

    def __init__(self, layer: str, recorded: AttentionMaps) -> None:
        super().__init__(layer)
        self.recorded = recorded

    def visit(self, attention_map: torch.Tensor) -> torch.Tensor:
        """The map itself, kept."""
        self.recorded.maps[self.layer] = attention_map
        return attention_map


class ModulatingProcessor(DenseAttentionProcessor):
    """Uses ``M̄`` instead of ``M`` (target stage, Eq. 7)."""

    def __init__(
        self, layer: str, recorded: AttentionMaps, strength: float, native: Grid, target: Grid
    ) -> None:
        super().__init__(layer)
        self.recorded, self.strength = recorded, strength
        self.native, self.target = native, target

    def visit(self, attention_map: torch.Tensor) -> torch.Tensor:
        """``M̄``."""
        native_map = self.recorded.maps[self.layer]
        return modulate_map(attention_map, native_map, self.strength, self.native, self.target)


@contextmanager
def processors_in_place(
    unet: UNet2DConditionModel, replaced: Mapping[str, DenseAttentionProcessor]
) -> Iterator[None]:
    """Attention processors of the layers in `replaced` for the duration of the context."""
    before = dict(unet.attn_processors)
    ours = {f"{layer}.processor": processor for layer, processor in replaced.items()}
    unet.set_attn_processor({**before, **ours})
    try:
        yield
    finally:
        unet.set_attn_processor(before)
