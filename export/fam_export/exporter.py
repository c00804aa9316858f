"""Checkpoint → bundle: run the stages, check them, publish the result at once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import fam_export
import fam_graph
from fam_export.checkpoint import Checkpoint
from fam_export.definitions import UnetFacts
from fam_export.graph_factory import GraphFactory
from fam_export.manifest_assembly import (
    GENERATOR,
    check_same_options,
    defaults_of,
    extended_manifest,
    manifest_from_records,
)
from fam_export.options import ExportOptions, SizeLimits, targets_from
from fam_export.preflight import preflight
from fam_export.progress import NoProgress, Progress
from fam_export.shared_weights import TABLE_FILE
from fam_export.stages import UNET_FOLDER, Stage, StageContext, base_stages, target_stages
from fam_export.staging import StageRecord, Staging
from fam_graph.taps import UnknownTapLayer
from fam_runtime.bundle import (
    MANIFEST_NAME,
    Bundle,
    PixelSize,
    add_files,
    publish_directory,
    remove_temporary_files,
    write_atomically,
)
from fam_runtime.errors import ExportError, InvalidRequest
from fam_runtime.schedulers import NoiseSchedule

TARGET_FILES = ("unet/target-*.onnx", "unet/upsample-*.onnx", "fm/kernels-*.safetensors")

TOOLCHAIN = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir", GENERATOR)
"""Packages whose version shapes the graphs: a half-finished export of another set starts afresh."""


@dataclass(frozen=True)
class ExportResult:
    """What an export did.

    Attributes:
        bundle: where the bundle is.
        added: targets that this run added.
        present: targets that were there before.
        stages: how long each took, in order.
    """

    bundle: Path
    added: tuple[PixelSize, ...]
    present: tuple[PixelSize, ...]
    stages: tuple[StageTime, ...] = ()


@dataclass(frozen=True)
class StageTime:
    """How long a stage took; `resumed`: an earlier run, which was killed, had done it."""

    name: str
    seconds: float
    resumed: bool


def export(
    checkpoint: Checkpoint,
    output: Path,
    *,
    scales: Sequence[str] = (),
    sizes: Sequence[str] = (),
    options: ExportOptions | None = None,
    progress: Progress | None = None,
    check_resources: bool = True,
) -> ExportResult:
    """Export a checkpoint to a bundle at `output`, or add targets to the bundle that is there.

    The bundle appears at `output` whole or not at all. A run that was killed is continued by the
    next one with the same arguments, and ends in the same bytes.

    Args:
        checkpoint: from :func:`fam_export.checkpoint.open_checkpoint`.
        output: directory of the bundle.
        scales: factors such as ``"2"`` or ``"2x4"``.
        sizes: ``"HEIGHTxWIDTH"`` in pixels.
        options: None means those of :func:`options_for`.
        progress: is told about stages; None is silent.
        check_resources: refuse what the machine has not the memory or the disk for.

    Raises:
        InvalidRequest: a size that the checkpoint cannot do, or an unknown tap layer.
        CheckpointError: the checkpoint cannot be read.
        ParityError: an exported graph does not compute what its module computes.
        ExportError: the bundle at `output` was made from something else, or there is not enough
            memory.
        StorageError: there is not enough space on the disk.
    """
    options, progress = options or options_for(checkpoint), progress or NoProgress()
    graphs = GraphFactory(checkpoint, options)
    facts = _facts(graphs)
    wanted = targets_from(scales, sizes, SizeLimits(facts.native, facts.size_multiple))
    defaults = defaults_of(checkpoint, options, facts)
    # Sizes are compared here, hashes below: nothing that takes time comes before the preflight.
    NoiseSchedule.from_config(checkpoint.scheduler_config)  # refuses what no sampler does
    found = _existing_bundle(output, verify="size")
    added = _missing(wanted, found)
    needs = preflight(graphs, output, added, defaults)
    progress.plan(needs)
    if check_resources and (added or found is None):
        needs.check()
    fingerprint = checkpoint.fingerprint()
    work = _fingerprint_of_work(fingerprint, options, found)
    with Staging.opened(output.absolute(), work) as staging:
        existing = _unchanged(output, found)
        weights = (output if existing else staging.bundle) / UNET_FOLDER
        context = StageContext(graphs, fingerprint, staging.bundle, weights)
        if existing:
            check_same_options(existing.manifest, context)
            remove_temporary_files(output)
            _remove_orphans(output, set(existing.manifest.files))
        stages = () if existing else base_stages(checkpoint)
        stages += tuple(stage for size in added for stage in target_stages(size))
        records, times = _run(stages, context, staging, progress)
        _publish(output, existing, context, added, records)
        staging.remove()
    present = tuple(size for size in wanted if size not in added)
    return ExportResult(output, added, present, times)


def options_for(checkpoint: Checkpoint) -> ExportOptions:
    """The defaults for a checkpoint: a distilled one is exported without guidance."""
    return ExportOptions(guidance=checkpoint.distilled is None)


def _existing_bundle(output: Path, verify: str = "full") -> Bundle | None:
    """The whole bundle at `output`; None where nothing or an empty directory is."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    return Bundle.open(output, verify=verify)


