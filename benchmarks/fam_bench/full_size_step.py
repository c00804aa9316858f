"""One full-size SD 1.5 target step at 2x in ONNX Runtime on the CPU, under a memory limit.

``python -m fam_bench.full_size_step`` exports the step of the real architecture with random weights
to a temporary folder and runs it with several session settings, each in a process of its own whose
address space is limited. It needs some 8 GB of memory and 4 GB of disk.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fam_bench.process_memory import peak_memory_bytes
from fam_runtime.cli.errors import run_cli

GIB = 1 << 30
SETTINGS = {
    "all optimisations, prepacking": ("ORT_ENABLE_ALL", "0"),
    "all optimisations, no prepacking": ("ORT_ENABLE_ALL", "1"),
    "basic optimisations, prepacking": ("ORT_ENABLE_BASIC", "0"),
}
PROBE_SEED = 0
SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def export_step(folder: Path) -> None:
    """Export the target step to `folder` and write its inputs beside it."""
    import onnx_ir as ir
    import torch
    from diffusers import UNet2DConditionModel

    from fam_export.definitions import target_step, unet_facts
    from fam_export.onnx_model import onnx_model_from_definition
    from fam_export.options import ExportOptions
    from fam_export.probe import probe_inputs
    from fam_runtime.bundle import Target

    torch.manual_seed(PROBE_SEED)
    unet = UNet2DConditionModel(**SD15).eval().requires_grad_(False)
    facts = unet_facts(unet, 8, ExportOptions())
    definition = target_step(unet, facts, Target.for_size(1024, 1024), ExportOptions())
    model = onnx_model_from_definition(definition)
    ir.save(model, folder / "step.onnx", external_data="step.bin")
    inputs = probe_inputs(definition, {"B": 1}, seed=PROBE_SEED)
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    np.savez(folder / "inputs.npz", allow_pickle=False, **arrays)


def run_step(folder: Path, level: str, prepacking_off: str, limit_bytes: int, threads: int) -> None:
    """Body of the measuring process: load, run once, print seconds and memory."""
    import onnxruntime as ort

    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_prepacking", prepacking_off)
    begun = time.perf_counter()
    session = ort.InferenceSession(
        folder / "step.onnx", options, providers=["CPUExecutionProvider"]
    )
    loaded = time.perf_counter()
    after_load = peak_memory_bytes()
    with np.load(folder / "inputs.npz") as archive:
        feeds = {item.name: archive[item.name] for item in session.get_inputs()}
    begun_run = time.perf_counter()
    outputs = session.run(None, feeds)
    done = time.perf_counter()
    if not all(np.isfinite(output).all() for output in outputs):
        raise SystemExit("the step gave NaN")
    print(
        f"{loaded - begun:.1f} s | {done - begun_run:.1f} s "
        f"| {after_load / 1e9:.1f} GB | {peak_memory_bytes() / 1e9:.1f} GB"
    )


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_bench.full_size_step", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--limit-gib", type=int, default=12, help="address space of a run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", choices=list(SETTINGS), action="append")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Export once, measure every setting, print the table."""
    code = (
        "import pathlib, sys; from fam_bench.full_size_step import run_step;"
        "f, level, off, limit, threads = sys.argv[1:];"
        "run_step(pathlib.Path(f), level, off, int(limit), int(threads))"
    )
    with tempfile.TemporaryDirectory() as folder:
        export_step(Path(folder))
        print("| session | load | step | peak while loading | peak |\n|---|---|---|---|---|")
        for name in arguments.settings or SETTINGS:
            values = (folder, *SETTINGS[name], arguments.limit_gib * GIB, arguments.threads)
            command = [sys.executable, "-c", code, *(str(value) for value in values)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"| {name} | {done.stdout.strip()} |", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
