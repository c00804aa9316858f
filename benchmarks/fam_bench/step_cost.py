"""What FM and AM add to a target step, and how the runtime compares with PyTorch, as ratios.

``python -m fam_bench.step_cost BUNDLE`` times the contestants in turn within one run, A B C C B A,
so that a machine whose speed drifts favours none, and measures the peak memory of each in a process
of its own. Ratios are to the plain target step: the same UNet exported at the same size without FM,
AM and taps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from fam_bench.process_memory import peak_memory_bytes
from fam_bench.step_definitions import StepDefinitions, step_definitions
from fam_runtime.cli.errors import run_cli

PLAIN = "plain step, ONNX Runtime"
FAM = "FM + AM step, ONNX Runtime"
TORCH = "FM + AM step, PyTorch eager"
CONTESTANTS = (PLAIN, FAM, TORCH)

PROBE_SEED = 0
MEMORY_RUNS = 3

Step = Callable[[], Any]


class Workplace:
    """What the contestants read: one folder with inputs and with the plain graph.

    Args:
        folder: for the files.
        bundle: the bundle that is measured.
        model: its checkpoint, as ``fam-export --model`` takes it.
        scale: of the target.
        threads: per contestant.
    """

    def __init__(self, folder: Path, bundle: Path, model: str, scale: float, threads: int) -> None:
        self.folder, self.bundle, self.model = folder, bundle, model
        self.scale, self.threads = scale, threads

    def prepare(self) -> None:
        """Export the plain step and draw the inputs."""
        import onnx_ir as ir

        from fam_export.onnx_model import traced_graph
        from fam_export.probe import probe_inputs

        steps = self._definitions()
        # Weights beside the graph, as in a bundle, so that the memory compares.
        model = traced_graph(steps.plain).model
        ir.save(model, self.folder / "plain.onnx", external_data="plain.bin")
        inputs = probe_inputs(steps.target, {"B": 1}, seed=PROBE_SEED)
        arrays: dict[str, Any] = {name: value.numpy() for name, value in inputs.items()}
        np.savez(self.folder / "inputs.npz", **arrays)

    def step(self, name: str) -> Step:
        """Load a contestant; what is returned runs one step of one picture with guidance."""
        with np.load(self.folder / "inputs.npz") as archive:
            feeds = dict(archive)
        if name == TORCH:
            return self._torch_step(feeds)
        import onnxruntime as ort

        from fam_runtime.bundle import Bundle

        bundle = Bundle.open(self.bundle, verify="size")
        target = bundle.manifest.target_for_scale(self.scale)
        graph = self.folder / "plain.onnx" if name == PLAIN else bundle.path(target.step)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        # As the runtime does; a spinning pool would also slow down whoever comes next in turn.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        wanted = {item.name: feeds[item.name] for item in session.get_inputs()}
        return lambda: session.run(None, wanted)

    def peak_memory_bytes(self, name: str) -> int:
        """Peak resident memory of a process that loads a contestant and runs it three times."""
        code = (
            "import pathlib, sys; from fam_bench.step_cost import Workplace, child_memory;"
            "f, b, m, s, t, n = sys.argv[1:];"
            "child_memory(Workplace(pathlib.Path(f), pathlib.Path(b), m, float(s), int(t)), n)"
        )
        values = (self.folder, self.bundle, self.model, self.scale, self.threads, name)
        command = [sys.executable, "-c", code, *(str(value) for value in values)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout.split()[-1])

    def _torch_step(self, feeds: Mapping[str, Any]) -> Step:
        import torch

        torch.set_num_threads(self.threads)
        full = self._definitions().target
        inputs = {name: torch.from_numpy(np.asarray(value)) for name, value in feeds.items()}
        return lambda: full.run(inputs)

    def _definitions(self) -> StepDefinitions:
        """The target step, and the plain step at its size."""
        from fam_runtime.bundle import Bundle

        manifest = Bundle.open(self.bundle, verify="size").manifest
        return step_definitions(manifest, self.model, manifest.target_for_scale(self.scale))


def child_memory(workplace: Workplace, name: str) -> None:
    """Body of the process behind :meth:`Workplace.peak_memory_bytes`."""
    step = workplace.step(name)
    for _ in range(MEMORY_RUNS):
        step()
    print(peak_memory_bytes())


def time_in_turn(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds per run of every contestant, after one warm-up each."""
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in tqdm(range(repeats), desc="rounds"):
        # There and back again: whoever comes next meets the threads that the last one left.
        for name, step in list(steps.items())[:: 1 if index % 2 == 0 else -1]:
            begun = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def result_rows(
    seconds: Mapping[str, Sequence[float]], memory: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Per contestant its figures, and their ratios to the plain step, round by round."""
    rows = []
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds[PLAIN], strict=True)]
        rows.append(
            {
                "name": name,
                "median_ms": 1e3 * median(times),
                "min_ms": 1e3 * min(times),
                "time_ratio": median(ratios),
                "peak_memory_mb": memory[name] / 1e6,
                "memory_ratio": memory[name] / memory[PLAIN],
            }
        )
    return rows


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/performance.md."""
    lines = [
        "| contestant | ms, median | ms, least | time / plain | peak MB | memory / plain |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['name']} | {row['median_ms']:.1f} | {row['min_ms']:.1f} "
        f"| {row['time_ratio']:.3f} | {row['peak_memory_mb']:.0f} | {row['memory_ratio']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_bench.step_cost", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, help="bundle that is measured")
    parser.add_argument("--model", default="demo", help="its checkpoint (default: the demo)")
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        workplace = Workplace(
            Path(folder), arguments.bundle, arguments.model, arguments.scale, arguments.threads
        )
        workplace.prepare()
        memory = {name: workplace.peak_memory_bytes(name) for name in CONTESTANTS}
        steps = {name: workplace.step(name) for name in CONTESTANTS}
        rows = result_rows(time_in_turn(steps, arguments.rounds), memory)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(markdown_table(rows))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
