"""What a LoRA adds to one weight: strength x alpha / rank x up @ down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fam_export.checkpoint.stored_tensor import StoredTensor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoraLayer:
    """The two factors of one weight's update.

    Attributes:
        down: ``A``, [rank, in] or [rank, in, k, k].
        up: ``B``, [out, rank] or [out, rank, 1, 1].
        scale: strength x alpha / rank.
    """

    down: StoredTensor
    up: StoredTensor
    scale: float

    def delta(self) -> torch.Tensor:
        """The update in fp32, [out, in] or [out, in, k, k].

        The operations and their order are peft's, so that fp32 results are its results.
        """
        import torch

        down, up = self.down.read().to(torch.float32), self.up.read().to(torch.float32)
        if down.ndim == 4 and down.shape[2:] == (1, 1):
            return (up[:, :, 0, 0] @ down[:, :, 0, 0])[:, :, None, None] * self.scale
        if down.ndim == 4:
            product = torch.nn.functional.conv2d(down.transpose(0, 1), up).transpose(0, 1)
            return product * self.scale
        return up @ down * self.scale


def fused_weight(weight: torch.Tensor, layers: Sequence[LoraLayer]) -> torch.Tensor:
    """`weight` with the updates added in fp32, rounded once to the dtype of `weight`."""
    import torch

    total = weight.to(torch.float32, copy=True)
    for layer in layers:
        # A LoRA of a linear layer may meet a 1 x 1 convolution, and the other way round.
        total += layer.delta().reshape(total.shape)
    return total.to(weight.dtype)
