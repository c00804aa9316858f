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
from fam_export.exporter import ExportResult, export, options_for
from fam_export.options import ExportOptions
from fam_export.precision import DTYPES, KEPT_IN_FP32
from fam_export.progress import NoProgress, ProgressBars
from fam_runtime.bundle import write_atomically
from fam_runtime.cli.errors import run_cli
from fam_runtime.errors import storage_error_from

DEFAULT_SCALE = "2"

DESCRIPTION = """\
Turn a Stable Diffusion checkpoint into a bundle: inference graphs that generate pictures at
multiples of the trained resolution with FAM Diffusion, for the runtime, which needs no PyTorch.
Every graph is compared with its PyTorch module before the bundle appears. A run that was killed is
continued by running the same command again; a scale given later is added to the bundle. What the
export needs is said, and checked, before a weight is read.
"""

EXAMPLES = """\
examples:
  fam-export --scale 2                              the demo checkpoint, to engines/demo
  fam-export --model ./sd15 --scale 2 --scale 3     a diffusers folder, two targets
  fam-export --model sdxl.safetensors --dtype fp16  a single file, in half precision
  fam-export --model org/name --lora style.safetensors:0.8
                                                    from a hub or its cache, with a LoRA at 0.8
  fam-export --model ./sdxl --size 1536x1024        height x width in pixels
  fam-export --scale 4                              adds 4x to engines/demo
"""


def argument_parser() -> argparse.ArgumentParser:
    """The options of ``fam-export``."""
    parser = argparse.ArgumentParser(
        prog="fam-export",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_checkpoint_options(parser.add_argument_group("checkpoint"))
    _add_bundle_options(parser.add_argument_group("bundle"))
    _add_method_options(parser.add_argument_group("method"))
    parser.add_argument(
        "--no-preflight",
        action="store_true",
        help="try even what the machine seems to have not the memory or the disk for",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write seconds per stage to a JSON file"
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bars")
    return parser


def _add_checkpoint_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        metavar="DIR|FILE|ORG/NAME",
        help="checkpoint: a folder in diffusers' layout, a single .safetensors file in the "
        "original one, or the id of a model on a hub; default: the demo checkpoint",
    )
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="merge a LoRA (kohya, diffusers, peft) into the weights; repeatable; "
        "default strength: 1",
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="DIR|NAME",
        help="for a single file: a folder with its configurations and tokenizers in diffusers' "
        "layout, or sd15, sd21, sd21-base, sdxl; default: found out from the file",
    )


def _add_bundle_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scale",
        action="append",
        default=[],
        metavar="S",
        help="target as a factor of the native size: 2, 1.5, 2x4 (height x width); repeatable; "
        f"default: {DEFAULT_SCALE}, unless --size is given",
    )
    group.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="HEIGHTxWIDTH",
        help="target in pixels; repeatable",
    )
    group.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="DIR",
        help="where the bundle goes; default: engines/NAME, after the checkpoint",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default=ExportOptions().dtype,
        help="precision of the UNet and the text encoders (bf16: for TensorRT only); always in "
        f"fp32: {'; '.join(kept.part for kept in KEPT_IN_FP32)}; default: %(default)s",
    )


