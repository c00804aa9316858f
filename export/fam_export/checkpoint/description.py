"""A checkpoint in one line."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fam_export.checkpoint.checkpoint import Checkpoint

SD_GENERATIONS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
"""By the width of the text embeddings."""

SHORT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def describe(checkpoint: Checkpoint) -> str:
    """What `checkpoint` is: generation, layout, stored dtype, LoRAs, distillation, assumptions."""
    words = [_generation(checkpoint), checkpoint.files.layout, _stored_dtype(checkpoint)]
    words += [f"LoRA {lora.name} x {lora.strength:g}" for lora in checkpoint.loras]
    if checkpoint.distilled is not None:
        words.append(f"distilled ({checkpoint.distilled.reason})")
    return ", ".join((*words, *checkpoint.notes))


def _generation(checkpoint: Checkpoint) -> str:
    if checkpoint.family == "sdxl":
        return "Stable Diffusion XL"
    width = checkpoint.config("unet")["cross_attention_dim"]
    return SD_GENERATIONS.get(width, "Stable Diffusion")


def _stored_dtype(checkpoint: Checkpoint) -> str:
    """That of most of the UNet's bytes."""
    weights = checkpoint.weights("unet")
    sizes: Counter[str] = Counter()
    for name in weights:
        dtype = weights.stored_dtype(name)
        elements = 1
        for length in weights.shape(name):
            elements *= length
        sizes[str(dtype).removeprefix("torch.")] += elements * dtype.itemsize
    largest = sizes.most_common(1)[0][0]
    return SHORT_DTYPES.get(largest, largest)
