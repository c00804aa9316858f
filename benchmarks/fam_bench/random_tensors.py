"""Random weights that a network survives: the same values by seed and name, in every format.

Every layer passes on about what it gets: norms near 1, small biases, weights of the size
``fan_in ** -0.5``; so that activations of a network of any depth stay finite in fp16, and nothing
is neutral. Values are rounded to fp16 at once, and a file in fp32 holds these, widened.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE_ELEMENTS = 1 << 22
"""Made at a time: 16 MB as the generator gives them."""

BIAS_SIZE = 0.1
EMBEDDING_SIZE = 0.7
EMBEDDINGS = ("token_embedding.weight", "position_embedding.weight")
QUERY_GAIN = 3.0
"""Of self-attention's queries: its logits spread over a few units, as in a trained UNet, and its
maps are far from uniform, which is what attention modulation is about."""


def random_pieces(
    seed: int, part: str, name: str, shape: tuple[int, ...]
) -> Iterator[NDArray[np.float16]]:
    """The elements of one weight in C order, piece by piece.

    Args:
        seed: of the checkpoint.
        part: such as ``unet``.
        name: of the weight in the module of the part; it decides what is drawn.
        shape: of the weight.
    """
    entropy = np.random.SeedSequence([seed, *f"{part}/{name}".encode()])
    generator = np.random.Generator(np.random.SFC64(entropy))
    mean, size = mean_and_size(name, shape)
    left = prod(shape)
    while left:
        count = min(left, PIECE_ELEMENTS)
        values = generator.standard_normal(count, dtype=np.float32)
        values *= np.float32(size)
        values += np.float32(mean)
        yield values.astype(np.float16)
        left -= count


def mean_and_size(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a weight, by its name and shape."""
    if len(shape) == 1:
        return float("norm" in name and name.endswith("weight")), BIAS_SIZE
    if name.endswith(EMBEDDINGS):
        return 0.0, EMBEDDING_SIZE
    gain = QUERY_GAIN if name.endswith("attn1.to_q.weight") else 1.0
    return 0.0, float(gain * prod(shape[1:]) ** -0.5)


def whole(pieces: Iterator[NDArray[Any]], shape: tuple[int, ...]) -> NDArray[Any]:
    """The weight in one array, for one that has to be turned around."""
    return np.concatenate(list(pieces)).reshape(shape)
