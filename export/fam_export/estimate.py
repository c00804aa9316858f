"""What an export will take, and generating with its bundle, before any weight is read.

Headers of the checkpoint's files and its configurations are enough. The constants are rounded
measurements of `benchmarks/full_size.py` on two cores; docs/performance.md has its tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fam_export.definitions import UnetFacts
from fam_export.graph_factory import GraphFactory
from fam_export.options import ExportOptions
from fam_export.precision import dtype_of_part
from fam_export.stages import MAX_DIRECT_CHECK_BYTES
from fam_graph.attention_modulation import Grid
from fam_runtime.bundle import TENSOR_DTYPE_BYTES, TENSOR_DTYPE_OF_MODEL, PixelSize

BASE_SECONDS = 1.0
TRACE_SECONDS_PER_TENSOR = 0.030
"""The tracer's time goes with the operators, and those with the parameters."""
WRITE_BYTES_PER_SECOND = 300e6
"""Reading, converting, hashing and writing a weight, and hashing the file it is in."""
CHECK_SECONDS = 12.0
"""Starting a process with PyTorch and ONNX Runtime, and small forward passes."""
CHECK_BYTES_PER_SECOND = 250e6
HASH_BYTES_PER_SECOND = 1.5e9

EXPORTER_BYTES = 900 << 20
"""PyTorch, diffusers, transformers, and the tracer at work."""
TENSOR_COPIES = 4
"""Of the largest tensor: as stored, converted, transposed, as bytes."""
CHECK_BYTES = 1400 << 20
"""Of the numeric check, besides the graph's weights: the module reads its own one by one."""
TWIN_CHECK_BYTES = 2300 << 20
"""The same where the graph is compared through its twin: measured 2.30 GB for SD 1.5 at 4x, 1.72
for SD 2.1 at 3x, 1.37 for SDXL at 2x."""
GRAPH_FILE_BYTES = 8 << 20
"""Of a UNet graph without its weights, and everything else that is small."""

RESNET_COPIES = 4
"""A residual block keeps its input and some copies of the joined input while it computes."""
TRANSFORMER_COPIES = 18
"""The feed-forward layer of a transformer block holds its eightfold width twice, and its input."""


@dataclass(frozen=True)
class TargetEstimate:
    """What one picture at a target takes in half or full precision, as the bundle is.

    Attributes:
        size: of the target.
        activation_bytes: at the peak of a step, beside the weights.
        stored_attention_bytes_per_step: native attention, if it is kept in memory; replaying it
            takes the native latents only.
    """

    size: PixelSize
    activation_bytes: int
    stored_attention_bytes_per_step: int


@dataclass(frozen=True)
class ExportEstimate:
    """What an export takes.

    Attributes:
        memory_bytes: of the exporter.
        check_memory_bytes: of the numeric check, most of it memory-mapped weights.
        disk_bytes: of the bundle, or of what is added to it.
        seconds: by stage.
        unet_bytes: weights of the UNet in the bundle's precision.
        other_bytes: weights of everything else.
        targets: one by one.
    """

    memory_bytes: int
    check_memory_bytes: int
    disk_bytes: int
    seconds: Mapping[str, float]
    unet_bytes: int
    other_bytes: int
    targets: tuple[TargetEstimate, ...]

    @property
    def least_memory_bytes(self) -> int:
        """Without which it cannot work: mapped weights can be dropped and read again."""
        return self.memory_bytes + CHECK_BYTES


def estimate_export(
    graphs: GraphFactory, targets: Sequence[PixelSize], *, extends: bool
) -> ExportEstimate:
    """What exporting `targets` takes.

    Args:
        graphs: of the checkpoint, with the options of the export.
        targets: that are added.
        extends: there is a bundle already, and only the targets are made.
    """
    checkpoint, options, facts = graphs.checkpoint, graphs.options, graphs.facts
    parts = {part: _PartSize.of(graphs, part) for part in checkpoint.parts}
    unet = parts["unet"]
    others = [size for part, size in parts.items() if part != "unet"]
    disk = len(targets) * GRAPH_FILE_BYTES
    if not extends:
        disk += GRAPH_FILE_BYTES + sum(size.bytes for size in parts.values())
    return ExportEstimate(
        memory_bytes=EXPORTER_BYTES + TENSOR_COPIES * max(p.largest for p in parts.values()),
        check_memory_bytes=unet.bytes
        + (TWIN_CHECK_BYTES if unet.bytes > MAX_DIRECT_CHECK_BYTES else CHECK_BYTES),
        disk_bytes=disk,
        seconds=_seconds(parts, targets, extends=extends),
        unet_bytes=unet.bytes,
        other_bytes=sum(size.bytes for size in others),
        targets=tuple(_target(graphs.module("unet").config, facts, options, t) for t in targets),
    )


