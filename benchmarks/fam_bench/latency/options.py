"""The options of `fam-bench`."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
from pathlib import Path
from typing import Any

from fam_bench.latency.contestants import BY_NAME, EVERY_KIND
from fam_bench.latency.plan import GROUPS
from fam_bench.latency.results.compare import DEFAULT_TOLERANCE
from fam_bench.latency.results.document import REPORT, RESULTS
from fam_bench.latency.results.protocol import PAPER_STEPS
from fam_runtime.errors import BackendError, InvalidRequest

DESCRIPTION = """How fast is it: the runtime beside PyTorch, in time, memory and fidelity.

Every contestant does the same work on the same inputs, in a process of its own; they are timed in
turn, and what cannot run here is named with its reason. The results go to a folder, as tables, as
JSON and as plots."""

DEFAULT_STEPS, DEFAULT_ROUNDS = 10, 11
SLOWABLE = [
    contestant.name
    for contestant in BY_NAME.values()
    if contestant.way in ("runtime", "torch", "openvino") and "cpu" in contestant.devices
]
"""Contestants whose graphs can be made to wait."""

EXPORTING_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "safetensors")


def argument_parser() -> argparse.ArgumentParser:
    """The options of `fam-bench`."""
    parser = argparse.ArgumentParser(
        prog="fam-bench",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  fam-bench engines/demo                                  everything, eight minutes on two cores
  fam-bench engines/demo --only steps --contestants torch-eager,onnxruntime-cpu
  fam-bench engines/sdxl --model ./sdxl --paper-protocol  the paper's Table 1 on this machine
  fam-bench --compare before/results.json after/results.json""",
    )
    parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="what is measured")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help=f"folder for {RESULTS}, {REPORT} and plots (default: fam-bench-NAME)",
    )
    _add_what(parser.add_argument_group("what is measured"))
    _add_how(parser.add_argument_group("how it is measured"))
    comparing = parser.add_argument_group("comparing")
    comparing.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("BEFORE", "AFTER"),
        help=f"compare two {RESULTS}; the exit status is 1 if something became worse",
    )
    comparing.add_argument(
        "--tolerance",
        type=_share,
        default=DEFAULT_TOLERANCE,
        metavar="SHARE",
        help="change of a time that is no news, as a share (default: %(default)s)",
    )
    comparing.add_argument("--all", action="store_true", help="show what did not change, too")
    return parser


def _add_what(group: Any) -> None:
    group.add_argument(
        "--scale",
        type=_above_zero,
        action="append",
        metavar="FACTOR",
        help="default: all there are",
    )
    group.add_argument(
        "--contestants",
        metavar="NAME[,NAME...]",
        help=f"of {', '.join(BY_NAME)}; default: all that suit the bundle and the machine",
    )
    group.add_argument(
        "--only",
        choices=(*GROUPS, *EVERY_KIND),
        action="append",
        metavar="WHAT",
        help=f"{' or '.join(GROUPS)} (default: both), or some of them, where all are too large to "
        f"lie side by side: {', '.join(EVERY_KIND)}; can be given repeatedly",
    )
    group.add_argument("--model", help="checkpoint of BUNDLE, for PyTorch (the demo's is known)")
    group.add_argument(
        "--paper-protocol",
        action="store_true",
        help=f"pictures with {PAPER_STEPS} steps, by direct inference too: the paper's Table 1",
    )
    group.add_argument(
        "--full-size",
        metavar="MODEL",
        help="in place of BUNDLE: make one with random weights first (sdxl, sd15, sd21)",
    )
    group.add_argument("--dtype", choices=("fp32", "fp16"), default="fp16", help="of that bundle")
    group.add_argument("--work", type=Path, help="keep that bundle, and engines, in this folder")


def _add_how(group: Any) -> None:
    group.add_argument(
        "--steps",
        type=_count,
        help=f"of a picture's stages (default: {DEFAULT_STEPS}; the paper: {PAPER_STEPS})",
    )
    group.add_argument(
        "--rounds", type=_count, default=DEFAULT_ROUNDS, help="turns of each (default: %(default)s)"
    )
    group.add_argument("--threads", type=_count, help="on the CPU; default: one per core")
    group.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU")
    group.add_argument(
        "--time-budget", type=_above_zero, metavar="SECONDS", help="then begin nothing new"
    )
    group.add_argument(
        "--unit-timeout",
        type=_above_zero,
        default=1800.0,
        metavar="SECONDS",
        help="for one answer of a contestant (default: %(default)g)",
    )
    group.add_argument(
        "--plant-slowdown",
        type=_slowdown,
        action="append",
        default=[],
        metavar="NAME=FACTOR",
        help="make every graph of a contestant on the CPU take FACTOR times as long, to see that "
        "--compare notices",
    )


def steps_of(arguments: argparse.Namespace) -> int:
    """Of a picture's stages."""
    usual = PAPER_STEPS if arguments.paper_protocol else DEFAULT_STEPS
    return int(arguments.steps or usual)


def threads_of(arguments: argparse.Namespace) -> int:
    """On the CPU, the same for all: each library has a default of its own."""
    return int(arguments.threads or len(os.sched_getaffinity(0)))


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be.

    Raises:
        InvalidRequest: not exactly one bundle, or a slowdown of nobody.
        BackendError: a bundle cannot be made for want of packages.
    """
    if (arguments.bundle is None) == (arguments.full_size is None):
        raise InvalidRequest(
            "one bundle is measured",
            got=f"bundle {arguments.bundle}, --full-size {arguments.full_size}",
            expected="the folder of a bundle, or --full-size MODEL",
            fix="fam-export makes the demo's bundle in engines/demo",
        )
    missing = [name for name in EXPORTING_PACKAGES if importlib.util.find_spec(name) is None]
    if arguments.full_size is not None and missing:
        raise BackendError(
            "a full-size bundle cannot be made here",
            got=f"without {', '.join(missing)}",
            expected="the packages for exporting",
            fix="pip install fam-diffusion[export], or bring a bundle along",
        )
    for name, _ in arguments.plant_slowdown:
        if name not in SLOWABLE or arguments.device == "cuda":
            raise InvalidRequest(
                "no slowdown can be planted there",
                got=name,
                expected=f"{', '.join(SLOWABLE)}, with --device cpu",
                fix="name a contestant whose graphs run in its own process on the CPU",
            )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no share")
    return number


def _slowdown(text: str) -> tuple[str, float]:
    name, _, factor = text.partition("=")
    number = float(factor)
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{factor} is less than 1")
    return name, number
