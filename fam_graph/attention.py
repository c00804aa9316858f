"""Scaled dot-product attention as one operator, so that an exported graph holds one node for it.

Exported as matrix products and a softmax, attention at 16,384 tokens would materialise its map.
`fam::attention` survives `torch.export` as one call, which the exporter translates into the fused
node of the target library. Its layout, ``[batch, tokens, channels]``, is the one the projections
produce and the fused nodes take: no transposes are exported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def split_heads(values: torch.Tensor, heads: int) -> torch.Tensor:
    """``[B, N, heads·d]`` → ``[B, heads, N, d]``."""
    batch, tokens, channels = values.shape
    return values.reshape(batch, tokens, heads, channels // heads).transpose(1, 2)


def merge_heads(values: torch.Tensor) -> torch.Tensor:
    """``[B, heads, N, d]`` → ``[B, N, heads·d]``."""
    batch, heads, tokens, channels = values.shape
    return values.transpose(1, 2).reshape(batch, tokens, heads * channels)


@torch.library.custom_op("fam::attention", mutates_args=())
def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    scale: float | None = None,
) -> torch.Tensor:
    """``softmax(scale · Q Kᵀ) V`` for every head.

    Args:
        query: ``[B, N, heads·d]``.
        key, value: ``[B, M, heads·d]``.
        heads: number of heads.
        scale: None is ``1/√d``; 1 for queries that are scaled already.

    Returns:
        ``[B, N, heads·d]``, the dtype of `query`.
    """
    result = F.scaled_dot_product_attention(
        split_heads(query, heads), split_heads(key, heads), split_heads(value, heads), scale=scale
    )
    return merge_heads(result).contiguous()


@attention.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    scale: float | None = None,
) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def attention_map(
    query: torch.Tensor, key: torch.Tensor, heads: int, scale: float | None = None
) -> torch.Tensor:
    """``M = softmax(scale · Q Kᵀ)``, ``[B, heads, N, M]``; only small maps should be asked for."""
    queries, keys = split_heads(query, heads), split_heads(key, heads)
    if scale is None:
        scale = queries.shape[-1] ** -0.5
    return torch.softmax((queries * scale) @ keys.transpose(-1, -2), dim=-1)
