"""Full-size checkpoints with random weights, exported by ``fam-export`` and measured from outside.

``python benchmarks/full_size.py --model sdxl --scale 2`` makes the checkpoint, exports it, prints
what the export took, and fails if that is more than the project promises. ``--kill 5`` kills
exports at random moments, ``--formats`` exports the same weights from every form of a checkpoint,
``--step target`` runs a step of the bundle beside PyTorch, ``--backend tensorrt-rtx`` builds the
UNet's engines.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fam_bench.export_limits import DTYPE_BYTES, ExportFigures
from fam_bench.export_run import ExportCommand, ExportRun, run_export
from fam_bench.format_comparison import check_equal, weights_by_format
from fam_bench.full_size_engines import engine_jobs, engine_table, measure_engines, stripped
from fam_bench.full_size_step import StepJob, StepResult, compare_step
from fam_bench.full_size_tables import export_tables, format_table, step_table
from fam_bench.full_size_workplace import Workplace, opened_workplace
from fam_bench.killable import run_killable_cli
from fam_bench.killed_export import check_bundle, export_with_kills
from fam_bench.machine import describe_machine
from fam_bench.random_checkpoint import FORMATS, KINDS, RandomCheckpoint
from fam_export.engine_building import present_gpu
from fam_runtime.backends.tensorrt.architecture import choose_gpu
from fam_runtime.backends.tensorrt.library import import_library
from fam_runtime.bundle import Bundle

LIMITS_BROKEN_STATUS = 1


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="full_size.py", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--model",
        default="sdxl",
        help=f"{', '.join(KINDS)}, or a folder with other configurations; default: %(default)s",
    )
    parser.add_argument("--scale", default="2", help="of the target; default: %(default)s")
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp16")
    parser.add_argument(
        "--format", choices=FORMATS, default="folder-fp16", help="of the checkpoint"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and of moments of kills")
    parser.add_argument("--work", type=Path, help="folder to work in; default: a temporary one")
    parser.add_argument(
        "--keep", action="store_true", help="leave checkpoint and bundle there, for the next run"
    )
    parser.add_argument("--json", type=Path, help="write all figures here as well")
    parser.add_argument(
        "--kill", type=int, default=0, metavar="N", help="kill N exports on the way"
    )
    parser.add_argument(
        "--kill-within",
        type=float,
        metavar="SECONDS",
        help="draw the moments of kills over so long; default: as long as a whole run takes",
    )
    parser.add_argument("--formats", action="store_true", help="compare the forms of a checkpoint")
    parser.add_argument("--step", choices=("native", "target"), help="run a step beside PyTorch")
    parser.add_argument(
        "--packed", action="store_true", help="the step with packed weights, not with mapped ones"
    )
    add_engine_options(parser)
    return parser


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """The options that are about engines."""
    group = parser.add_argument_group("engines")
    group.add_argument("--backend", choices=("tensorrt", "tensorrt-rtx"), help="build its engines")
    group.add_argument("--gpu-arch", metavar="SM", help="for which GPU; default: the one here")
    group.add_argument(
        "--engines",
        choices=("unet", "all"),
        default="unet",
        help="of the step graphs, or all that pictures need; default: %(default)s",
    )
    group.add_argument(
        "--strip-weights", action="store_true", help="try them without their weights as well"
    )
    group.add_argument(
        "--no-preflight", action="store_true", help="build even if memory or disk seem too small"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, one heavy thing at a time."""
    checkpoint = RandomCheckpoint.of(arguments.model, arguments.seed)
    document: dict[str, Any] = {
        "machine": describe_machine(),
        "model": arguments.model,
        "scale": arguments.scale,
        "dtype": arguments.dtype,
        "format": arguments.format,
        "seed": arguments.seed,
    }
    broken: list[str] = []
    with opened_workplace(arguments, checkpoint, say) as workplace:
        if arguments.formats:
            compare_formats(arguments, workplace, document)
        elif export_wanted(arguments, workplace):
            broken = measure_export(arguments, workplace, document)
        if arguments.step is not None:
            measure_step(arguments, workplace, document)
        if arguments.backend is not None:
            build_engines(arguments, workplace, document)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for sentence in broken:
        say(f"too much: {sentence}")
    return LIMITS_BROKEN_STATUS if broken else 0


def export_wanted(arguments: argparse.Namespace, workplace: Workplace) -> bool:
    """Whether to export; a step and engines take the bundle of an earlier run."""
    from_bundle = arguments.step is not None or arguments.backend is not None
    return not from_bundle or arguments.kill > 0 or not workplace.bundle.exists()


