"""What a session on the CPU takes, from the manifest and the outlines of the files.

Weights are counted in bytes of float32, since the CPU provider computes float16 graphs in float32.
The factors were measured (peak of the resident set, ONNX Runtime 1.31, x86-64) on graphs with
240 MB of weights in float32: one of matrix products, one of 3 x 3 convolutions.
"""

from __future__ import annotations

import json
import math
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fam_runtime.backends.base import VAE_SAMPLES, GraphMemory

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, Manifest
    from fam_runtime.bundle.manifest_parts import ModelDtype

PACKED = 1.05
"""A loaded session has one copy of its weights; measured 1.03, once freed memory is given back."""
LOADING_MATRICES = {"fp32": 1.1, "fp16": 1.35}
"""While matrices are packed one by one; measured 1.10, and 1.30 with float32 made of float16."""
LOADING_CONVOLUTIONS = 2.1
"""All convolutions are blocked before the originals go; measured 2.09."""
LOADING_FP16_WITH_CONVOLUTIONS = 2.6
"""There the float16 originals, all of them in float32, and the packed copies meet; measured 2.3 for
convolutions alone, 2.55 for as many bytes of matrices."""
LOADING_INLINE = {"fp32": 1.0, "fp16": 0.6}
"""More while weights are read out of the .onnx file; measured 0.3 to 1.0, and 0.4 to 0.65."""
INLINE_LOW_MEMORY = 1.1
"""Of the file's bytes, for weights inside it, neither packed nor mapped; measured 1.07."""
CONVERTED_AT_ONCE = 2
"""float16 weights that are float32 at the same time in low-memory mode: one used, one freed."""

_LARGEST_MATRIX_BYTES = 16 << 20
"""Of a text encoder, or of a graph that keeps its weights inside; OpenCLIP's has 13 MB in fp16."""
_CONVOLUTIONS_OF_UNET = 0.5
"""Share of convolutions in a UNet whose weights are inside its graphs; SD 1.5 has 0.6."""

RUNNING_PACKED = {"unet fp32": 1.4, "unet fp16": 1.7, "vae": 1.65}
"""Live tensors do not tell what operators need inside, nor how an arena rounds. Measured with a
UNet of half the channels of SD 1.5 at 96 x 96 latent samples: 1.38 and 1.66; with SD's VAE 1.02 at
64 x 64 and 1.6 at 96 x 96, for an arena grows by doubling."""
RUNNING_LOW_MEMORY = {"unet fp32": 1.4, "unet fp16": 1.4, "vae": 0.8}
"""The same without an arena: 1.38, 1.2, 0.64 (operators that write over their input)."""
UNKNOWN_STEP_BYTES_PER_SAMPLE = 48 << 10
"""Of a step per latent sample where the manifest does not say: SD 1.5 with guidance, float32."""
UNKNOWN_VAE_BYTES_PER_SAMPLE = 192 << 10
"""Of the VAE per latent sample: three times 256 channels of 64 pixels in float32."""
UNKNOWN_TEXT_BYTES = 8 << 20
"""Of a text encoder: 77 tokens of 5120 channels in float32, a few times."""


class _Weights(NamedTuple):
    """Bytes of a graph's weights as they lie in files."""

    inline: int
    beside: int
    largest: int
    convolutions: float  # share, 0 to 1


def session_memory(bundle: Bundle, graph: str, *, low_memory: bool) -> GraphMemory:
    """What a session of `graph` takes, with packed weights or in low-memory mode."""
    manifest = bundle.manifest
    dtype, weights = manifest.dtype_of(graph), _weights(bundle, graph)
    slack = RUNNING_LOW_MEMORY if low_memory else RUNNING_PACKED
    kind = "vae" if _is_vae(manifest, graph) else f"unet {_computed_like(dtype)}"
    running = math.ceil(_running_bytes(manifest, graph) * slack[kind])
    if not low_memory:
        own, loading = _packed_bytes(weights, dtype)
        return GraphMemory(own, loading, 0, running)
    own = math.ceil(weights.inline * INLINE_LOW_MEMORY)
    if dtype == "fp16":
        running += CONVERTED_AT_ONCE * 2 * weights.largest
    if graph.startswith("unet/"):
        return GraphMemory(own, own, weights.beside, running)
    return GraphMemory(own + weights.beside, own, 0, running)


