"""What a machine's GPU makes of a bundle, in every library that is there.

``python benchmarks/gpu_check.py BUNDLE`` times the native step, the target step and the plain one
(the same UNet and size without FM and AM), and whole pictures, in ONNX Runtime, PyTorch, TensorRT
and TensorRT for RTX, reads their memory, and compares their results. Engines are built before, in
processes of their own. What cannot run here is named with its reason. ``--full-size sdxl`` makes a
full-size bundle with random weights first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fam_bench.gpu_figures import figures_of
from fam_bench.gpu_plan import (
    Circumstances,
    batches,
    contestants_from_text,
    make_plain_steps,
    obstacle,
    uniform_scales,
)
from fam_bench.gpu_rounds import Bench, Budget, Line
from fam_bench.gpu_tables import markdown
from fam_bench.gpu_units import BY_NAME, REFERENCE, Unit, WorkerJob
from fam_bench.gpu_work import uses_tf32
from fam_bench.machine import describe_machine
from fam_bench.nvml import Gpu, present_gpu
from fam_runtime.bundle import Bundle, write_atomically
from fam_runtime.cli.errors import run_cli
from fam_runtime.errors import BackendError, InvalidRequest

DEMO = "demo"
EXPORTING_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "safetensors")


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="gpu_check.py", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, nargs="?", help="what is measured")
    parser.add_argument("--full-size", metavar="MODEL", help="make the bundle: sdxl, sd15, sd21")
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp16", help="of that bundle")
    parser.add_argument("--work", type=Path, help="keep that bundle, and engines, in this folder")
    parser.add_argument("--model", help="checkpoint of BUNDLE, for PyTorch (the demo's is known)")
    parser.add_argument("--scale", type=float, action="append", help="of a target; default: all")
    parser.add_argument("--steps", type=int, default=10, help="of a picture's stages")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="on the CPU; default: one per core")
    parser.add_argument(
        "--contestants",
        metavar="NAME[,NAME...]",
        help=f"of {', '.join(BY_NAME)}; default: all that suit the bundle",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU")
    parser.add_argument("--json", type=Path, help="write all figures here as well")
    parser.add_argument("--markdown", type=Path, help="write the tables here as well")
    parser.add_argument("--time-budget", type=float, metavar="SECONDS", help="then begin no more")
    parser.add_argument(
        "--unit-timeout", type=float, default=1800.0, metavar="SECONDS", help="for one answer"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measure what can be measured, and print the tables."""
    check_arguments(arguments)
    contestants = contestants_from_text(arguments.contestants)
    budget = Budget(arguments.time_budget)
    with (
        opened_bundle(arguments) as (bundle, model),
        tempfile.TemporaryDirectory(prefix="fam-gpu-check-") as name,
    ):
        folder, scales = Path(name), arguments.scale or uniform_scales(bundle)
        gpu, no_gpu = present_gpu()
        here = Circumstances(
            bundle,
            model,
            arguments.device or ("cpu" if gpu is None else "cuda"),
            no_gpu,
            make_plain_steps(bundle, scales, folder / "plain"),
            frozenset(contestants if arguments.contestants else ()),
        )
        facts = facts_of(arguments, here, gpu)
        bench = make_bench(arguments, here, gpu, folder, budget)
        text = ""
        for lines in measured_so_far(bench, here, batches(contestants, scales)):
            text = written(arguments, {**facts, "figures": figures_of(lines)}, lines)
    print(text)
    return 0


def measured_so_far(
    bench: Bench, here: Circumstances, planned: Sequence[Sequence[Unit]]
) -> Iterator[list[Line]]:
    """A line per unit, after every batch those of all batches until then."""
    lines: list[Line] = []
    for batch in planned:
        obstacles = {unit: obstacle(unit, here) for unit in batch}
        lines += [Line(unit, reason) for unit, reason in obstacles.items() if reason]
        lines += bench.measure([unit for unit, reason in obstacles.items() if not reason])
        yield lines


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be.

    Raises:
        InvalidRequest: numbers below one, or not exactly one bundle.
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
    for option in ("rounds", "steps"):
        if getattr(arguments, option) < 1:
            raise InvalidRequest(
                f"--{option} is too small",
                got=getattr(arguments, option),
                expected="at least 1",
                fix="leave it out",
            )


@contextmanager
def opened_bundle(arguments: argparse.Namespace) -> Iterator[tuple[Bundle, str]]:
    """The bundle, and the checkpoint that PyTorch takes; empty if it is not known.

    Raises:
        FamError: there is no whole bundle, or none can be made.
    """
    if arguments.full_size is None:
        bundle = Bundle.open(arguments.bundle)
        known = DEMO if bundle.manifest.model.name == DEMO else ""
        yield bundle, arguments.model or known
        return
    from fam_bench.gpu_full_size import full_size_bundle

    made = full_size_bundle(
        arguments.full_size,
        arguments.scale or [2.0],
        dtype=arguments.dtype,
        work=arguments.work,
        say=say,
    )
    with made as (folder, checkpoint):
        yield Bundle.open(folder), str(checkpoint)


def make_bench(
    arguments: argparse.Namespace,
    here: Circumstances,
    gpu: Gpu | None,
    folder: Path,
    budget: Budget,
) -> Bench:
    """What measures; the job of its workers gets its unit later."""
    job = WorkerJob(
        contestant=REFERENCE,
        kind="native",
        scale=1.0,
        device=here.device,
        bundle=str(here.bundle.root),
        plain="" if here.no_plain else str(folder / "plain"),
        model=here.model,
        cache=str((arguments.work or folder) / "engines"),
        results="",
        steps=arguments.steps,
        threads=arguments.threads,
    )
    seen = gpu if here.device == "cuda" else None
    return Bench(job, folder, seen, budget, arguments.rounds, arguments.unit_timeout, say)


def facts_of(arguments: argparse.Namespace, here: Circumstances, gpu: Gpu | None) -> dict[str, Any]:
    """The machine, the bundle and the settings, as JSON types."""
    manifest = here.bundle.manifest
    return {
        "machine": describe_machine(),
        "gpu": None if gpu is None else asdict(gpu.facts),
        "no_gpu": here.no_gpu,
        "device": here.device,
        "bundle": {
            "name": Path(arguments.full_size or manifest.model.name).name,
            "hash": here.bundle.hash,
            "family": manifest.model.family,
            "dtype": manifest.model.dtype,
            "tf32": uses_tf32(manifest),
            "native": f"{manifest.native.height}x{manifest.native.width}",
        },
        "steps": arguments.steps,
        "rounds": arguments.rounds,
    }


def written(arguments: argparse.Namespace, document: dict[str, Any], lines: Sequence[Line]) -> str:
    """The tables; also into the files that were asked for, lest a later crash take them along."""
    reasons = [{**asdict(own.unit), "reason": own.reason} for own in lines if not own.measured]
    document["not_run"] = reasons
    text = markdown(document)
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(document, indent=1) + "\n").encode())
    if arguments.markdown:
        write_atomically(arguments.markdown, text.encode())
    return text


def say(text: str) -> None:
    """Tell on standard error what goes on; standard output is for the tables."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(run, argument_parser(), argv)
