"""Options about TensorRT engines, for every command that may build them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.registry import ENGINE_BACKENDS
from fam_runtime.cli.sizes import bytes_from_text
from fam_runtime.errors import FamError, InvalidRequest

if TYPE_CHECKING:
    from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings

_VALUES = {
    "cache_dir": "--cache-dir",
    "batch": "--batch",
    "workspace": "--workspace",
    "optimization_level": "--optimization-level",
}
"""Options with a value: names of parsed arguments, and on the command line."""


def add_engine_options(group: argparse._ArgumentGroup) -> None:
    """Add the options; :func:`build_settings_from` reads them."""
    group.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where engines are kept; default: $FAM_CACHE_DIR, or fam-diffusion/engines in the "
        "user's cache folder",
    )
    group.add_argument(
        "--batch",
        type=_batch_range,
        metavar="MIN[:BEST]:MAX",
        help="pictures that an engine takes at once; default: 1, with static shapes",
    )
    group.add_argument(
        "--workspace",
        type=bytes_from_text,
        metavar="SIZE",
        help="cap on a kernel's scratch memory on the GPU, such as 2G; default: none",
    )
    group.add_argument(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        help="float32 products on tensor cores, with 10 bits of mantissa; default: in fp16 and "
        "bf16 bundles, for their fp32 parts (the VAE)",
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        metavar="0-5",
        help="how long TensorRT looks for faster kernels; default: its own (3)",
    )
    group.add_argument(
        "--strip-weights",
        action="store_true",
        help="leave weights out of the engines and fill them from the bundle when they are "
        "loaded, so that targets share one set on the disk; without a GPU, tensorrt-rtx cannot",
    )


def build_settings_from(arguments: argparse.Namespace) -> BuildSettings:
    """The settings in parsed arguments.

    Raises:
        InvalidRequest: a value cannot be.
    """
    from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings

    return BuildSettings(
        BatchRange() if arguments.batch is None else arguments.batch,
        arguments.tf32,
        arguments.workspace,
        arguments.optimization_level,
        arguments.strip_weights,
    )


def engine_backend_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keywords of a TensorRT backend; `quiet` and `no_preflight` are the command's own."""
    return {
        "settings": build_settings_from(arguments),
        "cache_dir": arguments.cache_dir,
        "build_progress": not arguments.quiet,
        "check_resources": not arguments.no_preflight,
    }


def given_engine_options(arguments: argparse.Namespace) -> str:
    """The engine options of a command line, for one of `fam-generate`; empty without any.

    Raises:
        InvalidRequest: there are some, and `--backend` is not one that builds engines.
    """
    architecture = getattr(arguments, "gpu_arch", None)
    words = [] if architecture is None else ["--gpu-arch", shlex.quote(architecture)]
    own = len(words)
    for name, text in _VALUES.items():
        if (value := getattr(arguments, name)) is not None:
            words += [text, shlex.quote(str(value))]
    if arguments.tf32 is not None:
        words.append("--tf32" if arguments.tf32 else "--no-tf32")
    if arguments.strip_weights:
        words.append("--strip-weights")
    if words and arguments.backend not in ENGINE_BACKENDS:
        raise InvalidRequest(
            "these options are about engines",
            got=" ".join(words),
            expected=f"--backend {' or '.join(ENGINE_BACKENDS)}",
            fix="add it, or leave them out",
        )
    return " ".join(words[own:])


def _batch_range(text: str) -> BatchRange:
    from fam_runtime.backends.tensorrt.settings import batch_range_from_text

    return _as_argument(batch_range_from_text, text)


def _as_argument(parse: Callable[[str], BatchRange], text: str) -> BatchRange:
    """What `parse` makes of `text`, with its refusal as argparse wants it.

    Raises:
        argparse.ArgumentTypeError: `parse` refuses.
    """
    try:
        return parse(text)
    except FamError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
