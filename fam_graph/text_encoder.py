"""CLIP text encoders as traceable modules."""

from __future__ import annotations

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection


class TextEncoder(nn.Module):
    """Token ids → prompt embeddings, and for an encoder with a projection the pooled embedding.

    Stable Diffusion 1 and 2 condition on the last hidden state after the final norm (SD 2 is
    trained on a checkpoint with the last layer removed). SDXL conditions on the last but one hidden
    state, without that norm, of both its encoders, and on the pooled embedding of the second.

    Args:
        model: the checkpoint's text encoder.
        penultimate: take the last but one hidden state (SDXL) instead of the last one.
    """

    def __init__(
        self, model: CLIPTextModel | CLIPTextModelWithProjection, *, penultimate: bool = False
    ) -> None:
        super().__init__()
        self.model, self.penultimate = model, penultimate

    @property
    def pooled(self) -> bool:
        """Whether a pooled embedding comes out as well."""
        return isinstance(self.model, CLIPTextModelWithProjection)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode prompts.

        Args:
            input_ids: int64 ``[B, 77]``.

        Returns:
            float32 ``prompt_embeds [B, 77, D]``, and with a projection also float32
            ``pooled_prompt_embeds [B, P]``.
        """
        outputs = self.model(input_ids, output_hidden_states=self.penultimate)
        embeds = outputs.hidden_states[-2] if self.penultimate else outputs.last_hidden_state
        if self.pooled:
            return embeds.to(torch.float32), outputs.text_embeds.to(torch.float32)
        return (embeds.to(torch.float32),)
