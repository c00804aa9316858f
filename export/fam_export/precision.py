"""In which precision each part of a bundle computes, and why some stay in fp32.

Graphs are strongly typed: every conversion is a `Cast` in the graph, and a library that refuses
implicit ones (TensorRT) takes them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from fam_export.graph_definition import TORCH_DTYPES
from fam_runtime.bundle import TENSOR_DTYPE_OF_MODEL, ModelDtype

DTYPES: tuple[ModelDtype, ...] = get_args(ModelDtype)


@dataclass(frozen=True)
class KeptInFp32:
    """A part that computes in fp32 whatever the bundle's dtype is."""

    part: str
    why: str


KEPT_IN_FP32 = (
    KeptInFp32(
        "VAE",
        "activations of SDXL's decoder exceed 65504, which fp16 turns into black pictures, and "
        "bf16's 8 bits of mantissa are as coarse as the colours of a picture; it runs once",
    ),
    KeptInFp32(
        "sampler, guidance and FM",
        "the latent is a sum over all steps, and half precision would lose the small updates; "
        "these are a few operations on the latent",
    ),
    KeptInFp32(
        "sinusoids of timestep, size conditions and guidance scale",
        "arguments up to 1000 leave fp16 no fraction; they are cast where they meet the UNet",
    ),
    KeptInFp32(
        "text embeddings between the graphs",
        "one interface for every precision; the UNet casts them, except SDXL's pooled embedding, "
        "which joins the sinusoids first",
    ),
    KeptInFp32(
        "interpolation between the stages",
        "it acts on the latent, once per picture",
    ),
)


def dtype_of_part(part: str, dtype: ModelDtype) -> torch.dtype:
    """The dtype of the weights of a part of the checkpoint, such as ``unet``."""
    return torch.float32 if part == "vae" else TORCH_DTYPES[TENSOR_DTYPE_OF_MODEL[dtype]]