def measure_export(
    arguments: argparse.Namespace, workplace: Workplace, document: dict[str, Any]
) -> list[str]:
    """Export, undisturbed and with kills; returns the limits that do not hold.

    Raises:
        ExportError: an export failed, or its bundle is not the same after kills.
    """
    command = export_command(arguments, workplace)
    workplace.remove_bundle()
    done = run_export(command)
    bundle = Bundle.open(command.output)
    figures = figures_of(workplace.checkpoint, arguments.dtype, done, bundle)
    document["export"] = {
        "figures": asdict(figures),
        "seconds": done.seconds,
        "memory": asdict(done.memory),
        "stages": list(done.stages),
        "bundle_hash": bundle.hash,
    }
    label = f"{arguments.model}, {arguments.format}, {arguments.dtype}, {arguments.scale}x"
    print(export_tables(label, figures, done), flush=True)
    if arguments.kill:
        killed = export_with_kills(
            export_command(arguments, workplace, output=workplace.root / "bundle-killed"),
            bundle.hash,
            kills=arguments.kill,
            seconds=arguments.kill_within or done.seconds,
            seed=arguments.seed,
            say=say,
        )
        check_bundle(command.output, bundle.hash)
        document["kills"] = asdict(killed)
        print(f"Killed {arguments.kill} times: bundle {killed.bundle_hash} all the same.")
    return figures.broken_limits()


def figures_of(
    checkpoint: RandomCheckpoint, dtype: str, done: ExportRun, bundle: Bundle
) -> ExportFigures:
    """What the limits are about."""
    files = bundle.manifest.files
    return ExportFigures(
        weights=checkpoint.elements("unet") * DTYPE_BYTES[dtype],
        peak=done.memory.resident,
        graphs=sum(record.bytes for name, record in files.items() if name.startswith("unet/")),
        bundle=sum(record.bytes for record in files.values()),
    )


def compare_formats(
    arguments: argparse.Namespace, workplace: Workplace, document: dict[str, Any]
) -> None:
    """Export from every form, and compare.

    Raises:
        ExportError: an export failed, or the UNet's weights differ.
    """
    hashes = weights_by_format(
        workplace.checkpoint,
        workplace.written,
        export_command(arguments, workplace, model=Path("of each form")),
        keep=arguments.keep,
        say=say,
    )
    document["formats"] = {form: dict(own) for form, own in hashes.items()}
    print(format_table(hashes), flush=True)
    check_equal(hashes)


def measure_step(
    arguments: argparse.Namespace, workplace: Workplace, document: dict[str, Any]
) -> StepResult:
    """Run one step of the bundle beside PyTorch.

    Raises:
        BackendError: a side failed.
    """
    config = workplace.single_file_config if arguments.format == "single-file" else None
    job = StepJob(
        bundle=str(workplace.bundle),
        model=str(workplace.written(arguments.format)),
        config=None if config is None else str(config),
        kind=arguments.step,
        scale=float(arguments.scale),
        folder=str(workplace.root),
    )
    result = compare_step(job, "packed" if arguments.packed else "mapped")
    document["step"] = {"kind": arguments.step, **asdict(result)}
    print(step_table(arguments.step, result), flush=True)
    return result


def build_engines(
    arguments: argparse.Namespace, workplace: Workplace, document: dict[str, Any]
) -> None:
    """Build engines of the bundle; what cannot be built is in the table with its reason.

    Raises:
        BackendError: the library is missing, or does not build for that GPU.
    """
    library = import_library(arguments.backend)
    gpu = choose_gpu(library, arguments.gpu_arch, present_gpu())
    bundle = Bundle.open(workplace.bundle, verify="size")
    cache = workplace.root / "engines"
    jobs = [
        replace(job, check_resources=not arguments.no_preflight)
        for job in engine_jobs(bundle, arguments.engines, library.name, gpu, cache)
    ]
    if arguments.strip_weights:
        jobs += stripped(jobs)
    figures = measure_engines(bundle, jobs, say)
    document["engines"] = [own.as_dict() for own in figures]
    print(engine_table(figures), flush=True)


def export_command(
    arguments: argparse.Namespace,
    workplace: Workplace,
    *,
    output: Path | None = None,
    model: Path | None = None,
) -> ExportCommand:
    """The export that the command line describes."""
    single = arguments.format == "single-file" or arguments.formats
    return ExportCommand(
        model=model or workplace.written(arguments.format),
        output=output or workplace.bundle,
        scale=arguments.scale,
        dtype=arguments.dtype,
        config=workplace.single_file_config if single else None,
    )


def say(text: str) -> None:
    """Tell on standard error what goes on; standard output is for the tables."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_killable_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