def _add_method_options(group: argparse._ArgumentGroup) -> None:
    defaults = ExportOptions()
    group.add_argument(
        "--taps",
        choices=("qk", "maps"),
        default=defaults.tap_form,
        help="form of the native attention: queries and keys, or maps (larger, the same picture); "
        "default: %(default)s",
    )
    group.add_argument(
        "--tap-layers",
        action="append",
        metavar="LAYER",
        help="self-attention layer, or prefix such as up_blocks.0; repeatable; default: the first "
        "up-block with attention, as in the paper",
    )
    group.add_argument(
        "--guidance",
        action=argparse.BooleanOptionalAction,
        help="classifier-free guidance, which doubles the batch; default: for all but distilled "
        "checkpoints (LCM, Turbo, Lightning)",
    )
    group.add_argument(
        "--fm-cutoff",
        choices=("target", "native"),
        default=defaults.cutoff_reference,
        help="size that sets the cut-off frequency of FM; default: %(default)s",
    )
    group.add_argument(
        "--upsample",
        choices=("bicubic", "bilinear", "nearest"),
        default=defaults.upsample_mode,
        help="interpolation between the stages; default: %(default)s",
    )
    group.add_argument(
        "--upsample-space",
        choices=("latent", "pixel"),
        default=defaults.upsample_space,
        help="interpolate latents, or decode, interpolate pixels and encode; default: %(default)s",
    )
    group.add_argument(
        "--size-conditions",
        choices=("stage", "native"),
        default=defaults.size_conditions,
        help="SDXL: the size that the target stage is told; default: its own (%(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks."""
    checkpoint = open_checkpoint(
        arguments.model,
        loras=[lora_from_text(text) for text in arguments.lora],
        config=arguments.config,
        prefer="fp16" if arguments.dtype == "fp16" else "fp32",
    )
    output = arguments.output or Path("engines") / checkpoint.name
    scales = arguments.scale or ([] if arguments.size else [DEFAULT_SCALE])
    for note in checkpoint.notes:
        print(f"fam-export: note: {note}", file=sys.stderr)
    if not arguments.quiet:
        _say_what(checkpoint, output, arguments.dtype)
    begun = time.monotonic()
    result = export(
        checkpoint,
        output,
        scales=scales,
        sizes=arguments.size,
        options=options_from(arguments, guidance=options_for(checkpoint).guidance),
        progress=NoProgress() if arguments.quiet else ProgressBars(),
        check_resources=not arguments.no_preflight,
    )
    seconds = time.monotonic() - begun
    if not arguments.quiet:
        _say_result(result, seconds)
    if arguments.report is not None:
        _write_report(arguments.report, result, seconds)
    return 0


def options_from(arguments: argparse.Namespace, *, guidance: bool = True) -> ExportOptions:
    """The export options in parsed arguments; `guidance` is what is done if they do not say."""
    return ExportOptions(
        dtype=arguments.dtype,
        tap_form=arguments.taps,
        tap_layers=tuple(arguments.tap_layers) if arguments.tap_layers else None,
        guidance=guidance if arguments.guidance is None else arguments.guidance,
        cutoff_reference=arguments.fm_cutoff,
        upsample_space=arguments.upsample_space,
        upsample_mode=arguments.upsample,
        size_conditions=arguments.size_conditions,
    )


def _say_what(checkpoint: Checkpoint, output: Path, dtype: str) -> None:
    if checkpoint.source == DEMO:
        print("No --model given: exporting the small demo checkpoint that ships with fam-export.")
    print(f"{checkpoint.name} ({checkpoint.describe()}) -> {output}, {dtype}", flush=True)
    if dtype != "fp32":
        for kept in KEPT_IN_FP32:
            print(f"  fp32: {kept.part} ({kept.why})")


def _say_result(result: ExportResult, seconds: float) -> None:
    size = sum(f.stat().st_size for f in result.bundle.rglob("*") if f.is_file()) / 1e6
    for target in result.present:
        print(f"{target} was there already")
    for target in result.added:
        print(f"{target} added")
    print(f"{result.bundle}: {size:.1f} MB, {seconds:.0f} s")
    if result.added:
        target = result.added[0]
        print(f'now: fam-generate {result.bundle} "a red circle" --size {target}')


def _write_report(file: Path, result: ExportResult, seconds: float) -> None:
    stages = [asdict(stage) for stage in result.stages]
    document = {"seconds": seconds, "stages": stages}
    try:
        write_atomically(file, (json.dumps(document, indent=1) + "\n").encode())
    except OSError as error:
        raise storage_error_from(error, file) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``fam-export``; returns the exit status."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