def _unchanged(output: Path, found: Bundle | None) -> Bundle | None:
    """The bundle at `output`, whole, and the one that was found before the lock was taken.

    Raises:
        ExportError: another exporter published in between.
    """
    existing = _existing_bundle(output)
    if (existing and existing.hash) != (found and found.hash):
        raise ExportError(
            f"the bundle at {output} changed just now",
            expected="nobody else who writes there",
            fix="run the same command again",
        )
    return existing


def _publish(
    output: Path,
    existing: Bundle | None,
    context: StageContext,
    added: Sequence[PixelSize],
    records: Mapping[str, StageRecord],
) -> None:
    """Let the whole bundle appear at `output`, or the targets that were added to it."""
    staged = context.staged
    if existing is None:
        manifest = manifest_from_records(context, added, records)
        _remove_unlisted(staged, set(manifest.files))
        write_atomically(staged / MANIFEST_NAME, manifest.to_bytes())
        publish_directory(staged, output)
    elif added:
        add_files(output, staged, extended_manifest(existing.manifest, added, records))


def _missing(wanted: Sequence[PixelSize], existing: Bundle | None) -> tuple[PixelSize, ...]:
    """Targets that the bundle does not have yet."""
    present = {target.size for target in existing.manifest.targets} if existing else set()
    return tuple(size for size in wanted if size not in present)


def _facts(graphs: GraphFactory) -> UnetFacts:
    try:
        facts = graphs.facts
    except UnknownTapLayer as error:
        raise InvalidRequest(
            "the checkpoint has no such tap layer",
            got=error.layer,
            expected=f"self-attention layers or prefixes of {', '.join(error.available)}",
            fix="leave --tap-layers out for the layers of the paper",
        ) from error
    if facts.guidance_embedding and graphs.options.guidance:
        raise InvalidRequest(
            "the checkpoint takes the guidance scale as a condition of its UNet",
            got="--guidance",
            expected="a graph without the guidance batch",
            fix="leave --guidance out",
        )
    return facts


def _fingerprint_of_work(checkpoint: str, options: ExportOptions, extended: Bundle | None) -> str:
    """Half-finished work may be continued only by the same code on the same input.

    Graphs of targets refer to places in `weights.bin`, so the one that is extended counts.
    """
    table = extended and extended.manifest.files.get(f"{UNET_FOLDER}/{TABLE_FILE}")
    versions = {package: importlib.metadata.version(package) for package in TOOLCHAIN}
    sources = hashlib.sha256()
    for package in (fam_export, fam_graph):
        for file in sorted(Path(next(iter(package.__path__))).rglob("*.py")):
            sources.update(file.read_bytes())
    facts = {
        "checkpoint": checkpoint,
        "options": asdict(options),
        "versions": versions,
        "sources": sources.hexdigest(),
        "extends": table.sha256 if table else None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _run(
    stages: Sequence[Stage], context: StageContext, staging: Staging, progress: Progress
) -> tuple[Mapping[str, StageRecord], tuple[StageTime, ...]]:
    records, times = {}, []
    for index, stage in enumerate(stages):
        begun = time.monotonic()
        announce = progress.begin(stage, index, len(stages))
        record = staging.record_of(stage.name)
        resumed = record is not None
        if record is None:
            result = stage.run(context, announce)
            record = staging.finish(stage.name, result.files, result.graphs)
        progress.end(resumed=resumed)
        records[stage.name] = record
        times.append(StageTime(stage.name, time.monotonic() - begun, resumed))
    return records, tuple(times)


def _remove_orphans(bundle: Path, listed: set[str]) -> None:
    """Files of a target whose export was killed after they were moved, before the manifest was."""
    for pattern in TARGET_FILES:
        for file in bundle.glob(pattern):
            if file.relative_to(bundle).as_posix() not in listed:
                file.unlink()


def _remove_unlisted(root: Path, listed: set[str]) -> None:
    """Targets of an earlier, killed run that this one did not ask for, and temporary files."""
    for file in sorted(root.rglob("*")):
        if file.is_file() and file.relative_to(root).as_posix() not in listed:
            file.unlink()
