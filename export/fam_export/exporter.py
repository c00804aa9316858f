"""Checkpoint → bundle: run the stages, check them, publish the result at once."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import fam_export
import fam_graph
from fam_export.checkpoint import Checkpoint
from fam_export.definitions import UnetFacts
from fam_export.manifest_assembly import (
    GENERATOR,
    check_same_options,
    extended_manifest,
    manifest_from_records,
)
from fam_export.options import ExportOptions, SizeLimits, targets_from
from fam_export.parity import CHECK_THREADS
from fam_export.progress import NoProgress, Progress
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
from fam_runtime.errors import InvalidRequest

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
    """

    bundle: Path
    added: tuple[PixelSize, ...]
    present: tuple[PixelSize, ...]


def export(
    checkpoint: Checkpoint,
    output: Path,
    *,
    scales: Sequence[str] = (),
    sizes: Sequence[str] = (),
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a checkpoint to a bundle at `output`, or add targets to the bundle that is there.

    The bundle appears at `output` whole or not at all. A run that was killed is continued by the
    next one with the same arguments, and ends in the same bytes.

    Args:
        checkpoint: from :func:`fam_export.checkpoint.open_checkpoint`.
        output: directory of the bundle.
        scales: factors such as ``"2"`` or ``"2x4"``.
        sizes: ``"HEIGHTxWIDTH"`` in pixels.
        options: None means the defaults.
        progress: is told about stages; None is silent.

    Raises:
        InvalidRequest: a size that the checkpoint cannot do, or an unknown tap layer.
        CheckpointError: the checkpoint cannot be read.
        ParityError: an exported graph does not compute what its module computes.
        ExportError: the bundle at `output` was made from something else.
    """
    options, progress = options or ExportOptions(), progress or NoProgress()
    fingerprint = checkpoint.fingerprint()
    work = _fingerprint_of_work(fingerprint, options)
    with Staging.opened(output.absolute(), work) as staging, _one_thread():
        existing = _existing_bundle(output)
        weights = (output if existing else staging.bundle) / UNET_FOLDER
        context = StageContext(checkpoint, fingerprint, options, staging.bundle, weights)
        facts = _facts(context)
        wanted = targets_from(scales, sizes, SizeLimits(facts.native, facts.size_multiple))
        present = tuple(t.size for t in existing.manifest.targets) if existing else ()
        added = tuple(size for size in wanted if size not in present)
        if existing:
            check_same_options(existing.manifest, context)
            remove_temporary_files(output)
            _remove_orphans(output, set(existing.manifest.files))
        stages = () if existing else base_stages(checkpoint)
        stages += tuple(stage for size in added for stage in target_stages(size))
        records = _run(stages, context, staging, progress)
        if existing is None:
            manifest = manifest_from_records(context, added, records)
            _remove_unlisted(staging.bundle, set(manifest.files))
            write_atomically(staging.bundle / MANIFEST_NAME, manifest.to_bytes())
            publish_directory(staging.bundle, output)
        elif added:
            manifest = extended_manifest(existing.manifest, added, records)
            add_files(output, staging.bundle, manifest)
        staging.remove()
    return ExportResult(output, added, tuple(size for size in wanted if size in present))


def _existing_bundle(output: Path) -> Bundle | None:
    """The whole bundle at `output`; None where nothing or an empty directory is."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    return Bundle.open(output)


def _facts(context: StageContext) -> UnetFacts:
    try:
        return context.facts
    except UnknownTapLayer as error:
        raise InvalidRequest(
            "the checkpoint has no such tap layer",
            got=error.layer,
            expected=f"self-attention layers or prefixes of {', '.join(error.available)}",
            fix="leave --tap-layers out for the layers of the paper",
        ) from error


def _fingerprint_of_work(checkpoint: str, options: ExportOptions) -> str:
    """Half-finished work may be continued only by the same code on the same input."""
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
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _run(
    stages: Sequence[Stage], context: StageContext, staging: Staging, progress: Progress
) -> Mapping[str, StageRecord]:
    records = {}
    for index, stage in enumerate(stages):
        announce = progress.begin(stage, index, len(stages))
        record = staging.record_of(stage.name)
        resumed = record is not None
        if record is None:
            result = stage.run(context, announce)
            record = staging.finish(stage.name, result.files, result.graphs)
        progress.end(resumed=resumed)
        records[stage.name] = record
    return records


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


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The figures of the numeric check go into the manifest, and one thread makes them repeat."""
    threads = torch.get_num_threads()
    torch.set_num_threads(CHECK_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
