"""The stages of an export: each makes some files of the bundle and can be skipped when done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import onnx_ir as ir

from fam_export import definitions
from fam_export.checkpoint import Checkpoint
from fam_export.definitions import UnetFacts, unet_facts
from fam_export.graph_definition import GraphDefinition
from fam_export.kernels import kernel_file
from fam_export.onnx_model import onnx_model_from_definition
from fam_export.options import ExportOptions
from fam_export.parity import check_parity
from fam_export.shared_weights import (
    TABLE_FILE,
    WEIGHTS_FILE,
    WeightTable,
    read_weight_table,
    refer_to_shared_weights,
    write_shared_weights,
)
from fam_runtime.bundle import GraphSpec, PixelSize, Target, write_atomically

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

UNET_FOLDER = "unet"

OWN_WEIGHTS_FILE = "model.bin"
MAX_INLINE_BYTES = 1 << 30
"""Larger graphs (SDXL's second text encoder) keep their weights beside them: a protobuf message
ends at 2 GiB."""

Announce = Callable[[str], None]
"""Told what a stage does next: ``load``, ``trace``, ``write``, ``compare``."""


@dataclass
class StageContext:
    """What stages share; the parts of the checkpoint are loaded when the first stage needs them.

    Attributes:
        fingerprint: of the checkpoint.
        staged: directory that stages write to.
        weights: directory with the shared weights: that of `staged`, or of the bundle when a
            target is added to one.
    """

    checkpoint: Checkpoint
    fingerprint: str
    options: ExportOptions
    staged: Path
    weights: Path

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        """The UNet in fp32."""
        return self.checkpoint.load_unet()

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The VAE in fp32."""
        return self.checkpoint.load_vae()

    @property
    def pixels_per_latent(self) -> int:
        """The VAE's factor, from its configuration."""
        return int(1 << (len(self.checkpoint.config("vae")["block_out_channels"]) - 1))

    @cached_property
    def facts(self) -> UnetFacts:
        """Sizes, widths and tap layers."""
        return unet_facts(self.unet, self.pixels_per_latent, self.options)

    @property
    def train_timesteps(self) -> int:
        """``T``."""
        return int(self.checkpoint.config("scheduler").get("num_train_timesteps", 1000))


@dataclass(frozen=True)
class StageResult:
    """Files that a stage wrote, relative to the bundle, and the graphs among them."""

    files: tuple[str, ...]
    graphs: Mapping[str, GraphSpec] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One resumable part of an export.

    Attributes:
        name: unique, and the name of its record.
        title: for the progress bar.
        run: does the work, announcing one of `parts` at a time.
    """

    name: str
    title: str
    run: Callable[[StageContext, Announce], StageResult]
    parts: tuple[str, ...] = ("load", "trace", "write", "compare")


def base_stages(checkpoint: Checkpoint) -> tuple[Stage, ...]:
    """Everything of a bundle but its targets."""
    stages = [Stage("settings", "tokenizer, scheduler", _settings, parts=("write",))]
    for index, folder in enumerate(part for part in checkpoint.parts if "text" in part):
        stages.append(Stage(folder, folder.replace("_", " "), _text_encoder(index)))
    stages += [
        Stage("vae_decoder", "VAE decoder", _vae("decoder")),
        Stage("vae_encoder", "VAE encoder", _vae("encoder")),
        Stage("native", "UNet, native step", _native),
    ]
    return tuple(stages)


def target_stages(size: PixelSize) -> tuple[Stage, ...]:
    """What one target adds."""
    target = Target.for_size(size.height, size.width)

    def upsample(context: StageContext, announce: Announce) -> StageResult:
        definition = definitions.upsample(context.vae, context.facts, target, context.options)
        return _plain_graph(context, definition, announce)

    def kernels(context: StageContext, announce: Announce) -> StageResult:
        announce("write")
        data = kernel_file(
            context.facts.latent_of(target),
            context.facts.latent_native,
            train_timesteps=context.train_timesteps,
            cutoff_reference=context.options.cutoff_reference,
        )
        _write(context, target.kernels, data)
        return StageResult((target.kernels,))

    def step(context: StageContext, announce: Announce) -> StageResult:
        definition = definitions.target_step(context.unet, context.facts, target, context.options)
        announce("trace")
        model = onnx_model_from_definition(definition)
        table = read_weight_table(context.weights)
        return _unet_graph(context, definition, model, table, announce)

    return (
        Stage(f"kernels-{size}", f"FM kernels, {size}", kernels, parts=("write",)),
        Stage(f"upsample-{size}", f"upsampler, {size}", upsample),
        Stage(f"target-{size}", f"UNet, target step, {size}", step),
    )


def _settings(context: StageContext, announce: Announce) -> StageResult:
    announce("write")
    files = []
    for index, folder in enumerate(context.checkpoint.tokenizers):
        tokenizer = context.checkpoint.load_tokenizer(index)
        name = f"{folder}/tokenizer.json"
        _write(context, name, tokenizer.backend_tokenizer.to_str(pretty=True).encode())
        files.append(name)
    scheduler = "scheduler/scheduler_config.json"
    source = context.checkpoint.root / scheduler
    _write(context, scheduler, source.read_bytes())
    return StageResult((*files, scheduler))


def _text_encoder(index: int) -> Callable[[StageContext, Announce], StageResult]:
    def run(context: StageContext, announce: Announce) -> StageResult:
        announce("load")
        checkpoint = context.checkpoint
        model = checkpoint.load_text_encoder(index)
        definition = definitions.text_encoder(
            model,
            index,
            int(model.config.max_position_embeddings),
            sdxl=checkpoint.family == "sdxl",
        )
        return _plain_graph(context, definition, announce)

    return run


def _vae(half: str) -> Callable[[StageContext, Announce], StageResult]:
    def run(context: StageContext, announce: Announce) -> StageResult:
        announce("load")
        define = definitions.vae_decoder if half == "decoder" else definitions.vae_encoder
        definition = define(context.vae, context.pixels_per_latent)
        return _plain_graph(context, definition, announce)

    return run


def _native(context: StageContext, announce: Announce) -> StageResult:
    announce("load")
    definition = definitions.native_step(context.unet, context.facts, context.options)
    announce("trace")
    model = onnx_model_from_definition(definition)
    announce("write")
    (context.staged / UNET_FOLDER).mkdir(exist_ok=True)
    table = write_shared_weights(model, context.staged / UNET_FOLDER)
    result = _unet_graph(context, definition, model, table, announce)
    weights = (f"{UNET_FOLDER}/{WEIGHTS_FILE}", f"{UNET_FOLDER}/{TABLE_FILE}")
    return StageResult((*result.files, *weights), result.graphs)


def _unet_graph(
    context: StageContext,
    definition: GraphDefinition,
    model: ir.Model,
    table: WeightTable,
    announce: Announce,
) -> StageResult:
    announce("write")
    refer_to_shared_weights(model, table, definition.file)
    _write(context, definition.file, _serialised(model))
    announce("compare")
    spec = _checked(definition, context.staged / definition.file, context.weights)
    return StageResult((definition.file,), {definition.file: spec})


def _plain_graph(
    context: StageContext, definition: GraphDefinition, announce: Announce
) -> StageResult:
    announce("trace")
    model = onnx_model_from_definition(definition)
    announce("write")
    graph = context.staged / definition.file
    files = [definition.file]
    if weight_bytes(model) <= MAX_INLINE_BYTES:
        _write(context, definition.file, _serialised(model))
    else:
        graph.parent.mkdir(parents=True, exist_ok=True)
        ir.save(model, graph, external_data=OWN_WEIGHTS_FILE)
        files.append(f"{PurePosixPath(definition.file).parent}/{OWN_WEIGHTS_FILE}")
    announce("compare")
    spec = _checked(definition, graph, graph.parent)
    return StageResult(tuple(files), {definition.file: spec})


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all tensors of a model."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _checked(definition: GraphDefinition, graph: Path, weights: Path) -> GraphSpec:
    parity = check_parity(definition, graph, weights)
    return GraphSpec(definition.inputs, definition.outputs, parity.as_json())


def _serialised(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _write(context: StageContext, name: str, data: bytes) -> None:
    path = context.staged / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
