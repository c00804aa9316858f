"""A whole picture: the runtime beside the PyTorch reference, in seconds and in peak memory.

``python -m fam_bench.whole_run BUNDLE`` makes the same picture with both, each in a process of its
own, in turn. The reference is the literal one: diffusers' modules, FM by FFT, dense attention maps,
the native attention replayed. Seconds are those of a second picture, when everything is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from fam_bench.process_memory import peak_memory_bytes
from fam_runtime.cli.errors import run_cli

RUNTIME, REFERENCE = "fam_runtime, ONNX Runtime", "PyTorch reference"
PROMPT = "a red circle on a white background"
SEED = 0


def make_with_runtime(arguments: argparse.Namespace) -> Callable[[], Any]:
    """Load the runtime; what is returned makes one picture."""
    from fam_runtime import FamPipeline

    pipeline = FamPipeline.from_pretrained(
        arguments.bundle, num_threads=arguments.threads, progress=False
    )
    return lambda: pipeline(
        PROMPT,
        scale=arguments.scale,
        seed=SEED,
        num_inference_steps=arguments.steps,
        native_attention="replay",  # as the reference does
    )


def make_with_reference(arguments: argparse.Namespace) -> Callable[[], Any]:
    """Load the reference; what is returned makes one picture."""
    import torch

    from fam_export.checkpoint import open_checkpoint
    from fam_graph.reference.components import ReferenceComponents
    from fam_graph.reference.pipeline import ReferenceNoise, ReferenceRequest, run_reference
    from fam_runtime.bundle import Bundle

    torch.set_num_threads(arguments.threads)
    manifest = Bundle.open(arguments.bundle, verify="size").manifest
    native = manifest.latent_size(manifest.native)
    target = manifest.latent_size(manifest.target_for_scale(arguments.scale))
    checkpoint = open_checkpoint(arguments.model)
    components = ReferenceComponents.from_pretrained(checkpoint.root, torch_dtype=torch.float32)
    components.pipeline.set_progress_bar_config(disable=True)
    request = ReferenceRequest(
        prompts=[PROMPT],
        native_latent=native,
        target_latent=target,
        num_inference_steps=arguments.steps,
        guidance_scale=manifest.defaults.guidance_scale,
    )
    generator = torch.Generator().manual_seed(SEED)
    noise = ReferenceNoise(
        torch.randn(1, 4, *native, generator=generator),
        torch.randn(1, 4, *target, generator=generator),
    )
    return lambda: run_reference(components, request, noise)


CONTESTANTS = {RUNTIME: make_with_runtime, REFERENCE: make_with_reference}


def measure_here(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of a second picture and peak memory of this process."""
    make = CONTESTANTS[name](arguments)
    make()
    begun = time.perf_counter()
    make()
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak_memory_mb": peak_memory_bytes() / 1e6}


def measure_apart(name: str, argv: Sequence[str]) -> dict[str, float]:
    """:func:`measure_here` in a process of its own."""
    command = [sys.executable, "-m", "fam_bench.whole_run", *argv, "--only", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_bench.whole_run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, help="bundle that is measured")
    parser.add_argument("--model", default="demo", help="its checkpoint (default: the demo)")
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the table."""
    if arguments.only:
        print(json.dumps(measure_here(arguments.only, arguments)))
        return 0
    argv = [str(arguments.bundle), "--model", arguments.model, "--scale", str(arguments.scale)]
    argv += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    rounds = [
        {name: measure_apart(name, argv) for name in CONTESTANTS}
        for _ in tqdm(range(arguments.rounds), desc="rounds")
    ]
    print("| contestant | seconds | ratio to PyTorch | peak MB | ratio to PyTorch |")
    print("|---|---|---|---|---|")
    for name in CONTESTANTS:
        seconds, time_ratio = _median_and_ratio(rounds, name, "seconds")
        memory, memory_ratio = _median_and_ratio(rounds, name, "peak_memory_mb")
        print(f"| {name} | {seconds:.2f} | {time_ratio:.2f} | {memory:.0f} | {memory_ratio:.2f} |")
    return 0


def _median_and_ratio(
    rounds: Sequence[dict[str, dict[str, float]]], name: str, figure: str
) -> tuple[float, float]:
    values = [measured[name][figure] for measured in rounds]
    ratios = [measured[name][figure] / measured[REFERENCE][figure] for measured in rounds]
    return median(values), median(ratios)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