def _computed_like(dtype: ModelDtype) -> Literal["fp16", "fp32"]:
    """The key of the tables above."""
    return "fp16" if dtype == "fp16" else "fp32"


def _packed_bytes(weights: _Weights, dtype: ModelDtype) -> tuple[int, int]:
    """Bytes of a session that packs its weights, and at most while it is being loaded."""
    kind, scale = _computed_like(dtype), 2 if dtype == "fp16" else 1
    share = weights.convolutions
    factor = share * LOADING_CONVOLUTIONS + (1 - share) * LOADING_MATRICES[kind]
    if dtype == "fp16" and share:
        factor = LOADING_FP16_WITH_CONVOLUTIONS
    total = scale * (weights.inline + weights.beside)
    inline = scale * weights.inline * LOADING_INLINE[kind]
    return math.ceil(total * PACKED), math.ceil(total * factor + inline)


def _running_bytes(manifest: Manifest, graph: str) -> int:
    """The tensors alive together, in the precision they are computed in."""
    known = manifest.graphs[graph].activation_bytes
    if known:
        return known * (2 if manifest.dtype_of(graph) == "fp16" else 1)
    if graph in (manifest.vae.encoder, manifest.vae.decoder):
        return UNKNOWN_VAE_BYTES_PER_SAMPLE * VAE_SAMPLES
    if _is_text_encoder(manifest, graph):
        return UNKNOWN_TEXT_BYTES
    samples = math.prod(
        size for size in manifest.graphs[graph].outputs[0].shape[-2:] if isinstance(size, int)
    )
    if _is_vae(manifest, graph):
        in_pixels = manifest.upsample.space == "pixel"
        return samples * UNKNOWN_VAE_BYTES_PER_SAMPLE if in_pixels else 0
    return samples * UNKNOWN_STEP_BYTES_PER_SAMPLE


def _is_vae(manifest: Manifest, graph: str) -> bool:
    upsamplers = (target.upsample for target in manifest.targets)
    return graph in (manifest.vae.encoder, manifest.vae.decoder, *upsamplers)


def _is_text_encoder(manifest: Manifest, graph: str) -> bool:
    return any(graph == encoder.graph for encoder in manifest.text_encoders)


def _weights(bundle: Bundle, graph: str) -> _Weights:
    manifest, sizes = bundle.manifest, bundle.external_bytes(graph)
    inline = manifest.files[graph].bytes
    beside = sum(sizes.values())
    largest = max(sizes.values(), default=0)
    if not sizes or _is_text_encoder(manifest, graph):  # whose embeddings are not converted
        largest = min(inline + beside, _LARGEST_MATRIX_BYTES)
    return _Weights(inline, beside, largest, _share_of_convolutions(bundle, graph, sizes))


def _share_of_convolutions(bundle: Bundle, graph: str, sizes: dict[str, int]) -> float:
    """Of the bytes of a graph's weights: 0 to 1."""
    if _is_text_encoder(bundle.manifest, graph):
        return 0.0
    if _is_vae(bundle.manifest, graph):
        return 1.0
    index = PurePosixPath(graph).with_name("weights.json").as_posix()
    if not sizes or index not in bundle.manifest.files:
        return _CONVOLUTIONS_OF_UNET
    entries: Any = json.loads(bundle.read_bytes(index))
    ranks = {name: len(entries[name]["shape"]) for name in sizes if name in entries}
    convolutions = sum(size for name, size in sizes.items() if ranks.get(name) == 4)
    return convolutions / max(sum(sizes.values()), 1)
