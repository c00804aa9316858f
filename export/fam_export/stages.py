"""The stages of an export: each makes some files of the bundle and can be skipped when done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import onnx_ir as ir

from fam_export.checkpoint import Checkpoint
from fam_export.definitions import UnetFacts
from fam_export.graph_definition import GraphDefinition
from fam_export.graph_factory import GraphFactory, GraphName
from fam_export.kernels import kernel_file
from fam_export.onnx_model import TracedGraph, traced_graph
from fam_export.options import ExportOptions
from fam_export.parity import GraphCheck, check_in_own_process, run_check
from fam_export.shared_weights import (
    TABLE_FILE,
    WEIGHTS_FILE,
    WeightTable,
    read_weight_table,
    refer_to_shared_weights,
    write_shared_weights,
)
from fam_runtime.bundle import GraphSpec, PixelSize, Target, write_atomically

UNET_FOLDER = "unet"

OWN_WEIGHTS_FILE = "model.bin"
MAX_INLINE_BYTES = 32 << 20
"""Text encoders and VAEs with more keep their weights beside them: a protobuf message is parsed as
a whole, and ends at 2 GiB."""

MAX_DIRECT_CHECK_BYTES = 512 << 20
"""A part with more weights is checked in a process of its own, and its UNet through the twin."""

MAX_DIRECT_CHECK_SAMPLES = 64 * 64
"""Latent samples. A UNet, or an upsampler with a VAE inside, at a larger size is compared through
its twin, however small it is."""

Announce = Callable[[str], None]
"""Told what a stage does next: ``load``, ``trace``, ``write``, ``compare``."""


@dataclass
class StageContext:
    """What stages share.

    Attributes:
        graphs: makes the definitions.
        fingerprint: of the checkpoint.
        staged: directory that stages write to.
        weights: directory with the shared weights: that of `staged`, or of the bundle when a
            target is added to one.
    """

    graphs: GraphFactory
    fingerprint: str
    staged: Path
    weights: Path

    @property
    def checkpoint(self) -> Checkpoint:
        """What is exported."""
        return self.graphs.checkpoint

    @property
    def options(self) -> ExportOptions:
        """How it is exported."""
        return self.graphs.options

    @property
    def facts(self) -> UnetFacts:
        """Sizes, widths and tap layers."""
        return self.graphs.facts

    @property
    def train_timesteps(self) -> int:
        """``T``."""
        return int(self.checkpoint.scheduler_config.get("num_train_timesteps", 1000))


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
    encoders = [GraphName("text_encoder")]
    if "text_encoder_2" in checkpoint.parts:
        encoders.append(GraphName("text_encoder_2"))
    return (
        Stage("settings", "tokenizer, scheduler", _settings, parts=("write",)),
        *(Stage(name.kind, name.kind.replace("_", " "), _plain_graph(name)) for name in encoders),
        Stage("vae_decoder", "VAE decoder", _plain_graph(GraphName("vae_decoder"))),
        Stage("vae_encoder", "VAE encoder", _plain_graph(GraphName("vae_encoder"))),
        Stage("native", "UNet, native step", _native),
    )


def target_stages(size: PixelSize) -> tuple[Stage, ...]:
    """What one target adds."""
    target = Target.for_size(size.height, size.width)

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
        name = GraphName("target", target)
        definition, traced = _traced(context, name, announce)
        table = read_weight_table(context.weights)
        return _unet_graph(context, name, definition, traced, table, announce)

    return (
        Stage(f"kernels-{size}", f"FM kernels, {size}", kernels, parts=("write",)),
        Stage(
            f"upsample-{size}", f"upsampler, {size}", _plain_graph(GraphName("upsample", target))
        ),
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
    text = json.dumps(context.checkpoint.scheduler_config, indent=2, sort_keys=True) + "\n"
    _write(context, scheduler, text.encode())
    return StageResult((*files, scheduler))


def _native(context: StageContext, announce: Announce) -> StageResult:
    name = GraphName("native")
    definition, traced = _traced(context, name, announce)
    announce("write")
    (context.staged / UNET_FOLDER).mkdir(exist_ok=True)
    table = write_shared_weights(traced.model, context.staged / UNET_FOLDER)
    result = _unet_graph(context, name, definition, traced, table, announce)
    weights = (f"{UNET_FOLDER}/{WEIGHTS_FILE}", f"{UNET_FOLDER}/{TABLE_FILE}")
    return StageResult((*result.files, *weights), result.graphs)


def _traced(
    context: StageContext, name: GraphName, announce: Announce
) -> tuple[GraphDefinition, TracedGraph]:
    announce("load")
    definition = context.graphs.definition(name)
    announce("trace")
    return definition, traced_graph(definition)


def _unet_graph(
    context: StageContext,
    name: GraphName,
    definition: GraphDefinition,
    traced: TracedGraph,
    table: WeightTable,
    announce: Announce,
) -> StageResult:
    announce("write")
    refer_to_shared_weights(traced.model, table, definition.file)
    _write(context, definition.file, _serialised(traced.model))
    announce("compare")
    spec = _checked(context, name, definition, traced, context.weights)
    return StageResult((definition.file,), {definition.file: spec})


def _plain_graph(name: GraphName) -> Callable[[StageContext, Announce], StageResult]:
    """A graph that keeps its weights to itself: inside, or in a file of its own beside it."""

    def run(context: StageContext, announce: Announce) -> StageResult:
        definition, traced = _traced(context, name, announce)
        announce("write")
        graph = context.staged / definition.file
        files = [definition.file]
        # The upsamplers share a folder, and so could not each have a file of that name.
        if name.kind == "upsample" or weight_bytes(traced.model) <= MAX_INLINE_BYTES:
            _write(context, definition.file, _serialised(traced.model))
        else:
            graph.parent.mkdir(parents=True, exist_ok=True)
            ir.save(traced.model, graph, external_data=OWN_WEIGHTS_FILE)
            files.append(f"{PurePosixPath(definition.file).parent}/{OWN_WEIGHTS_FILE}")
            for file in (graph, graph.with_name(OWN_WEIGHTS_FILE)):
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        announce("compare")
        spec = _checked(context, name, definition, traced, graph.parent)
        return StageResult(tuple(files), {definition.file: spec})

    return run


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all tensors of a model."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _checked(
    context: StageContext,
    name: GraphName,
    definition: GraphDefinition,
    traced: TracedGraph,
    weights: Path,
) -> GraphSpec:
    heavy = context.checkpoint.weights(name.part).nbytes > MAX_DIRECT_CHECK_BYTES
    fixed_size = name.part == "unet" or (
        name.kind == "upsample" and context.options.upsample_space == "pixel"
    )
    check = GraphCheck(
        context.checkpoint,
        context.options,
        name,
        context.staged / definition.file,
        weights,
        twin=fixed_size and (heavy or _samples(definition) > MAX_DIRECT_CHECK_SAMPLES),
    )
    parity = check_in_own_process(check) if heavy else run_check(check)
    return GraphSpec(
        definition.inputs,
        definition.outputs,
        parity.as_json(),
        activation_bytes=traced.activation_bytes,
    )


def _samples(definition: GraphDefinition) -> int:
    """Latent samples that a graph gives out."""
    height, width = definition.outputs[0].shape[-2:]
    return int(height) * int(width)


def _serialised(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _write(context: StageContext, name: str, data: bytes) -> None:
    path = context.staged / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
