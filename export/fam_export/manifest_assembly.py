"""The manifest of a bundle, from the checkpoint's facts and the records of finished stages."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fam_export.checkpoint import DEMO, Checkpoint
from fam_export.definitions import UnetFacts
from fam_export.options import ExportOptions
from fam_export.stages import StageContext
from fam_export.staging import StageRecord
from fam_graph.frequency_modulation import CUTOFF_CONSTANT
from fam_runtime.bundle import (
    Defaults,
    FileRecord,
    FrequencyModulationInfo,
    GeneratorInfo,
    GraphSpec,
    LoraInfo,
    Manifest,
    ModelInfo,
    PixelSize,
    Target,
    TextEncoderInfo,
    UpsampleInfo,
    noise_schedule_from_config,
)
from fam_runtime.errors import ExportError

GENERATOR = "fam-diffusion"

DEFAULTS = Defaults()
DEFAULTS_DEMO = Defaults(num_inference_steps=25, guidance_scale=4.0)
"""The demo's small UNet needs fewer steps, and its colours saturate beyond this guidance."""

GUIDANCE_SCALE_LCM = 8.5
"""What diffusers' pipeline for latent consistency models takes by default."""


def manifest_from_records(
    context: StageContext, targets: Sequence[PixelSize], records: Mapping[str, StageRecord]
) -> Manifest:
    """The manifest of a new bundle.

    Args:
        context: the checkpoint and its facts.
        targets: sizes of the targets.
        records: of all stages.
    """
    files, graphs = _files_and_graphs(records)
    return Manifest(
        **_description(context),
        targets=_targets(targets),
        files=files,
        graphs=graphs,
    )


def extended_manifest(
    manifest: Manifest, added: Sequence[PixelSize], records: Mapping[str, StageRecord]
) -> Manifest:
    """`manifest` with further targets and the files of their stages."""
    files, graphs = _files_and_graphs(records)
    targets = [target.size for target in manifest.targets] + list(added)
    return replace(
        manifest,
        targets=_targets(targets),
        files={**manifest.files, **files},
        graphs={**manifest.graphs, **graphs},
    )


def check_same_options(manifest: Manifest, context: StageContext) -> None:
    """Targets can be added only with the options that the bundle was exported with.

    Raises:
        ExportError: an option differs; the text names it.
    """
    here = _description(context)
    # The name is the folder's, which may have been renamed.
    here["model"] = replace(here["model"], name=manifest.model.name)
    if here["model"].checkpoint_sha256 != manifest.model.checkpoint_sha256:
        raise ExportError(
            "the bundle was exported from another checkpoint",
            got=context.checkpoint.source,
            expected=f"the checkpoint {manifest.model.name} that it was made from, unchanged",
            fix="give that --model with the same --dtype, --lora and --config, or choose another "
            "--output",
        )
    for key, value in here.items():
        there = getattr(manifest, key)
        if key in ("generator", "text_encoders", "defaults") or there == value:
            continue
        raise ExportError(
            f"the bundle was exported with other options ({key})",
            got=value,
            expected=str(there),
            fix="repeat the options of the first export, or choose another --output",
        )


def _description(context: StageContext) -> dict[str, Any]:
    """Every field of a manifest that does not depend on targets and files."""
    checkpoint, options, facts = context.checkpoint, context.options, context.facts
    vae, scheduler = checkpoint.config("vae"), checkpoint.scheduler_config
    return {
        "generator": GeneratorInfo(GENERATOR, importlib.metadata.version(GENERATOR)),
        "model": ModelInfo(
            name=checkpoint.name,
            family=checkpoint.family,
            dtype=options.dtype,
            guidance=options.guidance,
            guidance_embedding=facts.guidance_embedding,
            loras=_loras(checkpoint),
            latent_channels=int(vae["latent_channels"]),
            vae_scale_factor=facts.pixels_per_latent,
            vae_scaling_factor=float(vae["scaling_factor"]),
            size_multiple=facts.size_multiple,
            force_zeros_for_empty_prompt=checkpoint.force_zeros_for_empty_prompt,
            checkpoint_sha256=context.fingerprint,
        ),
        "native": facts.native,
        "taps": facts.taps,
        "noise_schedule": noise_schedule_from_config(scheduler),
        "text_encoders": _text_encoders(context),
        "frequency_modulation": FrequencyModulationInfo(
            cutoff_reference=options.cutoff_reference, cutoff_constant=CUTOFF_CONSTANT
        ),
        "upsample": UpsampleInfo(space=options.upsample_space, mode=options.upsample_mode),
        "size_conditions": options.size_conditions if checkpoint.family == "sdxl" else None,
        "defaults": defaults_of(checkpoint, options, facts),
    }


def _loras(checkpoint: Checkpoint) -> tuple[LoraInfo, ...]:
    return tuple(LoraInfo(lora.name, lora.sha256(), lora.strength) for lora in checkpoint.loras)


def defaults_of(checkpoint: Checkpoint, options: ExportOptions, facts: UnetFacts) -> Defaults:
    """How the checkpoint is sampled when the user does not say."""
    if checkpoint.source == DEMO:
        return DEFAULTS_DEMO
    distilled = checkpoint.distilled
    if distilled is None or options.guidance:
        return DEFAULTS
    scale = GUIDANCE_SCALE_LCM if facts.guidance_embedding else 1.0
    return Defaults(
        scheduler=distilled.scheduler,
        num_inference_steps=distilled.num_inference_steps,
        guidance_scale=scale,
    )


def _text_encoders(context: StageContext) -> tuple[TextEncoderInfo, ...]:
    infos = []
    for index, folder in enumerate(context.checkpoint.tokenizers):
        tokenizer = context.checkpoint.load_tokenizer(index)
        encoder = folder.replace("tokenizer", "text_encoder")
        infos.append(
            TextEncoderInfo(
                graph=f"{encoder}/model.onnx",
                tokenizer=f"{folder}/tokenizer.json",
                max_length=int(context.checkpoint.config(encoder)["max_position_embeddings"]),
                pad_token_id=int(tokenizer.pad_token_id),
                bos_token_id=int(tokenizer.bos_token_id),
                eos_token_id=int(tokenizer.eos_token_id),
            )
        )
    return tuple(infos)


def _targets(sizes: Sequence[PixelSize]) -> tuple[Target, ...]:
    return tuple(Target.for_size(size.height, size.width) for size in sorted(sizes))


def _files_and_graphs(
    records: Mapping[str, StageRecord],
) -> tuple[dict[str, FileRecord], dict[str, GraphSpec]]:
    files: dict[str, FileRecord] = {}
    graphs: dict[str, GraphSpec] = {}
    for record in records.values():
        files.update(record.files)
        graphs.update(record.graphs)
    return files, graphs
