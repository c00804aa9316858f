"""Training the text encoder: its states must tell what a caption says.

Linear heads (thrown away afterwards) read the five attributes, "not said" included, from the state
at the end of the prompt and from a random state of the padding behind it.  The encoder is then
frozen, so that the UNet's training can keep caption embeddings in a cache.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from fam_export.demo.architecture import MAX_TOKENS
from fam_export.demo.loop import LossFunction
from fam_export.demo.scenes import ATTRIBUTE_VALUES, caption, parse_caption, sample_scene


class TextTrainee(nn.Module):
    """The encoder and one head an attribute: ids [B, 77] -> logits [B, values + 1] each."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(values) + 1) for name, values in ATTRIBUTE_VALUES.items()}
        )

    def forward(self, ids: Tensor, position: Tensor) -> dict[str, Tensor]:
        """Logits read from the state at token `position` [B] of each prompt."""
        states = self.encoder(ids).last_hidden_state
        state = states[torch.arange(len(ids), device=ids.device), position]
        return {name: head(state) for name, head in self.heads.items()}


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """int64 [B, 77], padded and cut as diffusers' pipelines do."""
    encoded: Any = tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids
    return ids


def attribute_labels(captions: list[str]) -> dict[str, Tensor]:
    """int64 [B] each: the index of the value that the caption names; the last one: not said."""
    said = [asdict(parse_caption(text)) for text in captions]
    return {
        name: torch.tensor([values.index(s[name]) if s[name] else len(values) for s in said])
        for name, values in ATTRIBUTE_VALUES.items()
    }


def text_loss(trainee: TextTrainee, tokenizer: CLIPTokenizer, batch: int) -> LossFunction:
    """Cross-entropy over the five heads, at the end token and at one padding token."""
    device = next(trainee.parameters()).device

    def loss(step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        captions = [caption(sample_scene(rng), rng) for _ in range(batch)]
        ids = token_ids(tokenizer, captions)
        end = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        padding = torch.from_numpy(rng.integers(end.numpy() + 1, MAX_TOKENS))
        position = end if step % 2 == 0 else padding
        logits = trainee(ids.to(device), position.to(device))
        labels = {name: label.to(device) for name, label in attribute_labels(captions).items()}
        total = torch.stack([functional.cross_entropy(logits[n], labels[n]) for n in labels]).sum()
        right = torch.stack([(logits[n].argmax(dim=1) == labels[n]).float().mean() for n in labels])
        return total, {"accuracy": right.mean().item()}

    return loss