@dataclass(frozen=True)
class _PartSize:
    """Bytes of a part in the bundle, of its largest tensor in fp32, and its number of tensors."""

    bytes: int
    largest: int
    tensors: int

    @classmethod
    def of(cls, graphs: GraphFactory, part: str) -> _PartSize:
        itemsize = dtype_of_part(part, graphs.options.dtype).itemsize
        counts = [parameter.numel() for parameter in graphs.module(part).parameters()]
        return cls(itemsize * sum(counts), 4 * max(counts), len(counts))

    @property
    def graph_seconds(self) -> float:
        """Tracing the graph and writing it without weights."""
        return BASE_SECONDS + TRACE_SECONDS_PER_TENSOR * self.tensors


def _seconds(
    parts: Mapping[str, _PartSize], targets: Sequence[PixelSize], *, extends: bool
) -> dict[str, float]:
    """Seconds of each stage, by its name."""
    unet = parts["unet"]
    # The twin is traced again, and every weight is hashed for it.
    step_check = unet.graph_seconds + CHECK_SECONDS + unet.bytes / CHECK_BYTES_PER_SECOND
    step = unet.graph_seconds + step_check
    seconds: dict[str, float] = {}
    if not extends:
        seconds["settings"] = BASE_SECONDS
        for part, size in parts.items():
            if part.startswith("text_encoder"):
                seconds[part] = size.graph_seconds + 2 * size.bytes / WRITE_BYTES_PER_SECOND
        vae = parts["vae"]
        for half in ("vae_decoder", "vae_encoder"):
            seconds[half] = vae.graph_seconds / 2 + 2 * vae.bytes / 2 / WRITE_BYTES_PER_SECOND
        seconds["native"] = step + unet.bytes / WRITE_BYTES_PER_SECOND
    for target in targets:
        seconds[f"kernels-{target}"] = BASE_SECONDS
        seconds[f"upsample-{target}"] = BASE_SECONDS
        seconds[f"target-{target}"] = step + unet.bytes / HASH_BYTES_PER_SECOND
    return seconds


def _target(
    config: Mapping[str, object], facts: UnetFacts, options: ExportOptions, size: PixelSize
) -> TargetEstimate:
    itemsize = TENSOR_DTYPE_BYTES[TENSOR_DTYPE_OF_MODEL[options.dtype]]
    batch = 2 if options.guidance else 1
    elements = activation_elements(config, facts.latent_of(size))
    stored = 0
    for layer in facts.taps.layers:
        tokens = layer.token_count
        per_token = 2 * layer.channels if facts.taps.form == "qk" else layer.heads * tokens
        stored += tokens * per_token
    return TargetEstimate(size, batch * itemsize * elements, batch * itemsize * stored)


def activation_elements(config: Mapping[str, object], latent: Grid) -> int:
    """Elements that are alive at the peak of a UNet's step, for a batch of one.

    The peak is in an up-block: skip connections that wait for the blocks above it, and the largest
    layer of its own.

    Args:
        config: the UNet's configuration.
        latent: latent size (height, width).
    """
    widths = [int(width) for width in _list(config["block_out_channels"])]
    blocks = [str(block) for block in _list(config["up_block_types"])][::-1]
    layers_value = config["layers_per_block"]
    layers = layers_value if isinstance(layers_value, int) else max(_list(layers_value))
    peak = waiting = 0
    for level, width in enumerate(widths):
        samples = (latent[0] >> level) * (latent[1] >> level)
        waiting += samples * (int(layers) + 1) * width
        above = widths[min(level + 1, len(widths) - 1)]
        joined = above + width
        layer = above + RESNET_COPIES * joined
        if "Attn" in blocks[level]:
            layer = max(layer, TRANSFORMER_COPIES * width)
        peak = max(peak, waiting + samples * layer)
    return peak


def _list(value: object) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [int(str(value))]
