"""The options of ``fam-export``, and what they mean to the exporter."""

from __future__ import annotations

import argparse
from pathlib import Path

from fam_export.engine_building import EngineOptions
from fam_export.options import ExportOptions
from fam_export.precision import DTYPES, KEPT_IN_FP32
from fam_export.verify import DEFAULT_STEPS
from fam_runtime.backends.registry import BACKENDS, DEFAULT_BACKEND
from fam_runtime.cli.engine_options import add_engine_options, build_settings_from

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
  fam-export --scale 2 --backend tensorrt-rtx --gpu-arch sm89
                                                    and engines for a GPU that may be elsewhere
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
    _add_engine_options(parser.add_argument_group("engines"))
    _add_verify_options(parser.add_argument_group("verification"))
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


def _add_engine_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backend",
        choices=list(BACKENDS),
        default=DEFAULT_BACKEND,
        help="library to prepare for: tensorrt and tensorrt-rtx build one engine per graph and "
        "target and keep them in a cache; onnxruntime runs the bundle as it is; "
        "default: %(default)s",
    )
    group.add_argument(
        "--gpu-arch",
        metavar="SM",
        help="compute capability to build for, such as sm89 or 8.9 (tensorrt-rtx: for any GPU, on "
        "a machine without one); default: the GPU of this machine",
    )
    add_engine_options(group)


def _add_verify_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--verify",
        action="store_true",
        help="then compare the backends that run here with PyTorch: every graph, every step of "
        "both stages, and the picture",
    )
    group.add_argument(
        "--verify-steps",
        type=int,
        metavar="N",
        help=f"denoising steps of each stage for --verify; default: {DEFAULT_STEPS}",
    )


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


def engine_options_from(arguments: argparse.Namespace) -> EngineOptions:
    """The engines to build in parsed arguments."""
    return EngineOptions(
        arguments.backend,
        arguments.gpu_arch,
        build_settings_from(arguments),
        arguments.cache_dir,
        check_resources=not arguments.no_preflight,
    )
