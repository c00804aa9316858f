"""The command ``fam-export``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fam_export.checkpoint import DEMO, Checkpoint, lora_from_text, open_checkpoint
from fam_export.cli_options import (
    DEFAULT_SCALE,
    argument_parser,
    engine_options_from,
    options_from,
)
from fam_export.engine_building import BuiltEngine, build_engines, prepare_engines
from fam_export.exporter import ExportResult, export, options_for
from fam_export.precision import KEPT_IN_FP32
from fam_export.progress import NoProgress, ProgressBars
from fam_export.verify import BackendChoice, VerifyReport, every_backend, verify_bundle
from fam_runtime.backends.registry import ENGINE_BACKENDS
from fam_runtime.backends.tensorrt.engines import Engines
from fam_runtime.backends.tensorrt.progress import EngineBars, NoEngineProgress
from fam_runtime.bundle import write_atomically
from fam_runtime.cli.engine_options import (
    engine_backend_options,
    given_engine_options,
)
from fam_runtime.cli.errors import run_cli
from fam_runtime.errors import storage_error_from
from fam_runtime.progress import ProgressBars as StageBars


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks: export, then build engines, then verify."""
    engine_words = given_engine_options(arguments)
    engines = _engines(arguments)
    checkpoint = open_checkpoint(
        arguments.model,
        loras=[lora_from_text(text) for text in arguments.lora],
        config=arguments.config,
        prefer="fp16" if arguments.dtype == "fp16" else "fp32",
    )
    output = arguments.output or Path("engines") / checkpoint.name
    for note in checkpoint.notes:
        print(f"fam-export: note: {note}", file=sys.stderr)
    if not arguments.quiet:
        _say_what(checkpoint, output, arguments.dtype)
    begun = time.monotonic()
    result = export(
        checkpoint,
        output,
        scales=arguments.scale or ([] if arguments.size else [DEFAULT_SCALE]),
        sizes=arguments.size,
        options=options_from(arguments, guidance=options_for(checkpoint).guidance),
        progress=NoProgress() if arguments.quiet else ProgressBars(),
        check_resources=not arguments.no_preflight,
    )
    seconds = time.monotonic() - begun
    built: tuple[BuiltEngine, ...] = ()
    if engines is not None:
        built = build_engines(engines, result.bundle, (*result.present, *result.added))
    if not arguments.quiet:
        _say_result(result, seconds, built, f"--backend {arguments.backend} {engine_words}")
    verified = _verify(arguments, checkpoint, result) if arguments.verify else None
    if arguments.report is not None:
        _write_report(arguments.report, result, seconds, built, verified)
    if verified is not None:
        verified.check()
    return 0


def _engines(arguments: argparse.Namespace) -> Engines | None:
    """The builder of engines, where they are wanted; what it lacks is said before the export."""
    if arguments.backend not in ENGINE_BACKENDS:
        return None
    progress = NoEngineProgress() if arguments.quiet else EngineBars(say_reused=True)
    return prepare_engines(engine_options_from(arguments), progress)


def _verify(
    arguments: argparse.Namespace, checkpoint: Checkpoint, result: ExportResult
) -> VerifyReport:
    """Compare the backend of the command line with PyTorch, and the others that run here."""
    engine_options = engine_backend_options(arguments)
    options = engine_options if arguments.backend in ENGINE_BACKENDS else {}
    others = [choice for choice in every_backend() if choice.name != arguments.backend]
    report = verify_bundle(
        checkpoint,
        result.bundle,
        [BackendChoice(arguments.backend, options), *others],
        targets=(*result.present, *result.added),
        steps=arguments.verify_steps,
        progress=None if arguments.quiet else StageBars(),
    )
    if not arguments.quiet:
        print("\n".join(report.lines()))
    return report


def _say_what(checkpoint: Checkpoint, output: Path, dtype: str) -> None:
    if checkpoint.source == DEMO:
        print("No --model given: exporting the small demo checkpoint that ships with fam-export.")
    print(f"{checkpoint.name} ({checkpoint.describe()}) -> {output}, {dtype}", flush=True)
    if dtype != "fp32":
        for kept in KEPT_IN_FP32:
            print(f"  fp32: {kept.part} ({kept.why})")


def _say_result(
    result: ExportResult, seconds: float, engines: Sequence[BuiltEngine], engine_words: str
) -> None:
    size = sum(f.stat().st_size for f in result.bundle.rglob("*") if f.is_file()) / 1e6
    for target in result.present:
        print(f"{target} was there already")
    for target in result.added:
        print(f"{target} added")
    print(f"{result.bundle}: {size:.1f} MB, {seconds:.0f} s")
    if engines:
        size = sum(engine.bytes for engine in engines) / 1e6
        print(f"{len(engines)} engines: {size:.1f} MB, in {engines[0].file.parent}")
    if result.added or engines:
        target = (*result.added, *result.present)[0]
        command = f'fam-generate {result.bundle} "a red circle" --size {target}'
        print(f"now: {command} {engine_words if engines else ''}".rstrip())


def _write_report(
    file: Path,
    result: ExportResult,
    seconds: float,
    engines: Sequence[BuiltEngine],
    verified: VerifyReport | None,
) -> None:
    document = {
        "seconds": seconds,
        "stages": [asdict(stage) for stage in result.stages],
        "engines": [{**asdict(engine), "file": engine.file.name} for engine in engines],
        "verify": None if verified is None else verified.as_dict(),
    }
    try:
        write_atomically(file, (json.dumps(document, indent=1) + "\n").encode())
    except OSError as error:
        raise storage_error_from(error, file) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``fam-export``; returns the exit status."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
