"""The diffusers attention processor of every exported model, and what the two stages do with it.

One processor serves plain, tapped and modulated attention: what happens between the projections is
decided by the `exchange` that a call of the UNet passes along. Processors hold no state, so graphs
that share a UNet cannot see each other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from diffusers.models.attention_processor import Attention

from fam_graph.attention import attention, attention_map
from fam_graph.attention_modulation import (
    NativeAttention,
    NativeMap,
    NativeQueryKey,
    TapForm,
    TokenGridResampler,
    modulated_attention,
)


class AttentionExchange(Protocol):
    """Computes the attention of one UNet call, and hands native attention out or takes it in."""

    def attend(
        self,
        layer: str,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        heads: int,
        scale: float | None = None,
    ) -> torch.Tensor:
        """Attention of `layer` between its projections, all ``[batch, tokens, heads·d]``."""
        ...


class TapRecorder:
    """The native stage: plain attention that also keeps what the target stage needs.

    Args:
        layers: tap layers.
        form: keep queries and keys (`qk`) or the map (`maps`).

    Attributes:
        taps: filled during the call, keyed by layer.
    """

    def __init__(self, layers: tuple[str, ...], form: TapForm) -> None:
        self.layers, self.form = layers, form
        self.taps: dict[str, NativeAttention] = {}

    def attend(
        self,
        layer: str,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        heads: int,
        scale: float | None = None,
    ) -> torch.Tensor:
        """Plain attention; a tap layer's native attention is kept."""
        if layer in self.layers:
            self.taps[layer] = (
                NativeQueryKey(query, key)
                if self.form == "qk"
                else NativeMap(attention_map(query, key, heads, scale))
            )
        return attention(query, key, value, heads, scale)


class NativeGuidance:
    """The target stage: attention of the tap layers is mixed with the native map (Eq. 7).

    Args:
        native: native attention, keyed by layer.
        resamplers: token grids, keyed by layer.
        strength: λ, a scalar tensor.

    Attributes:
        asked: layers that have asked so far; a UNet whose processors were replaced asks for none.
    """

    def __init__(
        self,
        native: Mapping[str, NativeAttention],
        resamplers: Mapping[str, TokenGridResampler],
        strength: torch.Tensor,
    ) -> None:
        self.native, self.resamplers, self.strength = native, resamplers, strength
        self.asked: set[str] = set()

    def attend(
        self,
        layer: str,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        heads: int,
        scale: float | None = None,
    ) -> torch.Tensor:
        """Modulated attention in tap layers, plain attention elsewhere."""
        if layer not in self.native:
            return attention(query, key, value, heads, scale)
        self.asked.add(layer)
        return modulated_attention(
            query,
            key,
            value,
            self.native[layer],
            self.resamplers[layer],
            self.strength,
            heads,
            scale,
        )


class FusedAttentionProcessor:
    """Projections around the fused attention operator.

    Args:
        layer: name of the attention module, by which an exchange knows it.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        exchange: AttentionExchange | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """What diffusers calls; pixels of a VAE's mid-block are tokens as well."""
        residual = hidden_states
        spatial = hidden_states.ndim == 4
        if spatial:
            batch, channels, height, width = hidden_states.shape
            hidden_states = hidden_states.reshape(batch, channels, height * width).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, scale = scaled_query(attn, query)
        if exchange is None:
            attended = attention(query, key, value, attn.heads, scale)
        else:
            attended = exchange.attend(self.layer, query, key, value, attn.heads, scale)
        result = attn.to_out[0](attended)
        if spatial:
            result = result.transpose(1, 2).reshape(batch, channels, height, width)
        if attn.residual_connection:
            result = result + residual
        return result / attn.rescale_output_factor


def scaled_query(attn: Attention, query: torch.Tensor) -> tuple[torch.Tensor, float | None]:
    """Queries, and the scale that is left to the attention operator.

    The logits of SD 2.1 exceed fp16's range before they are scaled; its configuration asks for
    ``upcast_attention``. (1) Attend in fp32. (2) Scale the queries first, so that the product is
    the scaled one, at most 65504 as long as the logits are. We do (2) because fused kernels sum in
    fp32 anyway (diffusers' own fused processor ignores the flag), and because no library fuses
    attention in fp32: the map of one layer at 1536x1536 would take 50 GB.
    """
    if attn.upcast_attention:
        return query * attn.scale, 1.0
    return query, None


def fuse_attention(model: Any) -> None:
    """Give every attention layer of a UNet or a VAE the processor that exports as one node."""
    model.set_attn_processor(
        {
            name: FusedAttentionProcessor(name.removesuffix(".processor"))
            for name in model.attn_processors
        }
    )
